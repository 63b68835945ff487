"""Image files as the pieces they are made of, so that metadata changes and pixels do not.

All bytes that hold pixels are copied as they are; nothing is decoded. A file whose pieces do not
add up raises InputError.
"""

import struct
import zlib
from collections.abc import Iterator, Mapping

from PIL.PngImagePlugin import PngInfo

from gen.errors import InputError

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
JPEG_SEGMENT_MAX = 65_533  # bytes
SOI, SOS, EOI, APP0, APP1 = b"\xff\xd8", b"\xff\xda", b"\xff\xd9", b"\xff\xe0", b"\xff\xe1"
EXIF_INTRODUCTION = b"Exif\0\0"
EXIF_IFD = 0x8769  # the tag that leads to the directory of the others
LONG, UNDEFINED = 4, 7  # types of EXIF values
VP8L_SIGNATURE = b"\x2f"
VP8X_HAS_EXIF = 0x08


def is_png(data: bytes) -> bool:
    """Tell whether a file begins as a PNG does."""
    return data.startswith(PNG_SIGNATURE)


def replace_png_texts(data: bytes, texts: Mapping[str, str]) -> bytes:
    """Return a PNG file with these texts in place of those that it holds under the same keys."""
    info = PngInfo()
    for key, text in texts.items():
        info.add_text(key, text)
    new = b"".join(_png_chunk(kind, body) for kind, body, *_ in info.chunks)
    keys = tuple(key.encode("latin-1") + b"\0" for key in texts)
    parts = [PNG_SIGNATURE]
    for kind, body in _png_chunks(data):
        if kind not in (b"tEXt", b"iTXt") or not body.startswith(keys):
            parts.append(_png_chunk(kind, body))
        if kind == b"IHDR":
            parts.append(new)
    return b"".join(parts)


def replace_exif(data: bytes, tags: Mapping[int, bytes]) -> bytes:
    """Return a JPEG or WebP file with these EXIF tags in place of all that it may hold.

    Each tag is of the type UNDEFINED, as the standard has it for those of free content. A JPEG has
    room for 64 kB: more raises InputError.
    """
    exif = _exif(tags)
    if data.startswith(SOI):
        return _jpeg_with(data, EXIF_INTRODUCTION + exif)
    return _webp_with(data, exif)  # where the introduction does not belong (RFC 9649, 2.7.1.5)


def _exif(tags: Mapping[int, bytes]) -> bytes:
    """Return a TIFF block with one directory, whose only entry leads to one with these tags."""
    parts = [b"MM\0*", struct.pack(">IHHHIII", 8, 1, EXIF_IFD, LONG, 1, 26, 0)]
    place = 26 + 2 + 12 * len(tags) + 4  # of the first value, behind the second directory
    parts.append(struct.pack(">H", len(tags)))
    for tag, value in sorted(tags.items()):
        parts.append(struct.pack(">HHII", tag, UNDEFINED, len(value), place))
        place += len(value) + len(value) % 2
    parts.append(struct.pack(">I", 0))
    parts += [value + b"\0" * (len(value) % 2) for _, value in sorted(tags.items())]
    return b"".join(parts)


def _png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield kind and body of every chunk, IHDR first and IEND last."""
    place, expected = len(PNG_SIGNATURE), b"IHDR"
    while True:
        length, kind = struct.unpack(">I4s", _slice(data, place, 8, "PNG"))
        body = _slice(data, place + 8, length, "PNG")
        [checksum] = struct.unpack(">I", _slice(data, place + 8 + length, 4, "PNG"))
        if checksum != zlib.crc32(kind + body) or expected not in (b"", kind):
            raise _damaged("PNG")
        yield kind, body
        if kind == b"IEND":
            return
        place, expected = place + length + 12, b""


def _jpeg_with(data: bytes, exif: bytes) -> bytes:
    if len(exif) > JPEG_SEGMENT_MAX:
        raise InputError(
            "the prompt is too long for the metadata of a JPEG (64 kB): "
            "save as PNG, or strip the metadata"
        )
    others = []  # segments before the pixels
    place = len(SOI)
    while (marker := _slice(data, place, 2, "JPEG")) != SOS:
        [length] = struct.unpack(">H", _slice(data, place + 2, 2, "JPEG"))
        segment = _slice(data, place, length + 2, "JPEG")
        if marker[0] != 0xFF or length < 2:
            raise _damaged("JPEG")
        if marker != APP1 or not segment[4:].startswith(EXIF_INTRODUCTION):
            others.append(segment)
        place += len(segment)
    if not data.endswith(EOI):
        raise _damaged("JPEG")
    jfif = 1 if others and others[0].startswith(APP0) else 0  # JFIF's header comes first
    new = APP1 + struct.pack(">H", len(exif) + 2) + exif
    return b"".join([SOI, *others[:jfif], new, *others[jfif:], data[place:]])


def _webp_with(data: bytes, exif: bytes) -> bytes:
    chunks = [(kind, body) for kind, body in _riff_chunks(data) if kind != b"EXIF"]
    kind, first = chunks[0]
    if kind == b"VP8X":
        flags = _slice(first, 0, 1, "WebP")[0]
        chunks[0] = kind, bytes([flags | VP8X_HAS_EXIF]) + first[1:]
    else:  # the extended header, which a file needs to hold anything but pixels
        sides = b"".join(struct.pack("<I", side - 1)[:3] for side in _webp_size(kind, first))
        chunks.insert(0, (b"VP8X", bytes([VP8X_HAS_EXIF, 0, 0, 0]) + sides))
    chunks.append((b"EXIF", exif))
    body = b"".join(
        kind + struct.pack("<I", len(body)) + body + b"\0" * (len(body) % 2)
        for kind, body in chunks
    )
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body


def _webp_size(kind: bytes, body: bytes) -> tuple[int, int]:
    """Return width and height from the head of a stream of pixels (RFC 9649, sections 2.5, 2.6)."""
    if kind == b"VP8 ":
        width, height = struct.unpack("<HH", _slice(body, 6, 4, "WebP"))
        width, height = width & 0x3FFF, height & 0x3FFF  # above are 2 bits that scale it
        if width and height:
            return width, height
    if kind == b"VP8L" and body.startswith(VP8L_SIGNATURE):
        [bits] = struct.unpack("<I", _slice(body, 1, 4, "WebP"))
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    raise _damaged("WebP")


def _riff_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield kind and body of every chunk of a WebP file; there is at least one."""
    riff, size, webp = struct.unpack("<4sI4s", _slice(data, 0, 12, "WebP"))
    if (riff, webp) != (b"RIFF", b"WEBP") or size + 8 != len(data):
        raise _damaged("WebP")
    place = 12
    while place < len(data) or place == 12:
        kind, length = struct.unpack("<4sI", _slice(data, place, 8, "WebP"))
        yield kind, _slice(data, place + 8, length, "WebP")
        place += 8 + length + length % 2


def _slice(data: bytes, start: int, length: int, what: str) -> bytes:
    """Return so many bytes. Raises InputError if the file ends before."""
    part = data[start : start + length]
    if len(part) < length:
        raise _damaged(what)
    return part


def _damaged(what: str) -> InputError:
    return InputError(f"a damaged {what} file: its parts do not add up")
