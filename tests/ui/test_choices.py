"""POST /v1/choices."""

import json
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from fake_site import FakeSite


def post(site: FakeSite, path: str, body: dict[str, Any]) -> Any:
    request = urllib.request.Request(
        site.url + path, json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


def test_choices_are_noted_in_the_run_folder(fake_site: FakeSite) -> None:
    drawn = {"prompt": "a fox", "n": 1, "candidates": 3, "seed": 5}
    post(fake_site, "/v1/images/generations", drawn)
    answer = post(fake_site, "/v1/choices", {"chosen": 6, "rejected": 7})
    assert answer == {"number": 1, "chosen": 6, "rejected": 7, "heart": None}
    assert post(fake_site, "/v1/choices", {"chosen": "5"})["heart"] is True
    assert post(fake_site, "/v1/choices", {"chosen": 5, "heart": False})["heart"] is False
    lines = Path(fake_site.folder, "manifest.jsonl").read_text().splitlines()
    noted = [each for line in lines if (each := json.loads(line))["event"] == "chosen"]
    assert noted == [
        {"event": "chosen", "number": 1, "seed": 6, "over": 7},
        {"event": "chosen", "number": 1, "seed": 5, "heart": True},
        {"event": "chosen", "number": 1, "seed": 5, "heart": False},
    ]
    for wrong in (
        {"chosen": 99},
        {"chosen": 6, "rejected": 6},
        {"chosen": 6, "number": 9},
        {"chosen": 6, "rejected": 7, "heart": True},
        {"chosen": -5},
        {"rejected": 7},
        {"chosen": 6, "why": "x"},
    ):
        with pytest.raises(urllib.error.HTTPError) as error:
            post(fake_site, "/v1/choices", wrong)
        assert error.value.code == 400, wrong
