"""How images are read, wherever they come from: one rule for reranking and for editing.

EXIF orientation is applied, transparency laid over white, 16-bit grey scaled to 8 bits, CMYK and
other colour spaces converted by PIL, the first frame taken of animations. Files of other formats
than FORMATS, and images of more than MAX_PIXELS pixels or narrower than 1 : MAX_ASPECT are refused,
before anything is decoded. Loads neither torch nor numpy.
"""

import io
import os
from pathlib import Path

from PIL import (  # the formats' modules by name, else Pillow loads those of all that it knows
    BmpImagePlugin,  # noqa: F401
    GifImagePlugin,  # noqa: F401
    Image,
    ImageOps,
    JpegImagePlugin,  # noqa: F401
    PngImagePlugin,  # noqa: F401
    WebPImagePlugin,  # noqa: F401
)

# What people have images in. PIL would also try the parsers of rare and dangerous formats.
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
MAX_PIXELS = 40_000_000
MAX_ASPECT = 100  # the longer side over the shorter; a strip shows nothing after the centre crop
ORIENTATION = 0x0112  # EXIF tag


class BadImageError(ValueError):
    """An image that cannot be read or judged; the message names it and the reason."""


def open_image(source: str | os.PathLike[str] | bytes, enough: int | None = None) -> Image.Image:
    """Open a file, or the bytes of one, as an RGB image; of an animation, the first frame.

    `enough` allows a JPEG to be decoded at a fraction of its size that leaves the shorter edge at
    least that long. Raises BadImageError.
    """
    name, file = _named(source)
    try:
        opened = Image.open(file, formats=FORMATS)
    except MemoryError:
        raise
    except Image.UnidentifiedImageError as error:
        raise BadImageError(f"{name}: not an image in one of {', '.join(FORMATS)}") from error
    except Exception as error:  # decoders meet damaged files with every kind of exception
        raise BadImageError(f"{name}: {_reason(error)}") from error
    with opened:
        if enough is not None and opened.format == "JPEG" and opened.mode == "RGB":
            check_size(opened.height, opened.width, name)  # of the whole image
            longer = enough * max(opened.size) // max(1, min(opened.size))
            size = (longer, enough) if opened.width > opened.height else (enough, longer)
            opened.draft("RGB", size)
        return to_rgb(opened, name)


def _named(source: str | os.PathLike[str] | bytes) -> tuple[str, Path | io.BytesIO]:
    """Return what to call a source in messages, and what PIL opens."""
    if isinstance(source, bytes):
        return f"image of {len(source)} bytes", io.BytesIO(source)
    path = Path(source)
    if not path.is_file():  # also keeps us from waiting on a named pipe
        raise BadImageError(f"{path}: no such image file")
    return str(path), path


def to_rgb(image: Image.Image, name: str = "") -> Image.Image:
    """Any PIL image as RGB, turned upright by its EXIF tag. Raises BadImageError.

    Transparency is laid over white; 16-bit greys are scaled to 8 bits; CMYK and the other colour
    spaces are converted by PIL. 32-bit modes (I, F) are refused: nothing says what white is there.
    """
    name = name or getattr(image, "filename", "") or "image"
    check_size(image.height, image.width, name)  # from the header: nothing is decoded yet
    if image.mode in ("I", "F"):
        raise BadImageError(f"{name}: mode {image.mode} has no known white; convert it to 8 bits")
    try:
        image.load()
        if image.getexif().get(ORIENTATION, 1) != 1:
            image = ImageOps.exif_transpose(image)
        if image.mode.startswith("I;16"):
            import numpy as np

            image = Image.fromarray(np.round(np.array(image) / 257).astype(np.uint8))
        if image.has_transparency_data:
            image = image.convert("RGBA")
            white = Image.new("RGBA", image.size, "white")
            image = Image.alpha_composite(white, image)
        return image if image.mode == "RGB" else image.convert("RGB")
    except MemoryError:
        raise
    except Exception as error:  # decoders meet damaged files with every kind of exception
        raise BadImageError(f"{name}: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    """Return an error as one line."""
    return " ".join(str(error).split()) or type(error).__name__


def check_size(height: int, width: int, name: str) -> None:
    """Raise BadImageError for an image that is too large, or too narrow."""
    if height * width > MAX_PIXELS:
        raise BadImageError(
            f"{name}: {width}x{height} is more than {MAX_PIXELS // 1_000_000} megapixels"
        )
    if min(height, width) == 0 or max(height, width) > MAX_ASPECT * min(height, width):
        raise BadImageError(f"{name}: {width}x{height} pixels is too narrow")
