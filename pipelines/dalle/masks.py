"""Which image position sees which: the sparse attention masks of Ramesh et al. (arXiv 2102.12092,
§2.2 and appendix B.1) and of the open networks after it, each by a closed form."""

from enum import StrEnum
from functools import lru_cache

import torch


class Mask(StrEnum):
    """What an image position sees of the image: itself, and of the positions before it …

    Let W be the width of the grid, R the reach, and d the distance in raster order.
    """

    FULL = "full"  # all
    ROW = "row"  # d ≤ W: the row so far and the rest of the one above
    COLUMN = "column"  # d a multiple of W: the column above
    CONVOLUTION = "convolution"  # a window of (2R + 1)², wrapped into the next row (the paper's)
    CONVOLUTION_CLIPPED = "convolution_clipped"  # the window cut at the borders (ruDALL-E, v3)
    CONVOLUTION_TORUS = "convolution_torus"  # the window wrapped along both axes (ruDALL-E, v2)
    CONVOLUTION_UP_LEFT = "convolution_up_left"  # R rows up and R columns left (DALLE-pytorch)


def sees(
    mask: Mask, query: torch.Tensor, key: torch.Tensor, width: int, reach: int
) -> torch.Tensor:
    """Return whether image position `query` sees `key`: bool of int64 raster positions that
    broadcast.

    The grid is `width` × `width`. Row, column and the paper's convolution depend on the distance
    alone; the other convolutions on rows and columns apart.
    """
    d = query - key
    up, left = query // width - key // width, query % width - key % width
    match mask:
        case Mask.FULL:
            near = torch.ones_like(d, dtype=torch.bool)
        case Mask.ROW:
            near = d <= width
        case Mask.COLUMN:
            near = d % width == 0
        case Mask.CONVOLUTION:
            rows = ((d + width // 2) // width).clamp(max=reach)  # to the nearest window row
            near = (d - rows * width).abs() <= reach
        case Mask.CONVOLUTION_CLIPPED:
            near = (up <= reach) & (left.abs() <= reach)
        case Mask.CONVOLUTION_TORUS:
            near = (_around(up, width) <= reach) & (_around(left, width) <= reach)
        case Mask.CONVOLUTION_UP_LEFT:
            near = (up <= reach) & (left >= 0) & (left <= reach)
    return near & (d >= 0)


def _around(difference: torch.Tensor, width: int) -> torch.Tensor:
    """Return the shorter way between two places on a circle."""
    return torch.minimum(difference % width, -difference % width)


def paper_masks(layers: int) -> tuple[Mask, ...]:
    """Return the paper's order of masks: row, column, row, row, and again; the last layer
    convolution."""
    masks = [Mask.COLUMN if index % 4 == 1 else Mask.ROW for index in range(layers)]
    return (*masks[:-1], Mask.CONVOLUTION)


@lru_cache(maxsize=32)
def image_visible(mask: Mask, width: int, reach: int) -> torch.Tensor:
    """Return (I, I) bool: row q is what image position q sees."""
    image = torch.arange(width**2)
    return sees(mask, image[:, None], image, width, reach)


@lru_cache(maxsize=64)
def visible(
    mask: Mask, text_length: int, width: int, reach: int, length: int, device: torch.device
) -> torch.Tensor:
    """Return (length, length) bool over text, then image positions: row q is what q sees.

    Text sees the text before it and itself; image positions see all of the text.
    """
    T = text_length
    whole = torch.zeros(T + width**2, T + width**2, dtype=torch.bool)
    whole[:T, :T] = torch.ones(T, T, dtype=torch.bool).tril()
    whole[T:, :T] = True
    whole[T:, T:] = image_visible(mask, width, reach)
    return whole[:length, :length].to(device)
