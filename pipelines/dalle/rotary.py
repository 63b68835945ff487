"""Rotary position embeddings on a grid: queries and keys are rotated, nothing is learned.

Su et al., RoFormer (arXiv 2104.09864), along both axes as in LlamaGen (Sun et al., arXiv
2406.06525): of each head, the first half rotates with the row and the second with the column.
"""

from functools import lru_cache

import torch
from torch.nn import functional

BASE = 10_000.0


@lru_cache(maxsize=8)
def grid_rotations(width: int, channels: int, device: torch.device) -> torch.Tensor:
    """Return cosines and sines (2, I, channels / 2) of a grid's positions in raster order, float32.

    `width` is that of the grid, `channels` that of a head, a multiple of four.
    """
    with torch.inference_mode(False):  # it is remembered, and may be trained with
        half = channels // 2
        frequencies = BASE ** (-torch.arange(0, half, 2, dtype=torch.float32) / half)
        angles = torch.arange(width)[:, None] * frequencies  # (W, channels / 4)
        rows, columns = angles.repeat_interleave(width, dim=0), angles.repeat(width, 1)
        both = torch.cat([rows, columns], dim=1)  # (I, channels / 2)
        return torch.stack([both.cos(), both.sin()]).to(device)


def behind_text(rotations: torch.Tensor, length: int) -> torch.Tensor:
    """Place rotations (2, n, c / 2) of image positions behind those of `length` text positions.

    Sines and cosines are zero there, as LlamaGen was trained: queries and keys of text vanish, and
    all of it weighs the same.
    """
    return functional.pad(rotations, (0, 0, length, 0))


def rotate(x: torch.Tensor, rotations: torch.Tensor) -> torch.Tensor:
    """Rotate each pair of adjacent channels of queries or keys (B, H, L, c) by (2, L, c / 2)."""
    cosines, sines = rotations
    even, odd = x.float().unflatten(-1, (-1, 2)).unbind(dim=-1)
    rotated = torch.stack([even * cosines - odd * sines, odd * cosines + even * sines], dim=-1)
    return rotated.flatten(-2).to(x.dtype)
