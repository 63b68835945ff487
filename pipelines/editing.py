"""Where an edit begins: an image and a mask as they are drawn, and what they are laid back on.

`Start` is what a pipeline's `begin` takes; `prepare` makes one of an image of any size. Plain PIL
images in and out; loads no torch.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from PIL import Image, ImageChops, ImageFilter, ImageOps

if TYPE_CHECKING:
    import torch

Box = tuple[int, int, int, int]  # left, top, right, bottom, in pixels
LARGEST_SHIFT = 16  # of a colour by coding; what differs by more is another thing
ANEW = 128  # a mask that is at least this white is drawn anew


@dataclass(frozen=True)
class Canvas:
    """The image that a drawn one is laid on: it stays as it is, to the bit, where the mask is
    black."""

    image: Image.Image  # RGB (W, H)
    mask: Image.Image | None  # L (W, H): 255 takes what is drawn, 0 what was there; None: all drawn
    box: Box  # where what is drawn goes; it may reach beyond the edges
    level: bool = False  # whether what is drawn gets the brightness of what it is laid beside

    def lay(self, drawn: Image.Image) -> Image.Image:
        """Return the whole image with what was drawn (of any size) in its box."""
        left, top, right, bottom = self.box
        if drawn.size != (right - left, bottom - top):
            drawn = drawn.resize((right - left, bottom - top), Image.Resampling.LANCZOS)
        if self.level and self.mask is not None:
            drawn = levelled(drawn, self.image.crop(self.box), self.mask.crop(self.box))
        whole = self.image.copy()
        whole.paste(drawn, (left, top))
        if self.mask is None:
            return whole
        inside = Image.new("L", whole.size, 0)
        inside.paste(255, self.box)
        return Image.composite(whole, self.image, ImageChops.multiply(self.mask, inside))


@dataclass(frozen=True)
class Start:
    """What candidates begin from instead of noise alone.

    There is one image for all of them, or one for each; likewise canvases, or none where what is
    drawn is the result.
    """

    images: tuple[Image.Image, ...]  # RGB, all of the size that is drawn
    strength: float  # above 0, to 1: the share of the steps, or of the tokens, that are drawn
    mask: Image.Image | None = None  # L, of the same size: ANEW and whiter is drawn, the rest given
    noise: bool = False  # whether noise takes the place of what is under the mask
    canvases: tuple[Canvas, ...] = ()
    resampling: int = 1  # of noisy steps under a mask, or ways of drawing its image tokens
    guidance: float = 0.0  # how strongly what is drawn under a mask is led to fit what is around it

    def __post_init__(self) -> None:
        """Raise ValueError for a strength out of range, or images that do not fit together."""
        if not 0 < self.strength <= 1:
            raise ValueError(f"strength is {self.strength}; it must be above 0, up to 1")
        masks = () if self.mask is None else (self.mask,)
        if len({image.size for image in (*self.images, *masks)}) != 1:
            raise ValueError("the images and the mask of a start must be of one size")

    @property
    def size(self) -> tuple[int, int]:
        """What is drawn, in pixels (width, height)."""
        return self.images[0].size

    @property
    def result_size(self) -> tuple[int, int]:
        """What comes out, in pixels (width, height)."""
        return self.canvases[0].image.size if self.canvases else self.size

    def pixels(self) -> "torch.Tensor":
        """Return the images as uint8 (M, 3, H, W)."""
        import torch

        arrays = [torch.frombuffer(bytearray(i.tobytes()), dtype=torch.uint8) for i in self.images]
        width, height = self.size
        return torch.stack(arrays).view(-1, height, width, 3).permute(0, 3, 1, 2)

    def drawn_cells(self, factor: int) -> "torch.Tensor | None":
        """Return which cells of factor x factor pixels are drawn anew, bool (H, W): those with any
        pixel that is; None without a mask."""
        import torch

        if self.mask is None:
            return None
        width, height = self.size
        mask = torch.frombuffer(bytearray(self.mask.tobytes()), dtype=torch.uint8)
        cells = mask.view(height // factor, factor, width // factor, factor)
        return (cells >= ANEW).any(dim=3).any(dim=1)


@dataclass(frozen=True)
class SecondPass:
    """How candidates that are done are drawn again, larger, from where they stand."""

    size: tuple[int, int]  # in pixels (width, height)
    strength: float  # above 0, to 1: how much is drawn anew
    steps: int  # that are taken, whatever the strength
    # Of uint8 images (B, 3, H, W), to about `size`; None enlarges their latents instead.
    enlarge: "Callable[[torch.Tensor], torch.Tensor] | None" = None

    def __post_init__(self) -> None:
        """Raise ValueError for a strength out of range."""
        if not 0 < self.strength <= 1:
            raise ValueError(f"strength is {self.strength}; it must be above 0, up to 1")


def second_steps(steps: int, strength: float, most: int) -> tuple[int, int]:
    """Return how many steps a schedule has of which the last `steps` begin at `strength`, and which
    is the first of them; as AUTOMATIC1111's web UI counts, whose steps are all taken."""
    whole = max(steps, min(math.ceil(steps / strength), most))
    return whole, whole - steps


