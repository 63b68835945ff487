"""Metadata inside image files, written and read.

Two copies travel in each file: the `parameters` text of AUTOMATIC1111's web UI, and our own JSON,
which reads back as the same record. In PNG they are the text chunks `parameters` and `salon`; in
JPEG and WebP the EXIF tags UserComment and MakerNote. No clock time is inside, so the same image
is the same file.
"""

import io
import json
from pathlib import Path

from PIL import Image

from gen.errors import InputError
from gen.metadata import containers, foreign, parameters
from gen.metadata.containers import EXIF_IFD
from gen.metadata.foreign import JSON_KEY, TEXT_KEY
from gen.metadata.record import Metadata
from gen.metadata.texts import USER_COMMENT, texts_of_file, texts_of_image

__all__ = ["EXIF_IFD", "USER_COMMENT", "embed", "read", "read_image", "read_texts"]

MAKER_NOTE = 0x927C
UNICODE = b"UNICODE\0"  # how a UserComment says that UTF-16 follows


def embed(data: bytes, record: Metadata) -> bytes:
    """Return an image file's bytes with this record in place of the one that it may hold.

    The pixels stay as they are encoded. `data` is a PNG, JPEG or WebP file that we encoded.
    Raises InputError if it is damaged, and if a JPEG has no room for the record.
    """
    try:
        with Image.open(io.BytesIO(data), formats=foreign.FORMATS) as image:
            size = image.size
    except (OSError, ValueError, SyntaxError) as error:
        raise InputError("a damaged file: not a PNG, JPEG or WebP image") from error
    ours = json.dumps(record.to_json(), ensure_ascii=True, allow_nan=False)
    text = parameters.to_text(record, size)
    if containers.is_png(data):
        return containers.replace_png_texts(data, {TEXT_KEY: text, JSON_KEY: ours})
    tags = {USER_COMMENT: UNICODE + text.encode("utf-16-be"), MAKER_NOTE: ours.encode()}
    return containers.replace_exif(data, tags)


def read(path: Path) -> Metadata:
    """Read the record inside a PNG, JPEG or WebP file, whichever tool wrote it.

    Its pixels are not decoded, unless it has no text. Raises InputError if there is no such image
    or it says nothing about itself.
    """
    try:
        with path.open("rb") as file:
            texts = texts_of_file(file)
            if foreign.says_something(texts):
                return foreign.from_texts(texts)
            with Image.open(file, formats=foreign.FORMATS) as image:
                return foreign.read_any(image)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    except OSError as error:
        reason = error.strerror or "not a PNG, JPEG or WebP image, or a damaged one"
        raise InputError(f"{path}: {reason}") from error
    except (ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(f"{path}: damaged: {error}") from error


def read_image(image: Image.Image) -> Metadata:
    """Read the record inside an opened image. Raises InputError if it says nothing about itself."""
    return foreign.read_any(image)


def read_texts(image: Image.Image) -> tuple[str | None, str | None]:
    """Return our JSON and the `parameters` text inside an opened image, as they are, or None."""
    texts = texts_of_image(image).by_key
    return (
        texts.get(JSON_KEY, texts.get("MakerNote")),
        texts.get(TEXT_KEY, texts.get("UserComment")),
    )
