"""Image files as RGB images, by one rule for reranking and editing, with bounds on their cost.

EXIF orientation is applied, transparency laid over white, 16-bit grey scaled to 8 bits, CMYK and
the other colour spaces converted by Pillow; of an animation the first frame is taken. What a file
holds is told by its bytes, not by its name. HEIC needs the extra `heic`. Loads neither torch nor
numpy.
"""

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from threading import Lock

from PIL import (  # the formats' modules by name, else Pillow loads those of all that it knows
    AvifImagePlugin,  # noqa: F401
    BmpImagePlugin,  # noqa: F401
    GifImagePlugin,  # noqa: F401
    Image,
    JpegImagePlugin,
    PngImagePlugin,  # noqa: F401
    TiffImagePlugin,  # noqa: F401
    WebPImagePlugin,  # noqa: F401
)

# What people have images in. Pillow would also try the parsers of rare and dangerous formats.
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
MAX_PIXELS = 64_000_000  # that are decoded
MAX_JPEG_PIXELS = 256_000_000  # of a JPEG that is decoded at a fraction
MAX_ASPECT = 100  # the longer side over the shorter; a strip shows nothing after the centre crop
MAX_BYTES = 500_000_000  # of a file
MAX_SCANS = 64  # of a JPEG, each of which goes over the whole image; cameras write up to 15
LARGE = 16_000_000  # pixels: of such images one is decoded at a time
ORIENTATION = 0x0112  # EXIF tag
UPRIGHT = {  # by the values of the tag
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

_large_one = Lock()


class BadImageError(ValueError):
    """An image that cannot be read or judged; the message names it and the reason."""


@contextmanager
def decoded(
    source: str | os.PathLike[str] | bytes, enough: int | None = None
) -> Iterator[Image.Image]:
    """Give a file, or the bytes of one, as an RGB image.

    `enough` allows a JPEG to be decoded at a fraction of its size that leaves the shorter edge at
    least that long. While an image of more than LARGE pixels is in use, others of that size wait.
    Raises BadImageError.
    """
    name, data = _read(source)
    with _opened(data, name) as image:
        held = image.width * image.height  # pixels in memory
        if isinstance(image, JpegImagePlugin.JpegImageFile):
            held = _choose_fraction(image, data, name, enough)
        with _large_one if held > LARGE else nullcontext():
            yield to_rgb(image, name)


def open_image(source: str | os.PathLike[str] | bytes, enough: int | None = None) -> Image.Image:
    """Return what `decoded` gives."""
    with decoded(source, enough) as image:
        return image


def opened(
    source: str | os.PathLike[str] | bytes,
    formats: tuple[str, ...] = FORMATS,
    most: int = MAX_PIXELS,
) -> Image.Image:
    """Open a file, or the bytes of one, with nothing decoded yet: what every door asks first.

    Raises BadImageError for another format than these, for more than `most` pixels, and for a JPEG
    of so many scans that it would be decoded for minutes.
    """
    name, data = _read(source)
    image = _opened(data, name, formats)
    if image.width * image.height > most:
        raise BadImageError(
            f"{name}: {image.width}x{image.height} is more than {most // 1_000_000} megapixels"
        )
    return image


def to_rgb(image: Image.Image, name: str = "") -> Image.Image:
    """Any PIL image as RGB, turned upright by its EXIF tag. Raises BadImageError.

    32-bit modes (I, F) are refused: nothing says what white is there.
    """
    name = name or getattr(image, "filename", "") or "image"
    check_size(image.height, image.width, name)  # from the header: nothing is decoded yet
    if image.mode in ("I", "F"):
        raise BadImageError(f"{name}: mode {image.mode} has no known white; convert it to 8 bits")
    try:
        image.load()
        if (turn := UPRIGHT.get(_orientation(image))) is not None:
            image = image.transpose(turn)
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


def check_size(height: int, width: int, name: str, most: int = MAX_PIXELS) -> None:
    """Raise BadImageError for an image of too many pixels, or one that is too narrow."""
    if height * width > most:
        raise BadImageError(f"{name}: {width}x{height} is more than {most // 1_000_000} megapixels")
    if min(height, width) == 0 or max(height, width) > MAX_ASPECT * min(height, width):
        raise BadImageError(f"{name}: {width}x{height} pixels is too narrow to judge")


def _read(source: str | os.PathLike[str] | bytes) -> tuple[str, bytes]:
    """Return what to call a source in messages, and the bytes of its file."""
    if isinstance(source, bytes):
        return f"image of {len(source)} bytes", source
    path = Path(source)
    if not path.is_file():  # also keeps us from waiting on a named pipe
        broken = path.is_symlink() and not path.exists()
        raise BadImageError(f"{path}: {'a link to nowhere' if broken else 'no such image file'}")
    try:
        if path.stat().st_size > MAX_BYTES:
            raise BadImageError(f"{path}: larger than {MAX_BYTES // 1_000_000} MB")
        return str(path), path.read_bytes()
    except OSError as error:
        raise BadImageError(f"{path}: {error.strerror}") from error


def _opened(data: bytes, name: str, formats: tuple[str, ...] = FORMATS) -> Image.Image:
    """Read an image's header. Raises BadImageError, also for a JPEG of too many scans."""
    try:
        if data[4:8] == b"ftyp" and data[8:12] in HEIC_BRANDS and formats is FORMATS:
            _register_heic(name)
            formats = (*FORMATS, "HEIF")
        file = io.BytesIO(data)
        if data[:3] == b"\xff\xd8\xff" and "JPEG" in formats:
            if (scans := data.count(b"\xff\xda")) > MAX_SCANS:
                raise BadImageError(f"{name}: a JPEG of {scans} scans; at most {MAX_SCANS} pass")
            # Past Pillow's limit of pixels: ours is about a fraction.
            return JpegImagePlugin.JpegImageFile(file, name)
        return Image.open(file, formats=formats)
    except MemoryError:
        raise
    except Image.UnidentifiedImageError as error:
        raise BadImageError(f"{name}: not an image in one of {', '.join(formats)}") from error
    except Image.DecompressionBombError:
        raise BadImageError(f"{name}: far too many megapixels") from None
    except BadImageError:
        raise
    except Exception as error:  # decoders meet damaged files with every kind of exception
        raise BadImageError(f"{name}: {_reason(error)}") from error


def _register_heic(name: str) -> None:
    """Let Pillow read HEIC. Raises BadImageError without the package for it."""
    try:
        import pillow_heif
    except ImportError as error:
        raise BadImageError(
            f"{name}: HEIC needs pillow-heif, which is not installed: pip install 'salon[heic]'"
        ) from error
    pillow_heif.register_heif_opener()


def _choose_fraction(
    image: JpegImagePlugin.JpegImageFile, data: bytes, name: str, enough: int | None
) -> int:
    """Let a JPEG be decoded at a fraction, and return how many pixels are in memory then.

    Raises BadImageError for one of too many pixels.
    """
    whole = image.width * image.height
    held_whole = enough is None or image.mode != "RGB" or _comes_in_scans(image, data)
    check_size(image.height, image.width, name, MAX_PIXELS if held_whole else MAX_JPEG_PIXELS)
    if enough is not None and image.mode == "RGB":
        longer = enough * max(image.size) // max(1, min(image.size))
        image.draft("RGB", (longer, enough) if image.width > image.height else (enough, longer))
    return whole if held_whole else image.width * image.height


def _comes_in_scans(image: JpegImagePlugin.JpegImageFile, data: bytes) -> bool:
    """Return whether a JPEG has no scan of all there is, so that the decoder keeps it whole."""
    if "progressive" in image.info:
        return True
    at = 2
    while data[at : at + 1] == b"\xff" and data[at + 1 : at + 2] != b"\xda":
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return data[at + 4 : at + 5] != bytes([len(image.getbands())])


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation; 1, upright, where there is none that can be read."""
    try:
        return int(image.getexif().get(ORIENTATION, 1))
    except Exception:  # damaged EXIF is no reason to refuse what it describes
        return 1


def _reason(error: Exception) -> str:
    """Return an error as one line."""
    return " ".join(str(error).split()) or type(error).__name__
