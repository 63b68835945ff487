"""ESRGAN: blocks of dense blocks, then layers that double the size (Wang et al., arXiv 1809.00219).

Named as in BasicSR, which most public files follow; `layouts` knows the names before that.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from pipelines.upscale.layouts import RrdbConfig

SHARE = 0.2  # of what a block finds, added to what it was given
SLOPE = 0.2


class DenseBlock(nn.Module):
    """Five convolutions, each of which reads all before it."""

    def __init__(self, features: int, growth: int) -> None:
        super().__init__()
        widths = [features + growth * i for i in range(5)]
        self.conv1, self.conv2, self.conv3, self.conv4 = (
            nn.Conv2d(width, growth, 3, padding=1) for width in widths[:4]
        )
        self.conv5 = nn.Conv2d(widths[4], features, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return (B, features, H, W) of the same."""
        seen = x
        for layer in (self.conv1, self.conv2, self.conv3, self.conv4):
            seen = torch.cat([seen, functional.leaky_relu(layer(seen), SLOPE)], dim=1)
        return x + SHARE * self.conv5(seen)


class Block(nn.Module):
    """Three dense blocks around which the input goes, too."""

    def __init__(self, features: int, growth: int) -> None:
        super().__init__()
        self.rdb1, self.rdb2, self.rdb3 = (DenseBlock(features, growth) for _ in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return (B, features, H, W) of the same."""
        return x + SHARE * self.rdb3(self.rdb2(self.rdb1(x)))


class RrdbUpsampler(nn.Module):
    """Enlarges images `scale` times."""

    def __init__(self, config: RrdbConfig) -> None:
        super().__init__()
        self.config = config
        width = config.features
        self.conv_first = nn.Conv2d(3 * config.folded**2, width, 3, padding=1)
        self.body = nn.Sequential(*(Block(width, config.growth) for _ in range(config.blocks)))
        self.conv_body = nn.Conv2d(width, width, 3, padding=1)
        for number in range(1, config.doublings + 1):
            self.add_module(f"conv_up{number}", nn.Conv2d(width, width, 3, padding=1))
        self.conv_hr = nn.Conv2d(width, width, 3, padding=1)
        self.conv_last = nn.Conv2d(width, 3, 3, padding=1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Enlarge (B, 3, H, W) in [0, 1] to (B, 3, scale × H, scale × W), about in [0, 1].

        H and W must be multiples of `folded`.
        """
        x = self.conv_first(functional.pixel_unshuffle(images, self.config.folded))
        x = x + self.conv_body(self.body(x))
        for number in range(1, self.config.doublings + 1):
            x = functional.interpolate(x, scale_factor=2, mode="nearest")
            x = functional.leaky_relu(self.get_submodule(f"conv_up{number}")(x), SLOPE)
        return self.conv_last(functional.leaky_relu(self.conv_hr(x), SLOPE))
