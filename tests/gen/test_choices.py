"""Choices of people: noted in the manifest, folded, exported, and what the API takes."""

import json
from pathlib import Path

import pytest
from fake_models import Studio

from gen import InputError, generate
from gen.choices import export_choices
from gen.cli import main
from gen.run_folder.choices import ImageHearted, ImagePreferred
from gen.run_folder.events import Damaged, from_json, to_json
from gen.run_folder.folder import RunFolder
from gen.run_folder.history import History
from rerank.learn.choices import read_choices

EVENTS = (ImageHearted(1, 2**60, True), ImageHearted(1, 7, False), ImagePreferred(2, 7, 8))


@pytest.mark.parametrize("event", EVENTS)
def test_choices_are_read_back(event: ImageHearted | ImagePreferred) -> None:
    line = json.loads(json.dumps(to_json(event)))
    assert from_json(line) == event


def test_an_image_is_not_better_than_itself() -> None:
    assert isinstance(from_json({"event": "chosen", "number": 1, "seed": 7, "over": 7}), Damaged)


def test_what_was_chosen_is_exported_and_can_be_learned_from(
    studio: Studio, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    for prompt in ("a fox", "a cat"):
        generate(prompt, seed=1, candidates=4, top_k=2, outdir=out)
    with RunFolder(out) as folder:
        for event in (
            ImagePreferred(1, 1, 2),
            ImagePreferred(1, 2, 1),  # thought better of
            ImageHearted(2, 3, True),
            ImageHearted(2, 4, True),
            ImageHearted(2, 4, False),
            ImagePreferred(2, 1, 99),  # an image that is not there
        ):
            folder.note_choice(event)
    file = tmp_path / "choices.jsonl"
    assert main(["--choices", str(file), "-o", str(out)]) == 0
    assert "4 choices" in capsys.readouterr().out
    found = read_choices(file)
    assert [(c.prompt, c.weight) for c in found] == [("a fox", 1.0), *[("a cat", 1 / 3)] * 3]
    assert all(c.chosen.is_file() and c.rejected.is_file() for c in found)
    assert found[0].chosen.stem.endswith("2")
    assert {c.chosen.stem[-1] for c in found[1:]} == {"3"}
    generate("a fox", seed=1, candidates=4, top_k=2, outdir=out)  # and the folder still resumes
    history = History(out)
    history.refresh()
    assert history.prompts()[0].choices.hearts == {3}


def test_a_folder_without_choices_says_so(studio: Studio, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no run folder"):
        export_choices(tmp_path / "nowhere", tmp_path / "c.jsonl")
    generate("a fox", seed=1, candidates=2, outdir=tmp_path / "out")
    with pytest.raises(InputError, match="nobody has chosen"):
        export_choices(tmp_path / "out", tmp_path / "c.jsonl")
