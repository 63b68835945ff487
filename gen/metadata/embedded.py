"""Metadata inside image files, written and read.

Two copies travel in each file: the `parameters` text of AUTOMATIC1111's web UI, and our own JSON,
which reads back as the same record. In PNG they are the text chunks `parameters` and `salon`; in
JPEG and WebP the EXIF tags UserComment and MakerNote. No clock time is inside, so the same image
is the same file.
"""

import json
from pathlib import Path
from typing import Any

from PIL import Image

from gen.errors import InputError
from gen.metadata import containers, parameters
from gen.metadata.record import Metadata

JSON_KEY, TEXT_KEY = "salon", "parameters"
EXIF_IFD, USER_COMMENT, MAKER_NOTE = 0x8769, 0x9286, 0x927C
UNICODE, ASCII = b"UNICODE\0", b"ASCII\0\0\0"  # how a UserComment says what follows


def embed(data: bytes, record: Metadata) -> bytes:
    """Return an image file's bytes with this record in place of the one that it may hold.

    The pixels stay as they are encoded. `data` is a PNG, JPEG or WebP file that we encoded.
    Raises InputError if it is damaged, and if a JPEG has no room for the record.
    """
    ours = json.dumps(record.to_json(), ensure_ascii=True, allow_nan=False)
    text = parameters.to_text(record)
    if containers.is_png(data):
        return containers.replace_png_texts(data, {TEXT_KEY: text, JSON_KEY: ours})
    tags = Image.Exif()
    tags.get_ifd(EXIF_IFD).update(
        {USER_COMMENT: UNICODE + text.encode("utf-16-be"), MAKER_NOTE: ours.encode()}
    )
    return containers.replace_exif(data, tags.tobytes())


def read(path: Path) -> Metadata:
    """Read the record inside a PNG, JPEG or WebP file, without decoding its pixels.

    Raises InputError if there is no such image or it says nothing about itself.
    """
    try:
        with Image.open(path, formats=["PNG", "JPEG", "WEBP"]) as image:
            return read_image(image)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    except OSError as error:
        reason = error.strerror or "not a PNG, JPEG or WebP image, or a damaged one"
        raise InputError(f"{path}: {reason}") from error
    except (ValueError, SyntaxError) as error:
        raise InputError(f"{path}: damaged: {error}") from error


def read_image(image: Image.Image) -> Metadata:
    """Read the record inside an opened image. Raises InputError if it says nothing about itself."""
    ours, text = read_texts(image)
    try:
        if ours:
            return Metadata.from_json(json.loads(ours))
        if text:
            return parameters.from_text(text)
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"its metadata cannot be read: {error}") from error
    raise InputError("has no metadata, so nobody knows how it was made")


def read_texts(image: Image.Image) -> tuple[Any, str | None]:
    """Return our JSON and the `parameters` text inside an opened image, as they are, or None."""
    if image.format == "PNG":
        return image.info.get(JSON_KEY), image.info.get(TEXT_KEY)
    tags = image.getexif().get_ifd(EXIF_IFD)
    return tags.get(MAKER_NOTE), _user_comment(tags.get(USER_COMMENT, b""))


def _user_comment(value: bytes | str) -> str:
    if isinstance(value, str):
        return value
    if value.startswith(UNICODE):
        return value.removeprefix(UNICODE).decode("utf-16-be", errors="replace")
    return value.removeprefix(ASCII).decode("utf-8", errors="replace")
