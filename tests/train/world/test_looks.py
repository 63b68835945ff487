"""What the text encoder is taught of how things look."""

import torch

from train.world.looks import NUMBERS, looks
from train.world.vocabulary import NUMBER, STYLES, THINGS


def test_looks_tell_drawings_apart_and_likenesses(few: list[int]) -> None:
    table = looks()
    assert table.shape == (1 + len(STYLES), len(THINGS) + 1, NUMBERS)
    drawn = table[1:, few]  # (styles, things, NUMBERS)
    near = torch.cdist(drawn[0], drawn[0]) + torch.eye(len(few)) * 1e9
    assert near.min() > 0.1
    # Two circles of near colours are more alike than a circle and a triangle of one colour.
    flat = {
        name: table[2, NUMBER[name]] for name in ("red circle", "orange circle", "red triangle")
    }
    like = torch.dist(flat["red circle"], flat["orange circle"])
    assert like < torch.dist(flat["red circle"], flat["red triangle"])


def test_an_open_style_is_the_mean_and_nothing_looks_like_nothing(few: list[int]) -> None:
    table = looks()
    assert torch.allclose(table[0, few], table[1:, few].mean(0), atol=1e-5)
    assert not table[:, -1].any()
    shape = NUMBER["blue star"]  # the same in every style
    assert torch.allclose(table[1:, shape], table[:1, shape].expand(len(STYLES), -1), atol=1e-5)
