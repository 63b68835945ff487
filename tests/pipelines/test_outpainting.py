"""Outpainting in steps: every pixel is drawn once, what was there stays, and drafts keep their
contract."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipelines import Dalle, LatentDiffusion
from pipelines.drafts import Draft, draw
from pipelines.editing import Canvas, Edit
from pipelines.outpainting import OutpaintingDraft, outpainting

SEEDS = (1, 2, 3)


def picture(width: int = 48, height: int = 64) -> Image.Image:
    colours = np.random.default_rng(0).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(colours).resize((width, height), Image.Resampling.BICUBIC)


def differ(a: Any, b: Any) -> int:
    return int(np.abs(np.asarray(a, dtype=int) - np.asarray(b, dtype=int)).max())


def test_windows_uncover_everything_and_see_what_is_known() -> None:
    rng = random.Random(0)
    for _ in range(300):
        image = Image.new("RGB", (rng.randint(8, 300), rng.randint(8, 300)))
        margins = [rng.choice([0, rng.randint(1, 200)]) for _ in range(4)]
        if not any(margins):
            continue
        size = rng.choice([(64, 64), (128, 64), (64, 96)])
        steps = outpainting(image, tuple(margins), Edit(1.0), size, rng.choice([1, 4]))  # type: ignore[arg-type]
        unknown = np.asarray(steps.unknown) > 0
        for left, top, right, bottom in steps.windows:
            assert 0 <= left < right <= steps.image.width
            assert 0 <= top < bottom <= steps.image.height
            inside = unknown[top:bottom, left:right]
            assert inside.any()
            assert not inside.all()  # nothing is drawn beside nothing
            inside[:] = False
        assert not unknown.any()


def test_a_shift_of_colours_leaves_no_seam() -> None:
    blue = (165, 212, 244)
    image = Image.new("RGB", (96, 64), blue)
    mask = Image.new("L", (96, 64), 255)
    mask.paste(0, (32, 0, 96, 64))
    drawn = Image.new("RGB", (96, 64), (162, 214, 250))  # as coding moves it
    drawn.paste("red", (4, 20, 20, 40))
    image.paste("black", (50, 10, 70, 30))  # which the model makes of it something else
    made = np.asarray(Canvas(image, mask, (0, 0, 96, 64), level=True).lay(drawn), dtype=int)
    assert np.abs(made[40:, :31] - blue).max() <= 2
    assert np.array_equal(made[:, 32:], np.asarray(image)[:, 32:])
    assert differ(made[30, 10], (255, 0, 0)) <= 16  # what is drawn is still there
    plain = np.asarray(Canvas(image, mask, (0, 0, 96, 64)).lay(drawn), dtype=int)
    assert np.abs(plain[50, 5] - blue).max() == 6


def begun(pipeline: Any, seeds: Any = SEEDS, **settings: Any) -> OutpaintingDraft:
    """40 pixels more on the right, and 8 below, in windows of the model's own size."""
    side = pipeline.spec.defaults["width"]
    steps = outpainting(picture(), (0, 0, 40, 8), Edit(1.0, mask_fill="blur"), (side, side))

    def begin(own: Any, start: Any) -> Draft:
        made: Draft = pipeline.begin("a panda", seeds=own, start=start, **settings)
        return made

    return OutpaintingDraft(steps, begin, seeds)


@pytest.fixture(params=["diffusion", "dalle"])
def pipeline(
    request: pytest.FixtureRequest, tiny_diffusion_folder: Path, tiny_dalle_folder: Path
) -> Any:
    if request.param == "dalle":
        return Dalle.from_pretrained(str(tiny_dalle_folder), device="cpu")
    return LatentDiffusion.from_pretrained(str(tiny_diffusion_folder), device="cpu")


def test_what_was_there_stays_and_halves_go_on(pipeline: Any) -> None:
    settings = {"steps": 2} if isinstance(pipeline, LatentDiffusion) else {}
    with begun(pipeline, **settings) as draft:
        windows = draft.total // draft._inner.total
        assert windows >= 3
        assert draft.preview() is None or draft.done > 0
        while draft.done * 2 < draft.total:
            draft.step()
        shown = draft.preview()
        assert shown is not None
        assert {image.size for image in shown if image is not None} == {(88, 72)}
        first, second = draft.split()
        for half in (first, second):
            while half.done < half.total:
                half.step()
        made = [*first.images(), *second.images()]
        assert tuple(first.pixels().shape) == (1, 3, 72, 88)
    for image in made:
        assert image is not None
        assert image.size == (88, 72)
        assert np.array_equal(np.asarray(image.crop((0, 0, 48, 64))), np.asarray(picture()))
    assert differ(made[0], made[1]) > 0
    alone = [draw(begun(pipeline, (seed,), **settings))[0] for seed in SEEDS]
    assert max(differ(a, b) for a, b in zip(made, alone, strict=True)) <= 2


def test_a_step_that_fails_changes_nothing(
    tiny_diffusion_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = LatentDiffusion.from_pretrained(str(tiny_diffusion_folder), device="cpu")
    with begun(pipeline, steps=2) as draft:
        draft.step(2)  # the first window is done
        before = draft.done
        begin = pipeline.begin

        def short(*_: Any, **__: Any) -> Draft:
            raise MemoryError

        monkeypatch.setattr(pipeline, "begin", short)
        with pytest.raises(MemoryError):
            draft.step()
        assert draft.done == before
        monkeypatch.setattr(pipeline, "begin", begin)
        draft.step(draft.total - draft.done)
        assert [image is not None for image in draft.images()] == [True] * 3
