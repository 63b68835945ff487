"""The compact upsampler: a plain stack of convolutions at the size of the input.

Its tensors are named as in SRVGGNetCompact (Wang et al., Real-ESRGAN, arXiv 2107.10833, and its
repository's "animevideov3" and "general-x4v3"), so files in that layout load here and ours load
there. The network draws what plain repetition of pixels lacks.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from pipelines.upscale.layouts import CompactConfig


class CompactUpsampler(nn.Module):
    """Enlarges images `scale` times."""

    def __init__(self, config: CompactConfig) -> None:
        super().__init__()
        self.config = config
        width = config.features
        body: list[nn.Module] = [nn.Conv2d(3, width, 3, padding=1), nn.PReLU(width)]
        for _ in range(config.layers):
            body += [nn.Conv2d(width, width, 3, padding=1), nn.PReLU(width)]
        body.append(nn.Conv2d(width, 3 * config.scale**2, 3, padding=1))
        self.body = nn.ModuleList(body)  # the public layout has no other name in it

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Enlarge (B, 3, H, W) in [0, 1] to (B, 3, scale × H, scale × W), about in [0, 1]."""
        scale, x = self.config.scale, images
        for layer in self.body:
            x = layer(x)
        plain = functional.interpolate(images, scale_factor=scale, mode="nearest")
        return functional.pixel_shuffle(x, scale) + plain
