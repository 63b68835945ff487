"""The compact upsampler: a plain stack of convolutions at the size of the input.

Its tensors are named as in SRVGGNetCompact (Wang et al., Real-ESRGAN, arXiv 2107.10833, and its
repository's "animevideov3" and "general-x4v3"), so files in that layout load here and ours load
there. The network draws what plain repetition of pixels lacks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import isqrt
from typing import Any

import torch
from torch import nn
from torch.nn import functional


@dataclass(frozen=True)
class CompactConfig:
    """The defaults are those of the shipped weights: 0.9 million parameters."""

    features: int = 64
    layers: int = 24  # between the first convolution and the last
    scale: int = 4


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


def config_of(shapes: Mapping[str, tuple[int, ...]]) -> CompactConfig:
    """Read the sizes of a network from the shapes of its tensors.

    Raises ValueError for tensors that are not in this layout.
    """
    last = max((int(key.split(".")[1]) for key in shapes if key.startswith("body.")), default=0)
    first, final = shapes.get("body.0.weight", ()), shapes.get(f"body.{last}.weight", ())
    if len(first) != 4 or len(final) != 4 or first[1] != 3 or final[0] % 3 or last % 2:
        raise ValueError("its tensors are not those of a compact upsampler (SRVGGNetCompact)")
    scale = isqrt(final[0] // 3)
    if scale**2 != final[0] // 3:
        raise ValueError(f"its last layer has {final[0]} outputs, which no scale gives")
    return CompactConfig(features=first[0], layers=last // 2 - 1, scale=scale)


@torch.inference_mode()
def upscale(network: CompactUpsampler, images: torch.Tensor) -> torch.Tensor:
    """Enlarge uint8 images (B, 3, H, W) to uint8 (B, 3, scale × H, scale × W), one at a time, as
    the activations of one just fit a processor's cache."""
    weight: Any = network.body[0].weight
    enlarged = [
        network(image[None].to(weight.device, weight.dtype) / 255).clamp(0, 1) for image in images
    ]
    return (torch.cat(enlarged) * 255).round().to(torch.uint8)
