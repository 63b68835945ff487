"""Every field of a request: what is accepted, and the line that says what is not."""

import inspect
import json
from typing import get_args, get_type_hints

import pytest

from gen import generate
from gen.errors import InputError
from gen.settings.request import MAX_SEED, SETTINGS, Request, find_setting
from pipelines.settings import settings_of


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("width", "0", "64 to"),
        ("width", "-512", "64 to"),
        ("width", "1e9", "a whole number"),
        ("width", "1000000000", "64 to"),
        ("width", "abc", "a whole number"),
        ("width", "9" * 5000, "a whole number"),
        ("steps", "0", "1 to 1000"),
        ("steps", "1000000", "1 to 1000"),
        ("candidates", "0", "1 to 10000"),
        ("candidates", "1000000", "1 to 10000"),
        ("guidance", "nan", "0 to 100"),
        ("guidance", "inf", "0 to 100"),
        ("guidance", "-1e9", "0 to 100"),
        ("seed", "-2", "-1 to 9223372036854775807"),
        ("seed", str(2**64), "-1 to 9223372036854775807"),
        ("seed", "x", "a whole number"),
        ("sampler", "eular", "dpmpp_2m"),
        ("schedule", "fast", "karras"),
    ],
)
@pytest.mark.fault("sizes", "steps, counts and guidance", "seeds")
def test_a_bad_value_is_refused_with_the_rule(name: str, text: str, said: str) -> None:
    with pytest.raises(InputError, match=name) as caught:
        SETTINGS[name].read(text)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 250


@pytest.mark.parametrize(
    "bad", [{"steps": True}, {"steps": 4.5}, {"steps": "4"}, {"guidance": "3"}, {"prompt": 7}]
)
def test_a_value_of_the_wrong_type_is_refused(bad: dict[str, object]) -> None:
    with pytest.raises(InputError, match=next(iter(bad))):
        Request.from_json({"prompt": "a panda", **bad})


@pytest.mark.parametrize("seed", [0, 1, 2**32, 2**53, MAX_SEED, -1])
@pytest.mark.fault("seeds")
def test_every_seed_survives_json(seed: int) -> None:
    request = Request("a panda", seed=seed, guidance=0)
    values = json.loads(json.dumps(request.to_json()))
    assert isinstance(values["seed"], str) == (seed >= 2**53)
    assert Request.from_json(values) == request


def test_zero_is_a_value_and_none_is_not() -> None:
    request = Request("a panda", seed=0, guidance=0.0)
    filled = request.with_defaults({"seed": 5, "guidance": 3.0, "steps": 20})
    assert (filled.seed, filled.guidance, filled.steps) == (0, 0.0, 20)


@pytest.mark.parametrize(
    ("prompt", "said"),
    [
        ("", "empty"),
        (" \n\t ", "empty"),
        ("a\0panda", "U+0000"),
        ("a\x1b[31mpanda", "U+001B"),
        ("a\x85panda", "U+0085"),
        ("a panda\udce9", "not valid UTF-8"),
        ("a" * 100_000, "100000 characters"),
    ],
)
@pytest.mark.fault("prompts")
def test_a_prompt_that_cannot_be_drawn(prompt: str, said: str) -> None:
    with pytest.raises(InputError) as caught:
        Request(prompt)
    assert said in str(caught.value)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    "prompt", ["熊貓 🐼", "دب", "👩‍🚀", "two\nlines", "a\ttab", "it's 50 % “off”"]
)
@pytest.mark.fault("prompts")
def test_a_prompt_in_any_script(prompt: str) -> None:
    assert Request(prompt).prompt == prompt


def test_more_cannot_be_returned_than_are_made() -> None:
    with pytest.raises(InputError, match="more than the 2 candidates"):
        Request("a panda", candidates=2, top_k=3)


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("cfg_scale", "guidance"),
        ("cfg-scale", "guidance"),
        ("sampler_name", "sampler"),
        ("n_iter", "candidates"),
        ("negative-prompt", "negative_prompt"),
        ("sd_model", "model"),
    ],
)
def test_other_tools_names_are_known(key: str, name: str) -> None:
    assert find_setting(key).name == name


@pytest.mark.parametrize("key", ["output", "outpath_samples", "filename", "__class__", "Prompt"])
@pytest.mark.fault("paths in rows")
def test_a_key_that_is_no_setting_is_refused_with_the_known(key: str) -> None:
    with pytest.raises(InputError, match=r"unknown setting.*negative_prompt"):
        Request.from_json({"prompt": "a panda", key: "../../x"})


@pytest.mark.parametrize("written", ["euler_a", "Euler a", "EULER A"])
def test_a_sampler_goes_by_our_name_or_by_its_common_one(written: str) -> None:
    assert SETTINGS["sampler"].read(written) == "euler_a"


def test_python_takes_the_same_settings_as_every_other_door() -> None:
    [record] = get_args(get_type_hints(generate)["settings"])
    assert ["prompt", *settings_of(record)] == list(SETTINGS)
    assert not set(inspect.signature(generate).parameters) & set(SETTINGS) - {"prompt"}


def test_replacing_checks_what_is_new_and_what_it_goes_with() -> None:
    request = Request("a panda", candidates=4, sampler="ddim", steps=20)
    assert request.replace(steps=20) is request
    assert request.replace(sampler="dpmpp_2m karras") == request.replace(
        sampler="dpmpp_2m", schedule="karras"
    )
    for wrong in ({"top_k": 5}, {"steps": 0}, {"schedule": "none such"}, {"prompt": " "}):
        with pytest.raises(InputError):
            request.replace(**wrong)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="no setting no_such"):
        request.replace(no_such=1)  # type: ignore[call-arg]
    assert request == Request("a panda", candidates=4, sampler="ddim", steps=20)
