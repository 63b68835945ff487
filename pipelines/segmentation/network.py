"""The small network that finds things by their names in images of the world.

Convolutions down to an eighth of the side and up again (Ronneberger et al., U-Net, arXiv
1505.04597), each block scaled and shifted by the name's encoding (Perez et al., FiLM, arXiv
1709.07871). The encoding is that of the text encoder that the models draw with, which stays as it
is.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

GROUPS = 8


@dataclass(frozen=True)
class MaskConfig:
    """The defaults are those of the shipped weights: 1.85 million parameters, 3.7 MB in float16."""

    side: int = 64  # pixels of the image that it reads
    text: int = 192  # numbers of a name's encoding
    widths: tuple[int, ...] = (32, 64, 128, 128)  # at each size, the largest first
    text_encoder: str = ""  # the hash of the folder whose text encoder it knows


class Told(nn.Module):
    """Two convolutions around which the input goes, told what is looked for."""

    def __init__(self, given: int, width: int, text: int) -> None:
        super().__init__()
        self.first_norm, self.second_norm = nn.GroupNorm(GROUPS, given), nn.GroupNorm(GROUPS, width)
        self.first = nn.Conv2d(given, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        self.told = nn.Linear(text, 2 * width)
        self.around = nn.Conv2d(given, width, 1) if given != width else nn.Identity()

    def forward(self, x: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
        """Return (B, width, h, w) of x (B, given, h, w) and encodings (B, text)."""
        h = self.first(functional.silu(self.first_norm(x)))
        scale, shift = self.told(text)[:, :, None, None].chunk(2, dim=1)
        h = self.second(functional.silu(self.second_norm(h) * (1 + scale) + shift))
        return self.around(x) + h


class MaskNetwork(nn.Module):
    """Says of each pixel whether it belongs to what is named."""

    def __init__(self, config: MaskConfig) -> None:
        super().__init__()
        self.config = config
        widths, text = config.widths, config.text
        self.text_norm = nn.LayerNorm(text)
        self.begin = nn.Conv2d(3, widths[0], 3, padding=1)
        before = (widths[0], *widths[:-1])
        self.down = nn.ModuleList(Told(a, b, text) for a, b in zip(before, widths, strict=True))
        self.middle = Told(widths[-1], widths[-1], text)
        ups = [(widths[i + 1] + widths[i], widths[i]) for i in reversed(range(len(widths) - 1))]
        self.up = nn.ModuleList(Told(a, b, text) for a, b in ups)
        self.end = nn.Conv2d(widths[0], 1, 3, padding=1)

    def forward(self, images: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
        """Return logits (B, side, side) of images (B, 3, side, side) in [0, 1] and encodings of
        what is looked for, (B, text)."""
        text, x = self.text_norm(text), self.begin(images * 2 - 1)
        kept = []
        for number, block in enumerate(self.down):
            if number:
                x = functional.avg_pool2d(x, 2)
            x = block(x, text)
            kept.append(x)
        x = self.middle(x, text)
        for block, skipped in zip(self.up, reversed(kept[:-1]), strict=True):
            x = functional.interpolate(x, scale_factor=2, mode="nearest")
            x = block(torch.cat([x, skipped], dim=1), text)
        return self.end(functional.silu(x))[:, 0]
