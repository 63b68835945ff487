import random

import pytest
import torch

from train.stickers.atlas import sprites
from train.stickers.renderer import render
from train.stickers.scene import Placed, Scene, draw_scene
from train.stickers.vocabulary import (
    COLOUR_BY_NAME,
    GROUND_BY_NAME,
    GROUNDS,
    THING_INDEX,
    Thing,
)

pytestmark = pytest.mark.slow

SQUARE, CIRCLE = Thing("square", "blue"), Thing("circle", "red")


def rgb(values: tuple[int, int, int]) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.uint8)


@pytest.mark.parametrize("ground", [ground.name for ground in GROUNDS])
def test_known_pixels(ground: str) -> None:
    picture = render([Scene("x", (Placed(SQUARE, 0, 0, 5),), ground)])[0]
    assert picture.shape == (3, 64, 64)
    assert torch.equal(picture[:, 20, 20], rgb(COLOUR_BY_NAME["blue"].rgb))
    assert torch.equal(picture[:, 63, 63], rgb(GROUND_BY_NAME[ground].rgb))
    assert torch.equal(picture[:, 0, 0], rgb(GROUND_BY_NAME[ground].rgb))  # the margin


def test_composition_is_alpha_over() -> None:
    """By a second way: one sprite, pixel by pixel."""
    thing = Thing("umbrella")
    picture = render([Scene("x", (Placed(thing, 2, 4, 3),), "pink")])[0]
    tile = sprites(24)[THING_INDEX[thing]]
    ground = torch.tensor(GROUND_BY_NAME["pink"].rgb).view(3, 1, 1) / 255
    expected = torch.zeros(3, 24, 24)
    for row in range(24):
        for column in range(24):
            alpha = tile[3, row, column]
            expected[:, row, column] = tile[:3, row, column] + (1 - alpha) * ground[:, 0, 0]
    found = picture[:, 32:56, 16:40].float() / 255
    assert (found - expected).abs().max() <= 0.5 / 255 + 1e-6


def test_edges_are_antialiased() -> None:
    picture = render([Scene("x", (Placed(CIRCLE, 0, 0, 5),), "white")])[0, 1, :40, :40]
    inside, outside = COLOUR_BY_NAME["red"].rgb[1], 255
    between = ((picture > inside + 10) & (picture < outside - 10)).sum().item()
    assert 40 < between < 200  # about once around: the circle has a circumference of 111 px
    assert (picture == inside).sum() > 800


def test_a_circle_covers_its_area() -> None:
    alpha = sprites(40)[THING_INDEX[CIRCLE], 3]
    radius = 38 / 2 - 38 / 24
    assert alpha.sum().item() == pytest.approx(torch.pi * radius**2, rel=0.01)


def test_sprites_stand_where_the_scene_says() -> None:
    one = render([Scene("x", (Placed(Thing("fox"), 0, 0, 2),), "white")])[0]
    other = render([Scene("x", (Placed(Thing("fox"), 5, 3, 2),), "white")])[0]
    assert torch.equal(one[:, :16, :16], other[:, 24:40, 40:56])
    other[:, 24:40, 40:56] = 255
    assert (other == 255).all()


def test_a_batch_is_its_pictures() -> None:
    rng = random.Random(0)
    scenes = [draw_scene(rng, snap=index % 2 == 0) for index in range(30)]
    together = render(scenes)
    assert together.dtype == torch.uint8
    assert torch.equal(together, render(scenes))
    assert torch.equal(together, torch.cat([render([scene]) for scene in scenes]))


def test_larger_pictures_have_the_same_layout() -> None:
    scene = Scene("x", (Placed(CIRCLE, 2, 1, 3),), "beige")
    large = render([scene], size=128).float()
    small = render([scene]).float()
    assert large.shape == (1, 3, 128, 128)
    shrunk = torch.nn.functional.avg_pool2d(large, 2)
    assert (shrunk - small).abs().mean() < 3
