"""The safety checker: stock's flags, strict loading, and no picture where it objects."""

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from pipelines.checkpoints.errors import WeightsError
from pipelines.diffusion.draft import FLAGGED
from pipelines.diffusion.pipeline import LatentDiffusion
from pipelines.diffusion.safety import SafetyChecker

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")
CONFIG = Path("safety_checker") / "config.json"
WEIGHTS = Path("safety_checker") / "model.safetensors"
PROCESSOR = Path("feature_extractor") / "preprocessor_config.json"


class Scripted:
    """A checker that says what it is told to, picture by picture."""

    def __init__(self, *answers: bool) -> None:
        self.answers = iter(answers)

    def flags(self, pictures: Iterable[torch.Tensor]) -> list[bool]:
        return [next(self.answers) for _ in pictures]


def stock_flags(folder: Path, pictures: torch.Tensor) -> list[bool]:
    from diffusers import StableDiffusionPipeline

    stock = StableDiffusionPipeline.from_pretrained(folder)
    return list(stock.run_safety_checker(pictures.float() / 127.5 - 1, "cpu", torch.float32)[1])


def test_flags_are_those_of_the_stock_pipeline(make_checked_folder: Callable[..., Path]) -> None:
    generator = torch.Generator().manual_seed(1)
    tiles = (torch.rand(24, 3, 4, 4, generator=generator) * 255).to(torch.uint8)
    pictures = tiles.repeat_interleave(16, dim=2).repeat_interleave(20, dim=3)  # (24, 3, 64, 80)
    flagged = []
    for special_threshold in (2.0, -2.0):  # no special care, and care that lowers the others
        folder = make_checked_folder(0.24, special_threshold)
        flags = SafetyChecker.from_pretrained(folder, CPU).flags(pictures)
        assert flags == stock_flags(folder, pictures)
        flagged.append(sum(flags))
    assert 0 < flagged[0] < flagged[1] < len(pictures)


def test_a_picture_that_is_not_flagged_is_the_same_as_unchecked(
    make_checked_folder: Callable[..., Path], pipeline: LatentDiffusion
) -> None:
    checked = LatentDiffusion.from_pretrained(make_checked_folder(2.0), "cpu", safety=True)
    assert checked.checker is not None
    assert pipeline.checker is None
    ours, theirs = (p.begin("a panda", seeds=[1, 2], steps=1) for p in (checked, pipeline))
    ours.step()
    theirs.step()
    assert torch.equal(ours.pixels(), theirs.pixels())
    assert ours.failed == {}


def test_a_flagged_candidate_has_no_picture_and_a_reason(
    pipeline: LatentDiffusion, monkeypatch: pytest.MonkeyPatch
) -> None:
    draft = pipeline.begin("a panda", seeds=[7, 8, 9], steps=2)
    draft.step(2)
    monkeypatch.setattr(pipeline, "checker", Scripted(False, True, False))  # each is asked once
    assert [image is None for image in draft.images()] == [False, True, False]
    assert draft.failed == {8: FLAGGED}
    assert draft.pixels().shape == (2, 3, 64, 64)
    draft.keep([1])
    assert draft.images() == [None]
    assert draft.failed == {8: FLAGGED}


def test_exact_previews_are_checked_and_do_not_settle_the_picture(
    pipeline: LatentDiffusion, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = (True, False, True, False, True)
    monkeypatch.setattr(pipeline, "checker", Scripted(*answers))
    draft = pipeline.begin("a panda", seeds=[7, 8], steps=2)
    draft.step()
    assert None not in (draft.preview() or [None])  # too rough to be checked
    assert [image is None for image in draft.preview(exact=True) or []] == [True, False]
    assert draft.failed == {7: FLAGGED}
    assert draft.preview([1], exact=True) == [None]
    assert draft.failed == {7: FLAGGED, 8: FLAGGED}
    draft.step()
    assert draft.failed == {}
    assert [image is None for image in draft.images()] == [False, True]
    assert draft.failed == {8: FLAGGED}


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def without_a_key(folder: Path) -> None:
    state = load_file(folder / WEIGHTS)
    del state["special_care_embeds"]
    save_file(state, folder / WEIGHTS)


def as_a_pickle(folder: Path) -> None:
    (folder / WEIGHTS).rename(folder / "safety_checker" / "pytorch_model.bin")


def with_a_width_that_is_a_word(folder: Path) -> None:
    vision = json.loads((folder / CONFIG).read_text())["vision_config"]
    edit(folder / CONFIG, vision_config={**vision, "hidden_size": "wide"})


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (without_a_key, "missing keys: special_care_embeds"),
        (as_a_pickle, "is a pickle"),
        (with_a_width_that_is_a_word, "builds no network"),
        (lambda folder: (folder / PROCESSOR).unlink(), "preprocessor_config.json is missing"),
        (lambda folder: edit(folder / PROCESSOR, crop_size=24), "24x24 pixels, the safety"),
        (lambda folder: edit(folder / PROCESSOR, image_mean=[0.5]), "cannot be followed"),
        (lambda folder: edit(folder / CONFIG, auto_map={"a": "b"}), "would run code"),
    ],
)
def test_a_damaged_checker_is_refused_in_one_line(
    damage: Callable[[Path], None], reason: str, make_checked_folder: Callable[..., Path]
) -> None:
    folder = make_checked_folder()
    damage(folder)
    with pytest.raises(WeightsError, match=reason) as error:
        SafetyChecker.from_pretrained(folder, CPU)
    assert "\n" not in str(error.value)


def test_a_folder_without_a_checker_says_so(tiny_diffusion_folder: Path) -> None:
    with pytest.raises(WeightsError, match="has no safety_checker/") as error:
        LatentDiffusion.from_pretrained(tiny_diffusion_folder, "cpu", safety=True)
    assert "\n" not in str(error.value)
