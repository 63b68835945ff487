"""Images on their way in and out: uploads opened with care, results encoded as asked."""

import base64
import binascii
import io
import re
from dataclasses import dataclass

from PIL import Image, ImageOps

from gen import metadata
from gen.errors import InputError
from gen.images import BadImageError, opened
from gen.result import Result
from gen.run_folder.saving import ENCODING
from ui.service.reading import Reader

FORMATS = ("PNG", "JPEG", "WEBP")  # PIL would also try the parsers of rare and dangerous formats
MAX_BYTES = 20_000_000
TOO_LARGE = f"an image larger than {MAX_BYTES // 1_000_000} MB is not read"
NO_IMAGE = "not a PNG, JPEG or WebP image, or a damaged one"
MAX_PIXELS = 32_000_000
PIECE = 1_000_000  # characters of base64
OF_ADDRESSES = str.maketrans("-_", "+/")  # base64's two signs where they stand in addresses
MASKED = 128  # of the greys of a mask that was drawn: from here on it is masked
ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]{0,20}:|//")


@dataclass(frozen=True)
class Form:
    """How images go out: format, `quality` from 0 to 100 for all but PNG, and (width, height)
    to which they are enlarged. None leaves it as it is.
    """

    format: str = "png"
    quality: int | None = None
    size: tuple[int, int] | None = None

    def encode(self, image: Image.Image) -> bytes:
        """Return an image as a file of this form."""
        settings = dict(ENCODING[self.format])
        if self.quality is not None and self.format != "png":
            settings["quality"] = self.quality
        if self.size is not None:
            image = ImageOps.fit(image, self.size, Image.Resampling.LANCZOS)
        out = io.BytesIO()
        image.save(out, self.format, **settings)
        return out.getvalue()

    def encode_result(self, result: Result) -> bytes:
        """Return a saved image's file with its metadata; InputError if it was removed."""
        image, path = result.open(), result.path
        if image is None or path is None:
            raise InputError(f"the image of seed {result.seed} was removed: ask again")
        if self == Form():
            return path.read_bytes()
        return metadata.embed(self.encode(image), metadata.read(path))


def to_base64(data: bytes) -> str:
    """Return the bytes as text for JSON."""
    return base64.b64encode(data).decode()


def from_base64(text: str) -> bytes:
    """Return the bytes of a base64 text, or of a data: URL.

    Line breaks, missing padding, and - and _ for + and / are as good: encoders differ.

    Raises InputError, also for an address: nothing is fetched.
    """
    if text.startswith("data:"):
        text = text.partition(",")[2]
    elif ADDRESS.match(text):
        raise InputError("an address: nothing is fetched, so send the image itself, as base64")
    pieces, rest = [], ""
    try:
        # A piece at a time: while a large text is decoded at once, all other threads stand still.
        for start in range(0, len(text), PIECE):
            piece = rest + "".join(text[start : start + PIECE].split()).translate(OF_ADDRESSES)
            is_last = start + PIECE >= len(text)
            whole = len(piece) if is_last else len(piece) // 4 * 4
            padding = "=" * (-len(piece) % 4) if is_last and not piece.endswith("=") else ""
            pieces.append(base64.b64decode(piece[:whole] + padding, validate=True))
            rest = piece[whole:]
    except (binascii.Error, ValueError) as error:
        raise InputError("not base64") from error
    if any(len(data) % 3 for data in pieces[:-1]):  # what is padded has ended
        raise InputError("not base64")
    if sum(map(len, pieces)) > MAX_BYTES:
        raise InputError(TOO_LARGE)
    return b"".join(pieces)


def open_image(data: bytes) -> Image.Image:
    """Open an upload: its size is checked, its pixels not decoded yet. Raises InputError."""
    if len(data) > MAX_BYTES:
        raise InputError(TOO_LARGE)
    try:
        return opened(data, FORMATS, MAX_PIXELS)
    except BadImageError as error:  # its cause is what a parser met, in words for nobody
        raise InputError(str(error) if error.__cause__ is None else NO_IMAGE) from error


def decode(data: bytes, reader: Reader) -> Image.Image:
    """Decode an upload; of an animation the first frame. Raises InputError."""
    return reader.read(decoded, data)


def format_of(data: bytes, reader: Reader) -> str:
    """Return an upload's format, when all of it could be decoded. Raises InputError."""
    return reader.read(_format, data)


def _format(data: bytes) -> str:
    decoded(data)
    return str(open_image(data).format)


def decoded(data: bytes) -> Image.Image:
    """Decode an upload in this process, which is to be another than the server's."""
    image = open_image(data)
    try:
        return image.copy()  # a file cannot be sent on
    except Exception as error:  # as above
        raise InputError("a damaged image") from error


def looked_at(data: bytes) -> tuple[str, tuple[int, int]]:
    """Return an upload's format and its size upright, when all of it could be decoded. As above, in
    another process than the server's."""
    image = open_image(data)
    file_format = str(image.format).lower()
    try:
        return file_format, ImageOps.exif_transpose(image).convert("RGB").size
    except Exception as error:  # as above
        raise InputError("a damaged image") from error


def as_mask(data: bytes) -> bytes:
    """Return an upload as a mask that is black or white, so that what is kept stays to the bit. As
    above, in another process than the server's."""
    grey = decoded(data).convert("L")
    return as_png(grey.point([0] * MASKED + [255] * (256 - MASKED)))


def as_png(image: Image.Image) -> bytes:
    """Return an image as a PNG file."""
    out = io.BytesIO()
    image.save(out, "png")
    return out.getvalue()
