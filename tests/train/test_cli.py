"""What `salon-train` refuses before anything is made."""

from pathlib import Path

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
    ("prefer", "--learning-rate"),
    ("prefer", "--beta"),
    ("judged", "--prompts"),
    ("judged", "--candidates"),
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


@pytest.mark.parametrize("step", ["judged", "prefer --choices FILE", "previews", "reranker"])
def test_a_model_that_is_not_there(
    step: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    choices = tmp_path / "choices.jsonl"
    choices.write_text('{"prompt": "a fox", "chosen": "a.png", "rejected": "b.png"}\n')
    line = refused([*step.replace("FILE", str(choices)).split(), "-m", "nothing"], capsys)
    assert "no model 'nothing'" in line
