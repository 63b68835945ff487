"""The compressed pixels inside image files, cut out by the simplest means, for comparing bytes."""

import struct
from collections.abc import Callable, Iterator
from pathlib import Path


def png_pixels(data: bytes) -> bytes:
    def bodies() -> Iterator[bytes]:
        place = 8
        while place < len(data):
            length, kind = struct.unpack_from(">I4s", data, place)
            if kind in (b"IHDR", b"IDAT"):
                yield data[place : place + 12 + length]
            place += 12 + length

    return b"".join(bodies())


def jpeg_pixels(data: bytes) -> bytes:
    """All from the first quantisation table on, which follows headers and metadata."""
    return data[data.index(b"\xff\xdb\x00C") :]


def webp_pixels(data: bytes) -> bytes:
    found, place = [], 12
    while place < len(data):
        kind, length = struct.unpack_from("<4sI", data, place)
        if kind in (b"VP8 ", b"VP8L", b"ALPH"):
            found.append(data[place : place + 8 + length])
        place += 8 + length + length % 2
    return b"".join(found)


PIXELS: dict[str, Callable[[bytes], bytes]] = {
    "png": png_pixels,
    "jpeg": jpeg_pixels,
    "webp": webp_pixels,
}


def pixels(kind: str, data: bytes) -> bytes:
    """All that a file's pixels depend on, as it is encoded."""
    return PIXELS[kind](data)


def pixels_of(kind: str, path: Path | None) -> bytes:
    assert path is not None
    return pixels(kind, path.read_bytes())
