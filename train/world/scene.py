"""Scenes of the world: which things stand where, in which style, on which background.

A scene at 64 pixels is laid out on `CELLS` × `CELLS` cells of 8 pixels, the grid of the latents.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

from train.world.atlas import Atlas
from train.world.concepts import CONCEPTS, Concept

CELLS = 8
CELL = 8  # pixels
# How people ask for each set of drawings; the set is what is drawn.
STYLES: Mapping[str, str] = {
    "glossy": "noto",
    "flat": "fluent-emoji-flat",
    "3d": "fluent-emoji-3d",
    "plain": "twemoji",
    "blob": "noto-v1",
}
BACKGROUNDS: Mapping[str, tuple[int, int, int]] = {
    "white": (255, 255, 255),
    "cream": (255, 244, 214),
    "light blue": (190, 224, 250),
    "light green": (200, 236, 200),
    "pink": (252, 208, 222),
    "lavender": (222, 212, 246),
    "yellow": (252, 236, 150),
    "grey": (200, 204, 210),
    "orange": (250, 200, 140),
    "teal": (130, 205, 200),
    "navy": (36, 48, 92),
    "black": (24, 24, 28),
}
SIDES = {"small": 2, "medium": 3, "large": 5, "huge": 7}  # cells


@dataclass(frozen=True)
class Sprite:
    """One drawing: its thing and its square, in cells."""

    concept: Concept
    x: int
    y: int
    side: int


@dataclass(frozen=True)
class Scene:
    """A whole image: everything in it is drawn in one style."""

    style: str
    background: str
    sprites: tuple[Sprite, ...]


def pack_scene(rng: random.Random, concepts: Sequence[Concept] = CONCEPTS) -> Scene:
    """Draw a scene that is nearly covered with things of all sizes: much to learn from each."""
    style = rng.choice(tuple(STYLES))
    drawn = [concept for concept in concepts if STYLES[style] in concept.drawings]
    free = {(x, y) for x in range(CELLS) for y in range(CELLS)}
    sprites = []
    sizes = rng.choice(((7,), (5, 3, 3, 2, 2, 2), (3, 3, 3, 3, 2, 2), (2,) * 9, (5, 2, 2, 3)))
    for side in sizes:
        corners = [
            (x, y)
            for x in range(CELLS - side + 1)
            for y in range(CELLS - side + 1)
            if free.issuperset(_cells(x, y, side))
        ]
        if corners:
            x, y = rng.choice(corners)
            free -= _cells(x, y, side)
            sprites.append(Sprite(rng.choice(drawn), x, y, side))
    return Scene(style, rng.choice(tuple(BACKGROUNDS)), tuple(sprites))


def render(scenes: Sequence[Scene], atlases: Mapping[str, Atlas], cell: int = CELL) -> torch.Tensor:
    """Return scenes as images (B, 3, CELLS × cell, CELLS × cell) uint8."""
    side = CELLS * cell
    images = np.empty((len(scenes), side, side, 3), dtype=np.float32)
    for image, scene in zip(images, scenes, strict=True):
        image[:] = BACKGROUNDS[scene.background]
        atlas = atlases[scene.style]
        for sprite in scene.sprites:
            drawn = _sized(atlas, sprite.concept.codepoint, sprite.side * cell)
            x, y, end = sprite.x * cell, sprite.y * cell, sprite.side * cell
            under = image[y : y + end, x : x + end]
            under *= 1 - drawn[..., 3:] / 255
            under += drawn[..., :3]
    return torch.from_numpy(images.round().clip(0, 255).astype(np.uint8)).permute(0, 3, 1, 2)


def _sized(atlas: Atlas, codepoint: str, side: int) -> np.ndarray:
    """Return a drawing as (side, side, 4) float32, averaged down from the atlas."""
    bands = np.moveaxis(np.asarray(atlas.pixels[atlas.row[codepoint]]), 2, 0)
    sized = [
        np.asarray(Image.fromarray(band).resize((side, side), Image.Resampling.BOX))
        for band in bands
    ]
    return np.stack(sized, axis=2).astype(np.float32)


def _cells(x: int, y: int, side: int) -> set[tuple[int, int]]:
    return {(x + dx, y + dy) for dx in range(side) for dy in range(side)}
