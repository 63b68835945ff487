"""Scores by nearness to images: their ends, the arc between them, and what stays as it is."""

import pytest
import torch
from PIL import Image

from rerank import Reranker
from rerank.likeness import Likeness, like

IMAGES = [Image.linear_gradient("L").rotate(90 * turn).convert("RGB") for turn in range(3)]


@pytest.fixture(scope="module")
def reranker() -> Reranker:
    return Reranker.load("stickers-clip", "cpu")


def test_a_mix_goes_from_one_end_to_the_other(reranker: Reranker) -> None:
    alone = [Likeness(reranker, [image]).score("", IMAGES) for image in IMAGES[:2]]
    assert alone[0][0] == pytest.approx(1)
    ends = [Likeness(reranker, IMAGES[:2], at).score("", IMAGES) for at in (0.0, 1.0)]
    assert torch.allclose(torch.tensor(ends), torch.tensor(alone), atol=1e-6)
    angle = float(torch.tensor(alone[0][1]).acos())
    for at in (0.25, 0.5):
        near, far, _ = Likeness(reranker, IMAGES[:2], at).score("", IMAGES)
        assert float(torch.tensor(near).acos()) == pytest.approx(at * angle, abs=1e-3)
        assert float(torch.tensor(far).acos()) == pytest.approx((1 - at) * angle, abs=1e-3)
    twins = Likeness(reranker, [IMAGES[0], IMAGES[0]], 0.5).score("", IMAGES)
    assert twins == pytest.approx(alone[0], abs=1e-4)


def test_what_is_no_reranker_stays(reranker: Reranker) -> None:
    assert isinstance(like(reranker, IMAGES[:1]), Likeness)
    own = object()
    assert like(own, IMAGES[:1]) is own
