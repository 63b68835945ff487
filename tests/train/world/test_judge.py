import random

import pytest
import torch

from train.stickers.trial import blur
from train.world.facts import Told, change, describe, possible_changes
from train.world.judge import find, judge, verdict
from train.world.renderer import render, sprite_pixels
from train.world.scene import Scene, Sprite, draw_scene
from train.world.vocabulary import THINGS


def drawn(few: list[int], number: int = 40) -> tuple[list[Scene], list[Told], torch.Tensor]:
    rng = random.Random(0)
    scenes = [draw_scene(rng, few, held_out=True) for _ in range(number)]
    return scenes, [describe(scene, rng) for scene in scenes], render(scenes)


def test_true_captions_are_right_and_changed_ones_are_not(few: list[int]) -> None:
    rng = random.Random(1)
    _, told, images = drawn(few)
    sights = find(images)
    wrong = [v.reason for v in map(verdict, sights, told) if not v.right]
    assert wrong == []
    for sight, each in zip(sights, told, strict=True):
        for fact in possible_changes(each):
            if fact != "style":  # some drawings are the same in two sets
                assert not verdict(sight, change(each, rng, fact)).right, (fact, each)


def test_small_blurs_are_forgiven_and_large_ones_are_not(few: list[int]) -> None:
    _, told, images = drawn(few)
    slight = sum(v.right for v in judge(blur(images, 0.7), told))
    strong = sum(v.right for v in judge(blur(images, 3.0), told))
    assert slight >= 0.95 * len(told)
    assert strong <= 0.05 * len(told)


def test_something_unknown_is_no_scene(few: list[int]) -> None:
    scene = Scene("single", "flat", "white", (Sprite(few[0], 0, 0, 4),))
    images = render([scene])
    images[:, :, 44:60:2, 44:60] = 0  # stripes
    [sight] = find(images)
    assert sight.stray
    told = Told((THINGS[few[0]].name,), (few[0],))
    assert verdict(sight, told).reason == "something in it is no known drawing"
    noise = torch.randint(256, (1, 3, 64, 64), generator=torch.Generator().manual_seed(0))
    [nothing] = judge(noise.to(torch.uint8), [told])
    assert not nothing.right


def test_larger_images_are_averaged_down(few: list[int]) -> None:
    _, told, images = drawn(few, 4)
    large = images.repeat_interleave(4, 2).repeat_interleave(4, 3)
    assert all(each.right for each in judge(large, told))


def test_images_of_another_shape_are_an_error() -> None:
    with pytest.raises(ValueError, match="multiple of 64"):
        find(torch.zeros(1, 3, 50, 50, dtype=torch.uint8))
    with pytest.raises(ValueError, match="uint8"):
        find(torch.zeros(1, 3, 64, 64))


def test_sprites_are_averaged_with_alpha(few: list[int]) -> None:
    pixels = sprite_pixels(few[0], "flat", 16)
    assert pixels.shape == (16, 16, 4)
    assert (pixels[..., :3] <= pixels[..., 3:]).all()
