"""Edits of image tokens: which tokens stay, which are drawn, and that pixels stay with them."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pipelines.dalle.draft import DalleDraft
from pipelines.dalle.pipeline import Dalle
from pipelines.drafts import draw
from pipelines.editing import Edit, Start, prepare

SEEDS = (1, 2, 3)


@pytest.fixture(scope="module")
def dalle(tiny_dalle_folder: Path) -> Dalle:
    return Dalle.from_pretrained(tiny_dalle_folder, device="cpu")


def picture() -> Image.Image:
    colours = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    return Image.fromarray(colours)


def mask_of(*box: int) -> Image.Image:
    mask = Image.new("L", (32, 32), 0)
    mask.paste(255, box)
    return mask


def finished(draft: DalleDraft) -> torch.Tensor:
    draft.step(16)
    return draft._open.tokens


@pytest.mark.parametrize(("strength", "drawn"), [(0.25, 4), (0.3, 5), (1.0, 16)])
def test_strength_is_the_share_of_tokens_that_are_drawn(
    dalle: Dalle, strength: float, drawn: int
) -> None:
    before = dalle.tokens(picture()).flatten()
    draft = dalle.begin("a", seeds=SEEDS, start=Start((picture(),), strength))
    is_given = draft._open.is_given
    assert (~is_given).sum(dim=1).tolist() == [drawn] * 3
    tokens = finished(draft)
    assert torch.equal(tokens[is_given], before.expand(3, -1)[is_given])
    if drawn < 16:
        assert not torch.equal(is_given[0], is_given[1]), "each candidate draws others"


def test_tokens_outside_a_mask_are_given_and_their_pixels_equal(dalle: Dalle) -> None:
    before, mask = dalle.tokens(picture()), mask_of(8, 8, 24, 20)
    start = prepare(picture(), mask, Edit(1.0), (32, 32), 8)
    with dalle.begin("a", seeds=SEEDS, start=start) as draft:
        tokens = finished(draft).view(3, 4, 4)
        drawn = torch.zeros(4, 4, dtype=torch.bool)
        drawn[1:3, 1:3] = True
        assert torch.equal(tokens[:, ~drawn], before[~drawn].expand(3, -1))
        outside = np.asarray(mask) == 0
        for image in draft.images():
            assert np.array_equal(np.asarray(image)[outside], np.asarray(picture())[outside])


def test_candidates_of_an_edit_are_the_same_in_a_batch_and_alone(dalle: Dalle) -> None:
    start = Start((picture(),), 0.5)
    together = draw(dalle.begin("a", seeds=SEEDS, start=start))
    for seed, image in zip(SEEDS, together, strict=True):
        [alone] = draw(dalle.begin("a", seeds=[seed], start=start))
        assert np.array_equal(np.asarray(alone), np.asarray(image))
    draft = dalle.begin("a", seeds=SEEDS, start=start)
    draft.step(3)
    first, second = draft.split()
    first.join(second)
    first.step(16)
    for half, image in zip(first.images(), together, strict=True):
        assert np.array_equal(np.asarray(half), np.asarray(image))


def test_a_start_has_the_size_of_the_model(dalle: Dalle) -> None:
    with pytest.raises(ValueError, match="32x32"):
        dalle.begin("a", seeds=[1], start=Start((picture().resize((64, 64)),), 0.5))
