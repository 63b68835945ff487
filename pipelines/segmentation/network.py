"""The small network that finds things by their names.

A name is read by itself, an image by itself, and each pixel is compared with the name (Li et al.,
Language-driven Semantic Segmentation, arXiv 2201.03546): convolutions down to an eighth of the side
and up again (Ronneberger et al., U-Net, arXiv 1505.04597) make numbers of every pixel. A name is
the mean of its words and their runs of letters (Bojanowski et al., fastText, arXiv 1607.04606), so
there is no tokenizer, and a plural or a slip of the pen is read as what it is like.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import nn
from torch.nn import functional

GROUPS = 8
RUNS = (3, 4, 5)  # letters


@dataclass(frozen=True)
class MaskConfig:
    """The defaults are those of the shipped weights: 1.1 million parameters, 2.2 MB in float16."""

    side: int = 64  # pixels of the shorter side at which an image is read
    widths: tuple[int, ...] = (32, 64, 128)  # at a half, a quarter, … of that
    features: int = 32  # of a pixel, and of a name
    runs: int = 4096  # rows of the table of runs of letters
    run_width: int = 64


class Block(nn.Module):
    """Two convolutions around which the input goes (He et al., arXiv 1603.05027)."""

    def __init__(self, given: int, width: int) -> None:
        super().__init__()
        self.first_norm, self.second_norm = nn.GroupNorm(GROUPS, given), nn.GroupNorm(GROUPS, width)
        self.first = nn.Conv2d(given, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        self.around = nn.Conv2d(given, width, 1) if given != width else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return (B, width, h, w) of x (B, given, h, w)."""
        h = self.first(functional.silu(self.first_norm(x)))
        around: torch.Tensor = self.around(x)
        return around + self.second(functional.silu(self.second_norm(h)))


class MaskNetwork(nn.Module):
    """Says of each pixel whether it belongs to what is named."""

    def __init__(self, config: MaskConfig) -> None:
        super().__init__()
        self.config = config
        widths = config.widths
        self.begin = nn.Conv2d(3 * 4, widths[0], 3, padding=1)
        self.down = nn.ModuleList(
            Block(a, b) for a, b in zip((widths[0], *widths[:-1]), widths, strict=True)
        )
        self.middle = Block(widths[-1], widths[-1])
        self.up = nn.ModuleList(
            Block(widths[i + 1] + widths[i], widths[i]) for i in reversed(range(len(widths) - 1))
        )
        self.end_norm = nn.GroupNorm(GROUPS, widths[0])
        self.end = nn.Conv2d(widths[0], 4 * config.features, 1)
        self.letters = nn.EmbeddingBag(config.runs, config.run_width, mode="mean")
        self.meaning = nn.Sequential(
            nn.LayerNorm(config.run_width),
            nn.Linear(config.run_width, 2 * config.run_width),
            nn.SiLU(),
            nn.Linear(2 * config.run_width, config.features + 1),
        )

    @property
    def multiple(self) -> int:
        """What the sides of an image are whole multiples of, in pixels."""
        return int(2 ** len(self.config.widths))

    def forward(self, images: torch.Tensor, names: Sequence[str]) -> torch.Tensor:
        """Return logits (B, N, h, w) of each of N names in images (B, 3, h, w) in [0, 1]."""
        pixels, (named, bias) = self.read_images(images), self.read_names(names)
        logits = torch.einsum("bfhw,nf->bnhw", pixels, named) + bias[:, None, None]
        return logits

    def read_images(self, images: torch.Tensor) -> torch.Tensor:
        """Return the features (B, features, h, w) of every pixel."""
        x = self.begin(functional.pixel_unshuffle(images * 2 - 1, 2))
        kept = []
        for number, block in enumerate(self.down):
            x = block(functional.avg_pool2d(x, 2) if number else x)
            kept.append(x)
        x = self.middle(x)
        for block, skipped in zip(self.up, reversed(kept[:-1]), strict=True):
            x = functional.interpolate(x, scale_factor=2, mode="nearest")
            x = block(torch.cat([x, skipped], dim=1))
        x = self.end(functional.silu(self.end_norm(x)))
        return functional.pixel_shuffle(x, 2)

    def read_names(self, names: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the features (N, features) of names, and what is added for each (N,)."""
        rows = [runs_of(name, self.config.runs) for name in names]
        begins = [0, *accumulate(len(each) for each in rows[:-1])]
        flat = [row for each in rows for row in each]
        device = self.letters.weight.device
        numbers = torch.tensor(flat, dtype=torch.long, device=device)
        read = self.meaning(self.letters(numbers, torch.tensor(begins, device=device)))
        return read[:, :-1], read[:, -1]


def runs_of(name: str, rows: int) -> list[int]:
    """Return the rows of a name: of each of its words, and of their runs of letters."""
    words = [f"<{word}>" for word in re.findall(r"\w+", name.casefold())]
    pieces = [word[i : i + n] for word in words for n in RUNS for i in range(len(word) - n + 1)]
    return [zlib.crc32(piece.encode()) % rows for piece in (*words, *pieces)]
