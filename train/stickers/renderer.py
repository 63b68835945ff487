"""Scenes as images: a batch of tensors composed by alpha-over, on the CPU or a GPU."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import torch

from train.stickers.atlas import sprites
from train.stickers.scene import CELLS, Scene
from train.stickers.vocabulary import GROUND_BY_NAME, THING_INDEX

SIZE = 64  # px a side of an image of the `small` world


def render(
    scenes: Sequence[Scene], *, size: int = SIZE, device: torch.device | str = "cpu"
) -> torch.Tensor:
    """Draw `scenes`.

    Returns (B, 3, size, size) uint8 on `device`. All sprites of one side are placed in one
    indexed write; sprites of a scene must not overlap, or the later write wins.
    """
    cell = size // CELLS
    grounds = torch.tensor([GROUND_BY_NAME[scene.ground].rgb for scene in scenes])
    canvas = (grounds.to(device).float() / 255)[:, :, None, None].repeat(1, 1, size, size)
    by_side: dict[int, list[tuple[int, int, int, int]]] = defaultdict(list)
    for index, scene in enumerate(scenes):
        for sprite in scene.sprites:
            place = (THING_INDEX[sprite.thing], round(sprite.y * cell), round(sprite.x * cell))
            by_side[sprite.side * cell].append((index, *place))
    for side, rows in by_side.items():
        picture, thing, top, left = torch.tensor(rows, device=device).unbind(1)
        pixels = torch.arange(side, device=device)
        at = (
            picture[:, None, None],
            slice(None),
            (top[:, None] + pixels)[:, :, None],  # (S, side, 1)
            (left[:, None] + pixels)[:, None, :],  # (S, 1, side)
        )
        drawn = sprites(side).to(device)[thing].permute(0, 2, 3, 1)  # (S, side, side, 4)
        canvas[at] = canvas[at] * (1 - drawn[..., 3:]) + drawn[..., :3]
    return (canvas * 255).round_().to(torch.uint8)