@dataclass(frozen=True)
class Edit:
    """How an image and a mask become a start; the settings of the same names describe it."""

    strength: float
    resize_mode: str = "fill"
    mask_blur: int = 0
    mask_fill: str = "original"
    inpaint_area: str = "whole"
    padding: int = 32
    level: bool = False  # as of a canvas
    mask_resampling: int = 1
    mask_guidance: float = 0.0


def prepare(
    image: Image.Image,
    mask: Image.Image | None,
    edit: Edit,
    size: tuple[int, int],
    multiple: int = 1,
    times: int = 1,
) -> Start:
    """Return the start of an edit of an RGB image; the mask (L) is of the same size.

    What is drawn has `size` pixels (width, height), filled up to multiples of `multiple` by its
    edge, and the result is `times` as large; it is as large as the image where that is drawn at
    `size`, up to a pixel. With `inpaint_area` "masked" the result is as large as the image, and
    what is drawn is the masked part of it, with its surroundings, at `size`.
    """
    if mask is not None and edit.mask_blur:
        mask = mask.filter(ImageFilter.GaussianBlur(edit.mask_blur))
    if mask is not None and edit.inpaint_area == "masked":
        box = area(mask, edit.padding, size)
        drawn = image.resize(size, Image.Resampling.LANCZOS, box)
        drawn_mask = mask.resize(size, Image.Resampling.BILINEAR, box)
        return start_of(drawn, drawn_mask, edit, Canvas(image, mask, box, edit.level))
    same = size == (-(-image.width // times), -(-image.height // times))
    result = image.size if same else (size[0] * times, size[1] * times)
    image, mask = _resized(image, mask, result, edit.resize_mode)
    across, down = (-(-side // multiple) * multiple for side in size)
    whole = across * times, down * times
    canvas = None
    if mask is not None or result != whole:
        canvas = Canvas(image, mask, (0, 0, *whole), edit.level)
    image, mask = _filled_up(image, whole), mask and _filled_up(mask, whole)
    if times > 1:
        image = image.resize((across, down), Image.Resampling.LANCZOS)
        mask = mask and _any_of(mask, (across, down))
    return start_of(image, mask, edit, canvas)


def _any_of(mask: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Return a mask made smaller: white where any pixel of it is drawn anew."""
    anew = mask.point([0] * ANEW + [255] * (256 - ANEW))
    return anew.resize(size, Image.Resampling.BOX).point([0] + [255] * 255)


def area(mask: Image.Image, padding: int, shape: tuple[int, int]) -> Box:
    """Return the box around what is white in a mask and so many pixels more, of the ratio of
    `shape` as far as the image reaches."""
    found = mask.getbbox()
    assert found is not None, "an empty mask is refused before"
    left, right = _stretched(found[0] - padding, found[2] + padding, 0, mask.width)
    top, bottom = _stretched(found[1] - padding, found[3] + padding, 0, mask.height)
    ratio = shape[0] / shape[1]
    wanted = round((bottom - top) * ratio)
    left, right = _stretched(left, right, wanted, mask.width)
    wanted = round((right - left) / ratio)
    top, bottom = _stretched(top, bottom, wanted, mask.height)
    return left, top, right, bottom


def _stretched(low: int, high: int, length: int, end: int) -> tuple[int, int]:
    """Return an interval at least `length` long around this one, cut and shifted into 0..end."""
    missing = max(0, length - (high - low))
    low, high = low - missing // 2, high + missing - missing // 2
    if low < 0 and length:
        low, high = 0, high - low
    if high > end and length:
        low, high = low - (high - end), end
    return max(0, low), min(end, high)


def start_of(
    image: Image.Image, mask: Image.Image | None, edit: Edit, canvas: Canvas | None
) -> Start:
    """Return the start of an image and a mask that have the size that is drawn."""
    if mask is not None and edit.mask_fill == "blur":
        image = fill_from_around(image, mask)
    return Start(
        (image,),
        edit.strength,
        mask,
        noise=mask is not None and edit.mask_fill == "noise",
        canvases=() if canvas is None else (canvas,),
        resampling=edit.mask_resampling,
        guidance=edit.mask_guidance,
    )


def _resized(
    image: Image.Image, mask: Image.Image | None, size: tuple[int, int], mode: str
) -> tuple[Image.Image, Image.Image | None]:
    """Return image and mask at `size`; what an image that fits leaves free is drawn anew, too."""
    if image.size == size:
        return image, mask
    lanczos, bilinear = Image.Resampling.LANCZOS, Image.Resampling.BILINEAR
    if mode == "stretch":
        return image.resize(size, lanczos), mask and mask.resize(size, bilinear)
    if mode == "fill":
        return ImageOps.fit(image, size, lanczos), mask and ImageOps.fit(mask, size, bilinear)
    inner = ImageOps.contain(image, size, lanczos)
    place = (size[0] - inner.width) // 2, (size[1] - inner.height) // 2
    whole = ImageOps.fit(image, size, lanczos)
    whole = whole.filter(ImageFilter.GaussianBlur(max(size) / 32))
    whole.paste(inner, place)
    if mask is not None:
        free = Image.new("L", size, 255)
        free.paste(mask.resize(inner.size, bilinear), place)
        mask = free
    return whole, mask


def _filled_up(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Return the image enlarged to `size` by repeating its last column and row."""
    if image.size == size:
        return image
    whole = Image.new(image.mode, size)
    width, height = image.size
    whole.paste(image)
    if size[0] > width:
        column = image.crop((width - 1, 0, width, height))
        whole.paste(column.resize((size[0] - width, height)), (width, 0))
    if size[1] > height:
        row = whole.crop((0, height - 1, size[0], height))
        whole.paste(row.resize((size[0], size[1] - height)), (0, height))
    return whole


def extended(
    image: Image.Image, mask: Image.Image | None, margins: Box
) -> tuple[Image.Image, Image.Image]:
    """Return an image with so many pixels more on each side, and a mask (L) that has them drawn."""
    left, top, right, bottom = margins
    size = image.width + left + right, image.height + top + bottom
    whole, drawn = Image.new("RGB", size), Image.new("L", size, 255)
    whole.paste(image, (left, top))
    drawn.paste(Image.new("L", image.size, 0) if mask is None else mask, (left, top))
    return whole, drawn


def fill_from_around(image: Image.Image, mask: Image.Image) -> Image.Image:
    """Return the image with what is masked in the colours around it, softer further inside.

    Averages of what is known, at coarser and coarser sizes, each where the finer ones know nothing.
    """
    import numpy as np

    known: Any = (np.asarray(mask, np.float32) < ANEW)[..., None]
    colours = np.asarray(image, np.float32)
    filled = np.where(known, colours, _spread(colours, known))
    return Image.fromarray(filled.clip(0, 255).round().astype(np.uint8))


def levelled(drawn: Image.Image, original: Image.Image, mask: Image.Image) -> Image.Image:
    """Return what was drawn (RGB) without the shift of its colours against the original, of the
    same size, which is seen where the mask (L) keeps it: coding alone may move them, and a
    background of one colour would show a seam. Where they have little in common, nothing is moved.
    """
    import numpy as np

    kept: Any = (np.asarray(mask, np.float32) < ANEW)[..., None]
    colours = np.asarray(drawn, np.float32)
    shift = np.asarray(original, np.float32) - colours
    known = kept & (np.abs(shift).max(axis=2, keepdims=True) <= LARGEST_SHIFT)
    if kept.all() or 2 * known.sum() <= kept.sum():
        return drawn
    moved = np.where(kept, colours, colours + _spread(shift, known, finest=8))
    return Image.fromarray(moved.clip(0, 255).round().astype(np.uint8))


def _spread(values: Any, known: Any, finest: int = 1) -> Any:
    """Return values (H, W, C) everywhere from those that are known (H, W, 1); the closest count
    most, averaged over `finest` pixels at least."""
    import numpy as np

    height, width = values.shape[:2]
    filled = np.zeros_like(values)
    sure: Any = np.zeros_like(known, np.float32)
    factor = finest
    while True:
        size = max(1, width // factor), max(1, height // factor)
        share = _enlarged(_shrunk(known.astype(np.float32), size), (width, height))
        mean = _enlarged(_shrunk(values * known, size), (width, height)) / np.maximum(share, 1e-6)
        weight = np.minimum(1, 4 * share) * (1 - sure)
        filled += weight * mean
        sure += weight
        if size == (1, 1):
            break
        factor *= 2
    return filled / np.maximum(sure, 1e-6)


def _shrunk(values: Any, size: tuple[int, int]) -> Any:
    return _by_channel(values, size, Image.Resampling.BOX)


def _enlarged(values: Any, size: tuple[int, int]) -> Any:
    return _by_channel(values, size, Image.Resampling.BILINEAR)


def _by_channel(values: Any, size: tuple[int, int], method: Image.Resampling) -> Any:
    """Resize float32 (H, W, C)."""
    import numpy as np

    channels: Sequence[Any] = [values[..., i] for i in range(values.shape[2])]
    return np.stack([np.asarray(Image.fromarray(c).resize(size, method)) for c in channels], axis=2)
