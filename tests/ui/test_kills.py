"""The server is killed while it draws, again and again: nothing is lost, nothing drawn twice.

Twice in the suite; `make kills` does it fifty times.
"""

import http.client
import json
import os
import random
import signal
import time
from pathlib import Path

import pytest
from PIL import Image
from served_command import served

from gen import metadata

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("tiny_by_default")]

KILLS = max(2, int(os.environ.get("KILLS", "0")) // 2)
PATIENCE = 120
CANDIDATES = 6


def ask(port: int, number: int) -> http.client.HTTPConnection:
    """Ask for one prompt of the campaign, and do not wait for the answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    body = {"prompt": f"fox {number}", "seed": 1000 * number, "steps": 12}
    body |= {"candidates": CANDIDATES, "n": 2, "response_format": "url"}
    path = "/v1/images/generations"
    connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
    return connection


def seeds(number: int) -> set[int]:
    return set(range(1000 * number, 1000 * number + CANDIDATES))


def drawn(folder: Path) -> dict[int, list[Path]]:
    """The images of a folder by their seeds; each of them is opened to its end."""
    found: dict[int, list[Path]] = {}
    for path in [*folder.glob("*.png"), *folder.glob("candidates/*.png")]:
        if path.name != "sheet.png":
            with Image.open(path) as image:
                image.load()
            found.setdefault(metadata.read(path).request.seed, []).append(path)
    return found


@pytest.mark.fault("kill -9")
def test_kills_lose_nothing_and_draw_nothing_twice(tmp_path: Path, free_port: int) -> None:
    folder, chance = tmp_path / "out", random.Random(0)
    in_progress = asked = 0
    length = seconds_of_two_jobs(tmp_path / "calm", free_port)
    while in_progress < KILLS:
        child, told = served(["--port", str(free_port), "-o", str(folder)])
        told.readline()
        waiting = [ask(free_port, asked + each) for each in (1, 2)]  # one draws, one waits
        asked += 2
        time.sleep(chance.uniform(0, length))
        before = drawn_names(folder)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        told.close()
        for connection in waiting:
            connection.close()
        in_progress += bool(journal(folder))
        after = drawn(folder)
        assert before <= after.keys(), "an image that was there is gone"
        assert all(len(paths) == 1 for paths in after.values()), "drawn twice"

    child, told = served(["--port", str(free_port), "-o", str(folder)])
    told.readline()
    kept = {seed: pixels(path) for seed, [path] in drawn(folder).items()}
    for number in range(1, asked + 1):
        with ask(free_port, number).getresponse() as answer:
            assert answer.status == 200
            assert len(json.load(answer)["data"]) == 2
    os.kill(child, signal.SIGTERM)
    os.waitpid(child, 0)
    told.close()
    images = drawn(folder)
    assert images.keys() == set().union(*map(seeds, range(1, asked + 1)))
    assert all(len(paths) == 1 for paths in images.values())
    assert {seed: pixels(images[seed][0]) for seed in kept} == kept
    lines = (folder / "manifest.jsonl").read_text().splitlines()
    saved = [line["seed"] for line in map(json.loads, lines) if line["event"] == "picture"]
    assert sorted(saved) == sorted(images), "an image was drawn twice"
    assert journal(folder) == {}
    print(
        f"server: {asked // 2} kills in up to {length:.1f} s, {in_progress} with jobs in progress, "
        f"{len(images)} images, {len(kept)} of them from before a kill; "
        "0 lost, 0 drawn twice, 0 truncated"
    )


def seconds_of_two_jobs(folder: Path, port: int) -> float:
    """How long a new server takes for them; kills are spread over that."""
    child, told = served(["--port", str(port), "-o", str(folder)])
    told.readline()
    begun = time.monotonic()
    for connection in [ask(port, 1), ask(port, 2)]:
        with connection.getresponse() as answer:
            assert answer.status == 200
    length = time.monotonic() - begun
    os.kill(child, signal.SIGTERM)
    os.waitpid(child, 0)
    told.close()
    return length


def journal(folder: Path) -> dict[str, int]:
    """The jobs that were noted and are not crossed out."""
    path = folder / "queue.json"
    return json.loads(path.read_text()) if path.exists() else {}


def pixels(path: Path) -> bytes:
    with Image.open(path) as image:
        return image.tobytes()


def drawn_names(folder: Path) -> set[int]:
    """The seeds of the images that are there now, by their names, while the server goes on."""
    names = [path.stem for path in folder.glob("candidates/*.png")]
    return {int(name.split("-")[1]) for name in names if name.split("-")[1].isdecimal()}
