"""Pictures on their way in and out: uploads opened with care, results encoded as asked."""

import base64
import binascii
import io
import math
from dataclasses import dataclass

from PIL import Image, ImageOps

from gen import metadata
from gen.errors import InputError
from gen.models import Spec
from gen.result import Result
from gen.run_folder.saving import ENCODING
from gen.settings.request import SETTINGS

FORMATS = ("PNG", "JPEG", "WEBP")  # PIL would also try the parsers of rare and dangerous formats
MAX_BYTES = 20_000_000
MAX_PIXELS = 32_000_000
TOO_MANY_PIXELS = f"a picture of more than {MAX_PIXELS // 1_000_000} megapixels is not read"
MAX_SIDE = 4096  # of what is enlarged


@dataclass(frozen=True)
class Form:
    """How pictures go out: format, `quality` from 0 to 100 for all but PNG, and (width, height)
    to which they are enlarged. None leaves it as it is.
    """

    format: str = "png"
    quality: int | None = None
    size: tuple[int, int] | None = None

    def encode(self, image: Image.Image) -> bytes:
        """A picture's file."""
        settings = dict(ENCODING[self.format])
        if self.quality is not None and self.format != "png":
            settings["quality"] = self.quality
        if self.size is not None:
            image = ImageOps.fit(image, self.size, Image.Resampling.LANCZOS)
        out = io.BytesIO()
        image.save(out, self.format, **settings)
        return out.getvalue()

    def encode_result(self, result: Result) -> bytes:
        """A saved picture's file, with what it says about itself."""
        image, path = result.open(), result.path
        if image is None or path is None:
            raise InputError(f"the picture of seed {result.seed} was removed: ask again")
        if self == Form():
            return path.read_bytes()
        return metadata.embed(self.encode(image), metadata.read(path))


def to_base64(data: bytes) -> str:
    """The bytes as text for JSON."""
    return base64.b64encode(data).decode()


def from_base64(text: str) -> bytes:
    """The bytes of a base64 text or of a data: URL. Raises InputError."""
    if text.startswith("data:"):
        text = text.partition(",")[2]
    if len(text) > MAX_BYTES * 4 / 3 + 4:
        raise InputError(f"a picture larger than {MAX_BYTES // 1_000_000} MB is not read")
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise InputError("not base64") from error


def open_picture(data: bytes) -> Image.Image:
    """An upload, its size checked, its pixels not decoded yet. Raises InputError."""
    if len(data) > MAX_BYTES:
        raise InputError(f"a picture larger than {MAX_BYTES // 1_000_000} MB is not read")
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
        size = image.size
    except Image.DecompressionBombError as error:
        raise InputError(TOO_MANY_PIXELS) from error
    except Exception as error:  # parsers raise whatever they meet in a damaged file
        raise InputError("not a PNG, JPEG or WebP picture, or a damaged one") from error
    if math.prod(size) > MAX_PIXELS:
        raise InputError(TOO_MANY_PIXELS)
    return image


def decode(data: bytes) -> Image.Image:
    """An upload with its pixels; of an animation the first frame. Raises InputError."""
    image = open_picture(data)
    try:
        image.load()
    except Exception as error:  # as above
        raise InputError("a damaged picture") from error
    return image


def takes_size(spec: Spec) -> bool:
    """Whether a model draws pictures of other sizes than its own."""
    return "width" in spec.settings


def can_draw(spec: Spec, width: int, height: int) -> bool:
    """Whether a model draws pictures of that size."""
    if not takes_size(spec):
        return (width, height) == (spec.defaults["width"], spec.defaults["height"])
    return all(
        _smallest(spec) <= side <= spec.max_size and side % spec.size_multiple == 0
        for side in (width, height)
    )


def sizes(spec: Spec) -> str:
    """The sizes that a model draws, for people."""
    usual = f"{spec.defaults['width']}x{spec.defaults['height']}"
    if not takes_size(spec):
        return f"{spec.name} draws {usual}"
    return (
        f"{spec.name} draws {usual}, and any width and height that are multiples of "
        f"{spec.size_multiple} from {_smallest(spec)} to {spec.max_size}"
    )


def nearest_size(spec: Spec, width: int, height: int) -> tuple[int, int]:
    """The size to draw at when another is asked for.

    Beyond the largest that a model draws it is about the model's own, in the proportions that are
    asked for.
    """
    if not takes_size(spec):
        return spec.defaults["width"], spec.defaults["height"]
    wide, high = float(width), float(height)
    if max(width, height) > spec.max_size:
        scale = math.sqrt(spec.defaults["width"] * spec.defaults["height"] / (width * height))
        scale = max(scale, _smallest(spec) / min(width, height))
        wide, high = width * scale, height * scale
    multiple, largest = spec.size_multiple, spec.max_size // spec.size_multiple
    smallest = _smallest(spec) // multiple
    sides = [min(max(round(side / multiple), smallest), largest) for side in (wide, high)]
    return sides[0] * multiple, sides[1] * multiple


def _smallest(spec: Spec) -> int:
    low = SETTINGS["width"].low
    assert low is not None
    return math.ceil(low / spec.size_multiple) * spec.size_multiple
