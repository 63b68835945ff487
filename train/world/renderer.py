"""Scenes as images: a batch of tensors, composed from the rendered drawings."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw

from train.world.atlas import LARGE_SIDE, SIDE, Atlas, load
from train.world.scene import CELLS, Scene
from train.world.vocabulary import BACKGROUNDS, COLOURS, STYLES, THINGS

CELL = 8  # pixels
OVERSAMPLING = 8  # shapes are drawn this much larger and averaged down
KEPT = 40_000  # sprites in memory, of about 4 KiB each
LARGEST_KEPT = 7 * CELL  # pixels of a side


def render(scenes: Sequence[Scene], cell: int = CELL) -> torch.Tensor:
    """Return scenes as images (B, 3, CELLS × cell, CELLS × cell) uint8."""
    whole = CELLS * cell
    images = np.empty((len(scenes), whole, whole, 3), dtype=np.float32)
    for image, scene in zip(images, scenes, strict=True):
        image[:] = BACKGROUNDS[scene.background]
        for sprite in scene.sprites:
            side = sprite.side * cell
            draw = kept_pixels if side <= LARGEST_KEPT else sprite_pixels
            drawn = draw(sprite.thing, scene.style, side)
            x, y = round(sprite.x * cell), round(sprite.y * cell)
            under = image[y : y + side, x : x + side]
            under *= 1 - drawn[..., 3:] * np.float32(1 / 255)
            under += drawn[..., :3]
    return torch.from_numpy(images.round().clip(0, 255).astype(np.uint8)).permute(0, 3, 1, 2)


def sprite_pixels(thing: int, style: str, side: int) -> np.ndarray:
    """Return a thing as (side, side, 4) uint8, its colours multiplied by alpha, with a margin of a
    24th of the side, so that neighbours do not touch."""
    margin = side // 24
    ink = side - 2 * margin
    pixels = np.zeros((side, side, 4), np.uint8)
    inner = pixels[margin : margin + ink, margin : margin + ink]
    if THINGS[thing].shape is not None:
        inner[:] = _shape_pixels(thing, ink)
        return pixels
    atlas = atlas_of(style, SIDE if ink <= SIDE else LARGE_SIDE)
    bands = np.moveaxis(np.asarray(atlas.pixels[atlas.row[THINGS[thing].key]]), 2, 0)
    for number, band in enumerate(bands):
        small = Image.fromarray(band).resize((ink, ink), Image.Resampling.BOX)
        inner[..., number] = np.asarray(small)
    return pixels


kept_pixels = functools.lru_cache(maxsize=KEPT)(sprite_pixels)


@functools.cache
def atlas_of(style: str, side: int = SIDE) -> Atlas:
    """Return the drawings of a style, rendered at `side` pixels."""
    return load(STYLES[style], side=side)


def _shape_pixels(thing: int, side: int) -> np.ndarray:
    shape, colour = THINGS[thing].shape, THINGS[thing].colour
    assert shape is not None
    assert colour is not None
    mask = _mask(shape, side)[..., None].astype(np.float32)
    rgb = np.array(COLOURS[colour], np.float32)
    return np.concatenate([mask * rgb / 255, mask], axis=2).round().astype(np.uint8)


@functools.cache
def _mask(shape: str, side: int) -> np.ndarray:
    """Return the antialiased mask (side, side) uint8 of a shape."""
    big = side * OVERSAMPLING
    image = Image.new("L", (big, big))
    draw = ImageDraw.Draw(image)
    middle = big / 2
    draw.polygon([(middle + x * middle, middle + y * middle) for x, y in OUTLINES[shape]], 255)
    return np.asarray(image.reduce(OVERSAMPLING))


def _round(
    corners: int, start: float, reaches: tuple[float, ...]
) -> tuple[tuple[float, float], ...]:
    turns = [start + 2 * math.pi * number / corners for number in range(corners)]
    return tuple(
        (
            reaches[number % len(reaches)] * math.cos(turn),
            reaches[number % len(reaches)] * math.sin(turn),
        )
        for number, turn in enumerate(turns)
    )


def _heart() -> tuple[tuple[float, float], ...]:
    turns = [2 * math.pi * number / 60 for number in range(60)]
    return tuple(
        (
            0.94 * math.sin(t) ** 3,
            -0.06 * (13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t))
            - 0.08,
        )
        for t in turns
    )


# Points in units of half a side, from the middle.
OUTLINES = {
    "circle": _round(72, 0, (0.92,)),
    "square": ((-0.8, -0.8), (0.8, -0.8), (0.8, 0.8), (-0.8, 0.8)),
    "triangle": ((0, -0.9), (0.94, 0.82), (-0.94, 0.82)),
    "diamond": ((0, -0.95), (0.68, 0), (0, 0.95), (-0.68, 0)),
    "star": _round(10, -math.pi / 2, (0.98, 0.44)),
    "heart shape": _heart(),
    "hexagon": _round(6, 0, (0.95,)),
}
