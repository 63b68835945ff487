"""What things look like, in a few numbers, so that the text encoder can learn it before any image.

The hidden states of a text tower that has only read sentences name a thing, but do not tell how it
looks; a network that draws from them has to learn every drawing by heart. CLIP's text tower learns
looks from images. Ours learns them from the drawings: of each slot, the reader also reads the
principal components of the thing's drawing, in the style that is told, or the mean of its styles.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import torch

from train.world import renderer
from train.world.vocabulary import NOUN_NUMBERS, STYLES, THINGS

SIDE = 16  # pixels at which a drawing is looked at
NUMBERS = 96  # principal components, which carry about 90 % of the variance


@cache
def looks() -> torch.Tensor:
    """Return (1 + styles, things + 1, NUMBERS) float32, a row of zeros for what is not drawn.

    The first entry is the mean of a thing's styles, the last thing is nothing. Components are
    divided by the fourth root of their variance, so that outlines count beside the colour of the
    whole, and scaled to a mean square of 1.
    """
    where, pixels = zip(*_drawn(), strict=True)
    flat = torch.stack(pixels)
    flat = flat - flat.mean(0)
    variance, directions = torch.linalg.eigh(flat.T @ flat / len(flat))
    largest = variance.argsort(descending=True)[:NUMBERS]
    found = flat @ directions[:, largest] / variance[largest].clamp(min=1e-6) ** 0.25
    found = found / found.square().mean().sqrt()
    table = torch.zeros(1 + len(STYLES), len(THINGS) + 1, NUMBERS)
    counts = torch.zeros(len(THINGS) + 1)
    for (style, thing), look in zip(where, found, strict=True):
        table[1 + style, thing, : len(look)] = look
        table[0, thing, : len(look)] += look
        counts[thing] += 1
    table[0] /= counts.clamp(min=1)[:, None]
    return table


def _drawn() -> Iterator[tuple[tuple[int, int], torch.Tensor]]:
    """Yield the style and number of each drawing, and its pixels (SIDE² · 4), times alpha."""
    for index, style in enumerate(STYLES):
        there = renderer.atlas_of(style).row
        for thing, known in enumerate(THINGS):
            if thing not in NOUN_NUMBERS or known.key in there:
                pixels = torch.from_numpy(renderer.sprite_pixels(thing, style, SIDE))
                yield (index, thing), pixels.flatten().float() / 255
