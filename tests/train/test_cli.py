"""What `salon-train` refuses before anything is made."""

import pytest

from train.cli import main

NUMBERS = (
    ("diffusion", "--minutes"),
    ("diffusion", "--steps"),
    ("clip", "--threads"),
    ("statistics", "--number"),
    ("judge", "--number"),
    ("reranker", "--scenes"),
    ("previews", "--prompts"),
    ("previews", "--candidates"),
    ("prefer", "--steps"),
    ("prefer", "--batch-size"),
    ("world atlas", "--side"),
    ("world dalle", "--minutes"),
    ("world dalle", "--steps"),
    ("world dalle", "--batch"),
    ("world dalle", "--rate"),
)


def refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert main(words) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    [line] = shown.err.splitlines()
    assert line.startswith("salon-train: error: ")
    return line


@pytest.mark.parametrize("value", ["-3", "0", "nonsense", "nan", "inf", ""])
@pytest.mark.parametrize(("step", "flag"), NUMBERS)
def test_numbers_that_cannot_be(
    step: str, flag: str, value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    line = refused([*step.split(), flag, value], capsys)
    assert f"argument {flag}: {value!r} is not a " in line
    assert line.endswith(" above 0")


@pytest.mark.parametrize("value", ["-3", "many"])
def test_no_prompts_are_a_number_of_prompts(value: str, capsys: pytest.CaptureFixture[str]) -> None:
    line = refused(["reranker", "--prompts", value], capsys)
    assert line.endswith(f"argument --prompts: {value!r} is not a whole number from 0 on")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["difusion"], "difusion"),
        (["diffusion", "--minuts", "3"], "did you mean --minutes?"),
        (["diffusion", "--minutes", "3", "--steps", "5"], "not allowed with argument --minutes"),
        (["diffusion", "--config", "huge"], "huge"),
        (["prefer"], "--choices"),
        ([], "STEP"),
    ],
)
def test_words_that_make_no_sense(
    words: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert told in refused(words, capsys)
