"""Enlarging images: with a network, in tiles where they are large, or plainly."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from PIL import Image
from torch import nn
from torch.nn import functional

# What a network sees at once, in pixels a side, of which it draws all but a margin: beyond it a
# compact network sees nothing, and larger ones next to nothing.
TILE, MARGIN = 256, 32

Enlarge = Callable[[torch.Tensor], torch.Tensor]  # uint8 (B, 3, H, W) → (B, 3, s × H, s × W)


@dataclass(frozen=True)
class Upscaler:
    """A network that enlarges images by `scale`, and whatever else by using it again or less."""

    name: str
    scale: int
    network: nn.Module  # (1, 3, H, W) in [0, 1] → (1, 3, scale × H, scale × W)
    multiple: int = 1  # of which the sides of its input must be

    def upscale(self, images: torch.Tensor) -> torch.Tensor:
        """Enlarge uint8 images (B, 3, H, W) to uint8 (B, 3, scale × H, scale × W).

        One at a time, as the activations of one just fit a processor's cache.
        """
        enlarged = self._at_once if max(images.shape[2:]) <= TILE else self._in_tiles
        return torch.stack([enlarged(image) for image in images]).to(images.device)

    def enlarge(self, images: torch.Tensor, times: float) -> torch.Tensor:
        """Enlarge uint8 images (B, 3, H, W) so many times: a network of another scale is used as
        often as it takes, and what is too much is made smaller."""
        size = [max(1, round(side * times)) for side in images.shape[2:]]
        done = 1
        while done < times and self.scale > 1:
            images, done = self.upscale(images), done * self.scale
        return resized(images, (size[1], size[0]))

    def _in_tiles(self, image: torch.Tensor) -> torch.Tensor:
        """Enlarge one uint8 image (3, H, W), each part with a margin of what is beside it."""
        scale, (_, height, width) = self.scale, image.shape
        out = torch.empty((3, scale * height, scale * width), dtype=torch.uint8)
        for top, bottom in _spans(height):
            for left, right in _spans(width):
                y, x = max(0, top - MARGIN), max(0, left - MARGIN)
                seen = image[:, y : bottom + MARGIN, x : right + MARGIN]
                drawn = self._at_once(seen)
                out[:, scale * top : scale * bottom, scale * left : scale * right] = drawn[
                    :,
                    scale * (top - y) : scale * (bottom - y),
                    scale * (left - x) : scale * (right - x),
                ]
        return out

    @torch.inference_mode()
    def _at_once(self, image: torch.Tensor) -> torch.Tensor:
        height, width = image.shape[1:]
        weight = next(self.network.parameters())
        rgb = image[None].to(weight.device, weight.dtype) / 255
        beyond = (0, -width % self.multiple, 0, -height % self.multiple)
        rgb = functional.pad(rgb, beyond, mode="replicate")
        drawn = self.network(rgb)[0, :, : self.scale * height, : self.scale * width]
        return (drawn.float().nan_to_num(0).clamp(0, 1) * 255).round().to(torch.uint8).cpu()


def plain(images: torch.Tensor, times: float) -> torch.Tensor:
    """Enlarge uint8 images (B, 3, H, W) so many times by Lanczos: soft edges are kept sharp, and no
    detail is added."""
    height, width = (max(1, round(side * times)) for side in images.shape[2:])
    return resized(images, (width, height))


def resized(images: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Return uint8 images (B, 3, H, W) at a size (width, height), by Lanczos."""
    if (images.shape[3], images.shape[2]) == size:
        return images
    made = []
    for image in images.permute(0, 2, 3, 1).cpu():
        resized = Image.fromarray(image.contiguous().numpy()).resize(size, Image.Resampling.LANCZOS)
        pixels = torch.frombuffer(bytearray(resized.tobytes()), dtype=torch.uint8)
        made.append(pixels.view(size[1], size[0], 3).permute(2, 0, 1))
    return torch.stack(made).to(images.device)


def _spans(length: int) -> Iterator[tuple[int, int]]:
    """Yield where tiles begin and end along a side, their margins left out; one if it fits."""
    if length <= TILE:
        yield 0, length
        return
    step = TILE - 2 * MARGIN
    for start in range(0, length, step):
        yield start, min(start + step, length)
