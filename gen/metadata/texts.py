"""The texts that an image file carries: found in its pieces, pixels are never decoded.

PNG has chunks of text, also behind its pixels, where ImageMagick writes them. JPEG and WebP have
EXIF tags, comments and XMP. Pillow decodes a whole PNG to reach the chunks behind the pixels, and
copies as much memory as a few lines of EXIF ask for, so the pieces are read here: in one pass, what
is wanted and no more.
"""

import binascii
import re
import struct
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, BinaryIO

from PIL import Image

from gen.metadata.containers import APP1, EXIF_IFD, EXIF_INTRODUCTION, PNG_SIGNATURE, SOI, SOS

TEXT_MAX = 4_000_000  # bytes of one text; the largest workflows have a tenth of that
TEXTS_MAX = 64  # in one file
PIECES_MAX = 50_000  # of a file; those of an image of 400 MB are fewer
XMP_INTRODUCTION = b"http://ns.adobe.com/xap/1.0/\0"
COMMENT = b"\xff\xfe"  # marker of a JPEG
USER_COMMENT = 0x9286
# Tags with text that tools write to, by the names that EXIF has for them.
TAGS = {
    0x010E: "ImageDescription",
    0x010F: "Make",
    0x0110: "Model",
    0x0131: "Software",
    USER_COMMENT: "UserComment",
    0x927C: "MakerNote",
    0x9C9C: "XPComment",
}
BYTE, ASCII, LONG, UNDEFINED = 1, 2, 4, 7  # types of EXIF values that are read
CODES = (b"UNICODE\0", b"ASCII\0\0\0", b"JIS\0\0\0\0\0", b"\0" * 8)  # how a UserComment begins
NAMED = re.compile(r"\s*(prompt|workflow):\s*(?=\{)", re.IGNORECASE)  # as ComfyUI fills tags


@dataclass
class Texts:
    """What a file says: texts by key, and keys of those that are too long to be read."""

    by_key: dict[str, str] = field(default_factory=dict)
    too_long: list[str] = field(default_factory=list)

    def add(self, key: str, data: bytes, decode: Callable[[bytes], str]) -> None:
        """Keep a text; of two under one key the first that says something."""
        if len(data) > TEXT_MAX:
            self.too_long.append(key)
        elif len(self.by_key) < TEXTS_MAX and not self.by_key.get(key, "").strip():
            self.by_key[key] = decode(data).strip("\0")


def texts_of_image(image: Image.Image) -> Texts:
    """Return the texts of the file that an image was opened from, decoded or not."""
    stream: Any = getattr(image, "fp", None)
    if stream is not None and not stream.closed:
        place = stream.tell()
        try:
            return texts_of_file(stream)
        finally:
            stream.seek(place)  # the pixels can still be read
    texts = Texts()
    for key, value in image.info.items():  # as Pillow read them
        if key == "exif" and isinstance(value, bytes):
            with suppress(struct.error):
                read_exif(value, texts)
        elif isinstance(value, str):
            texts.add(str(key), *_undecoded(value))
        elif isinstance(value, bytes) and key in ("comment", "xmp"):
            texts.add(str(key), value, _utf8)
    return texts


def texts_of_file(stream: BinaryIO) -> Texts:
    """Return the texts of a PNG, JPEG or WebP file; none of any other, nor of a damaged rest."""
    texts = Texts()
    stream.seek(0)
    begin = stream.read(12)
    with suppress(struct.error):  # the file ends early: what was read is kept
        if begin.startswith(PNG_SIGNATURE):
            _read_png(stream, texts)
        elif begin.startswith(SOI):
            _read_jpeg(stream, texts)
        elif begin[:4] == b"RIFF" and begin[8:] == b"WEBP":
            _read_webp(stream, texts)
    return texts


def read_exif(data: bytes, texts: Texts) -> None:
    """Add the texts of an EXIF block, whose head may be missing, as it should be in WebP."""
    data = data.removeprefix(EXIF_INTRODUCTION)
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(data[:4])
    if order is None:
        return
    [first] = struct.unpack_from(order + "I", data, 4)
    exif = None
    for tag, value in _entries(data, order, first):
        if tag == EXIF_IFD:
            exif = int.from_bytes(value[:4], "little" if order == "<" else "big")
        else:
            _add_tag(texts, tag, value)
    if exif is not None:
        for tag, value in _entries(data, order, exif):
            _add_tag(texts, tag, value)


def _read_png(stream: BinaryIO, texts: Texts) -> None:
    for kind, length in _pieces(stream, len(PNG_SIGNATURE), ">I4s", swapped=True):
        if kind == b"IEND":
            return
        if kind in (b"tEXt", b"zTXt", b"iTXt", b"eXIf"):
            body = stream.read(min(length, TEXT_MAX + 200))
            with suppress(ValueError, struct.error):  # the next one may be sound
                _read_chunk(kind, body, texts)


