"""Decoded pixels to images, in chunks, for every family."""

from collections.abc import Callable

import torch
from PIL import Image

from pipelines.runtime.devices import is_out_of_memory

# More images at a time than this many pixels cost memory and bring no speed.
CHUNK_PIXELS = 2**20


def in_chunks(
    rows: torch.Tensor,
    chunk: int,
    decode: Callable[[torch.Tensor], list[torch.Tensor | None]],
) -> list[torch.Tensor | None]:
    """Decode `rows` with `decode` about `chunk` at a time, or fewer where memory is short.

    Raises what `decode` raises for another reason, or for a single row.
    """
    chunk = max(1, chunk)
    images: list[torch.Tensor | None] = []
    while len(images) < len(rows):
        part = rows[len(images) : len(images) + chunk]
        try:
            images += decode(part)
        except Exception as error:
            if len(part) == 1 or not is_out_of_memory(error):
                raise
            chunk = len(part) // 2
    return images


def to_uint8(rgb: torch.Tensor) -> torch.Tensor:
    return (rgb.clamp(0, 1) * 255).round().to(torch.uint8)


def to_image(pixels: torch.Tensor) -> Image.Image:
    """Convert uint8 (3, H, W) to a PIL image."""
    return Image.fromarray(pixels.permute(1, 2, 0).cpu().numpy())
