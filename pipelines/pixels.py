"""From what decoders give to images, for every family."""

from collections.abc import Callable

import torch
from PIL import Image

from pipelines.runtime.devices import is_out_of_memory

# More images at a time than this many pixels cost memory and bring no speed.
CHUNK_PIXELS = 2**20


def in_chunks(
    rows: torch.Tensor,
    chunk: int,
    paint: Callable[[torch.Tensor], list[torch.Tensor | None]],
) -> list[torch.Tensor | None]:
    """What `paint` makes of `rows`, about `chunk` at a time, or fewer where memory is short.

    Raises what `paint` raises for another reason, or for a single row.
    """
    chunk = max(1, chunk)
    pictures: list[torch.Tensor | None] = []
    while len(pictures) < len(rows):
        part = rows[len(pictures) : len(pictures) + chunk]
        try:
            pictures += paint(part)
        except Exception as error:
            if len(part) == 1 or not is_out_of_memory(error):
                raise
            chunk = len(part) // 2
    return pictures


def to_uint8(rgb: torch.Tensor) -> torch.Tensor:
    return (rgb.clamp(0, 1) * 255).round().to(torch.uint8)


def to_image(pixels: torch.Tensor) -> Image.Image:
    """A PIL picture of uint8 (3, H, W)."""
    return Image.fromarray(pixels.permute(1, 2, 0).cpu().numpy())