def _read_chunk(kind: bytes, body: bytes, texts: Texts) -> None:
    if kind == b"eXIf":
        read_exif(body, texts)
        return
    raw_key, _, rest = body.partition(b"\0")
    key = raw_key[:79].decode("latin-1")
    if kind == b"iTXt":
        _, _, text = rest[2:].split(b"\0", 2)  # behind the language and the key in it
        texts.add(key, _inflated(text) if rest[:1] == b"\1" else text, _utf8)
    else:
        texts.add(key, _inflated(rest[1:]) if kind == b"zTXt" else rest, _latin_or_utf8)
    if key.startswith("Raw profile type ") and key in texts.by_key:  # ImageMagick's EXIF, in hex
        profile = texts.by_key.pop(key).split("\n", 3)[-1]
        read_exif(binascii.unhexlify("".join(profile.split())), texts)


def _read_jpeg(stream: BinaryIO, texts: Texts) -> None:
    place = len(SOI)
    for _ in range(PIECES_MAX):
        stream.seek(place)
        marker, length = struct.unpack(">2sH", stream.read(4))
        if marker == SOS or marker[0] != 0xFF or length < 2:
            return
        if marker in (APP1, COMMENT):
            body = stream.read(length - 2)
            if marker == COMMENT:
                texts.add("comment", body, _utf8)
            elif body.startswith(EXIF_INTRODUCTION):
                read_exif(body, texts)
            elif body.startswith(XMP_INTRODUCTION):
                texts.add("xmp", body.removeprefix(XMP_INTRODUCTION), _utf8)
        place += 2 + length


def _read_webp(stream: BinaryIO, texts: Texts) -> None:
    for kind, length in _pieces(stream, 12, "<4sI"):
        if kind == b"EXIF":
            read_exif(stream.read(min(length, TEXT_MAX)), texts)
        elif kind == b"XMP ":
            texts.add("xmp", stream.read(min(length, TEXT_MAX + 1)), _utf8)


def _pieces(
    stream: BinaryIO, place: int, head: str, swapped: bool = False
) -> Iterator[tuple[bytes, int]]:
    """Yield kind and length of every chunk, with the stream where its body begins."""
    for _ in range(PIECES_MAX):
        stream.seek(place)
        begin = stream.read(8)
        if len(begin) < 8:
            return
        first, second = struct.unpack(head, begin)
        kind, length = (second, first) if swapped else (first, second)
        yield kind, length
        place += 12 + length if swapped else 8 + length + length % 2


def _entries(data: bytes, order: str, place: int) -> Iterator[tuple[int, bytes]]:
    """Yield tag and value of an EXIF directory, as far as they are wanted, each tag once."""
    [count] = struct.unpack_from(order + "H", data, place)
    seen = set()
    for start in range(place + 2, place + 2 + 12 * count, 12):
        tag, kind, length = struct.unpack_from(order + "HHI", data, start)
        wanted = tag in TAGS and kind in (BYTE, ASCII, UNDEFINED)
        if tag in seen or not (wanted or (tag == EXIF_IFD and kind == LONG)):
            continue
        seen.add(tag)
        if tag == EXIF_IFD or length <= 4:
            yield tag, data[start + 8 : start + 12][: length if wanted else 4]
        else:
            [offset] = struct.unpack_from(order + "I", data, start + 8)
            yield tag, data[offset : offset + length]


def _add_tag(texts: Texts, tag: int, value: bytes) -> None:
    if tag not in TAGS:
        return
    found = Texts()
    found.add(TAGS[tag], value, _user_comment if tag == USER_COMMENT else _utf8_or_16)
    for key, text in found.by_key.items():
        if named := NAMED.match(text[:40]):
            key, text = named[1].lower(), text[named.end() :]
        texts.add(key, text.encode("utf-8", "surrogatepass"), _utf8)


def _user_comment(value: bytes) -> str:
    """Decode a UserComment, whose first 8 bytes should name a code; tools differ in what it is."""
    return _utf8_or_16(value[8:] if value[:8] in CODES else value)


def _utf8_or_16(data: bytes) -> str:
    """Decode a text by what it looks like: in UTF-16 every other byte of ASCII is zero."""
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return data.decode("utf-16", errors="replace")
    text = data.rstrip(b"\0")
    if b"\0" in text:
        is_big = text[::2].count(0) >= text[1::2].count(0)
        return data.decode("utf-16-be" if is_big else "utf-16-le", errors="replace")
    try:
        return text.decode("utf-8")
    except UnicodeDecodeError:  # UTF-16 without a letter of ASCII, or Latin-1
        return data.decode("utf-16-be", errors="replace")


def _utf8(data: bytes) -> str:
    return data.decode("utf-8", errors="replace")


def _latin_or_utf8(data: bytes) -> str:
    """Decode what should be Latin-1 in a PNG, and often is UTF-8 instead."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data.decode("latin-1")


def _undecoded(text: str) -> tuple[bytes, Callable[[bytes], str]]:
    """Return the bytes of a text that Pillow has decoded as Latin-1, and how to read them."""
    try:
        return text.encode("latin-1"), _latin_or_utf8
    except UnicodeEncodeError:
        return text.encode("utf-8", "replace"), _utf8


def _inflated(data: bytes) -> bytes:
    """Decompress a text; of one that is too long a byte more than is read."""
    try:
        return zlib.decompressobj().decompress(data, TEXT_MAX + 1)
    except zlib.error as error:
        raise ValueError("damaged text") from error
