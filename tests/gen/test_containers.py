"""Metadata changes, and the compressed pixels of a file do not: by reading both a second way."""

import io
import random
from dataclasses import replace
from typing import Any

import pytest
from image_files import pixels
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from gen import metadata
from gen.errors import InputError
from gen.metadata import Metadata
from gen.metadata.embedded import EXIF_IFD, USER_COMMENT
from gen.settings.request import Request

FIRST = Metadata(Request("a red panda", seed=7), score=0.25, upscale=2)
SECOND = replace(FIRST, rank=3, score=0.5, scores={"clip": 0.5, "aesthetic": 5.25})
LONG = Metadata(Request("熊" * 5000, seed=7), rank=1)


def encoded(
    kind: str, mode: str = "RGB", size: tuple[int, int] = (61, 47), **options: Any
) -> bytes:
    out = io.BytesIO()
    Image.radial_gradient("L").resize(size).convert(mode).save(out, kind, **options)
    return out.getvalue()


FILES = {
    "png": ("png", encoded("png")),
    "png of several chunks": ("png", encoded("png", size=(700, 700), compress_level=0)),
    "jpeg": ("jpeg", encoded("jpeg", quality=95, subsampling=0)),
    "progressive jpeg": ("jpeg", encoded("jpeg", progressive=True)),
    "jpeg with a profile": ("jpeg", encoded("jpeg", icc_profile=b"profile" * 20)),
    "webp": ("webp", encoded("webp", quality=90)),
    "lossless webp": ("webp", encoded("webp", lossless=True)),
    "webp with alpha": ("webp", encoded("webp", "RGBA")),
    "webp with more": ("webp", encoded("webp", icc_profile=b"profile!", exif=b"Exif\0\0MM\0*")),
    "webp of an odd size": ("webp", encoded("webp", size=(1, 3), lossless=True)),
}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("record", [SECOND, LONG], ids=["short", "long"])
def test_the_compressed_pixels_are_the_same_bytes(name: str, record: Metadata) -> None:
    kind, data = FILES[name]
    stream = pixels(kind, data)
    assert len(stream) > 20
    changed = metadata.embed(metadata.embed(data, FIRST), record)
    assert pixels(kind, changed) == stream
    with Image.open(io.BytesIO(changed)) as after, Image.open(io.BytesIO(data)) as before:
        assert (after.size, after.mode) == (before.size, before.mode)
        assert after.tobytes() == before.tobytes()
        assert after.info.get("icc_profile") == before.info.get("icc_profile")
        assert metadata.read_image(after) == record


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp"])
def test_other_readers_find_rank_and_settings(kind: str) -> None:
    changed = metadata.embed(metadata.embed(encoded(kind), FIRST), SECOND)
    with Image.open(io.BytesIO(changed)) as image:
        if kind == "png":
            text = image.text["parameters"]  # type: ignore[attr-defined]
        else:
            comment = image.getexif().get_ifd(EXIF_IFD)[USER_COMMENT]
            text = comment.removeprefix(b"UNICODE\0").decode("utf-16-be")
    assert text.startswith("a red panda\n")
    assert "Seed: 7" in text
    assert "Rerank rank: 3" in text
    assert changed.count(b"a red panda") <= 2  # nothing is left of the record before


def test_the_texts_of_others_stay_in_a_png() -> None:
    chunks = PngInfo()
    chunks.add_text("Author", "somebody")
    chunks.add_text("parametersless", "x")
    with Image.open(io.BytesIO(metadata.embed(encoded("png", pnginfo=chunks), FIRST))) as image:
        assert image.info["Author"] == "somebody"
        assert image.info["parametersless"] == "x"


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_ends_early_is_refused(name: str) -> None:
    data = metadata.embed(FILES[name][1], FIRST)
    for end in {*range(0, len(data), 1 + len(data) // 300), len(data) - 1}:
        with pytest.raises(InputError):
            metadata.embed(data[:end], SECOND)


@pytest.mark.parametrize("name", FILES)
def test_a_corrupted_file_is_refused_or_its_pixels_stay_as_they_are(name: str) -> None:
    kind, data = FILES[name]
    data = metadata.embed(data, FIRST)
    draws = random.Random(0)
    refused = 0
    for _ in range(300):
        broken = bytearray(data)
        for _ in range(draws.choice((1, 1, 8))):
            broken[draws.randrange(min(len(data), 2000))] = draws.randrange(256)
        try:
            changed = metadata.embed(bytes(broken), SECOND)
        except InputError:
            refused += 1
            continue
        if kind == "webp":
            assert pixels(kind, changed) == pixels(kind, bytes(broken))
        elif kind == "png":  # its checksums tell
            assert pixels(kind, changed) == pixels(kind, data)
    assert refused > 0


@pytest.mark.parametrize(
    "data", [b"", b"GIF89a", b"\xff\xd8", b"RIFF\4\0\0\0WEBP", b"\x89PNG\r\n\x1a\n"]
)
def test_what_is_no_image_file_is_refused(data: bytes) -> None:
    with pytest.raises(InputError, match="damaged"):
        metadata.embed(data, FIRST)
