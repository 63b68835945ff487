import base64
import contextlib
import io
import os
import struct
import subprocess
import sys
import time
import tracemalloc
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import fake_models
import pytest
from PIL import Image

from gen.errors import InputError
from pipelines import families
from ui.api.images import PIECE, as_mask, decode, from_base64, looked_at, open_image
from ui.api.sizes import can_draw, nearest_size, size_settings, sizes, times_of
from ui.service.reading import Reader


def encoded(image: Image.Image, form: str) -> bytes:
    out = io.BytesIO()
    image.save(out, form)
    return out.getvalue()


def declared(width: int, height: int) -> bytes:
    """A small PNG that says it is of that size."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    rows = chunk(b"IDAT", zlib.compress(bytes(50_000)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + rows + chunk(b"IEND", b"")


@pytest.fixture(scope="module")
def reader() -> Iterator[Reader]:
    with contextlib.closing(Reader()) as reader:
        yield reader


PANDA = fake_models.picture("a panda", 1)


@pytest.mark.parametrize("form", ["png", "jpeg", "webp"])
def test_an_image_is_read(form: str, reader: Reader) -> None:
    assert decode(encoded(PANDA, form), reader).size == (64, 64)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"nothing of the kind",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        encoded(PANDA, "gif"),
        encoded(PANDA, "tiff"),
        encoded(PANDA, "bmp"),
        encoded(PANDA, "png")[:60],
        encoded(PANDA, "jpeg")[:200],
        encoded(PANDA, "webp")[:40],
    ],
    ids=["empty", "text", "svg", "gif", "tiff", "bmp", "half a png", "half a jpeg", "half a webp"],
)
@pytest.mark.fault("damaged images")
def test_what_is_none_is_refused(data: bytes, reader: Reader) -> None:
    with pytest.raises(InputError):
        decode(data, reader)


def test_all_that_counts_survives_the_other_process(reader: Reader) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned
    out = io.BytesIO()
    PANDA.resize((64, 32)).save(out, "jpeg", exif=exif)
    turned = decode(out.getvalue(), reader)
    assert turned.getexif()[0x0112] == 6
    assert turned.tobytes() == Image.open(out).tobytes()

    out = io.BytesIO()
    PANDA.quantize(8).save(out, "png", transparency=3)
    indexed = decode(out.getvalue(), reader)
    assert (indexed.mode, indexed.has_transparency_data) == ("P", True)
    assert indexed.convert("RGBA").tobytes() == Image.open(out).convert("RGBA").tobytes()


def test_a_mask_is_black_or_white_and_read_without_web_frameworks(reader: Reader) -> None:
    grey = Image.linear_gradient("L").resize((16, 16))
    with Image.open(io.BytesIO(reader.read(as_mask, encoded(grey, "png")))) as mask:
        assert mask.getcolors() == [(128, 0), (128, 255)]
    assert reader.read(looked_at, encoded(PANDA, "webp")) == ("webp", (64, 64))
    code = "import sys, ui.api.images; print({'gradio', 'fastapi', 'torch'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"  # what the reading process has to import first


@pytest.mark.parametrize("size", [(30_000, 30_000), (8_000, 8_000), (2**31 - 1, 1)])
@pytest.mark.fault("image bombs")
def test_a_bomb_is_not_decoded(size: tuple[int, int]) -> None:
    tracemalloc.start()
    with pytest.raises(InputError, match="megapixels"):
        open_image(declared(*size))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 5_000_000


@pytest.mark.fault("image bombs")
def test_a_jpeg_of_very_many_scans(reader: Reader) -> None:
    out = io.BytesIO()
    PANDA.save(out, "jpeg", progressive=True)
    data = out.getvalue()
    assert decode(data, reader).size == (64, 64)
    last = data[data.rindex(b"\xff\xda") : -2]
    with pytest.raises(InputError, match="scans; at most 64"):
        open_image(data[:-2] + last * 100 + data[-2:])


def _sleep(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


def _swallow() -> None:
    bytearray(10_000_000_000)


def _die() -> None:
    os._exit(9)


def _fail() -> None:
    raise ZeroDivisionError


def test_reading_has_a_deadline() -> None:
    with contextlib.closing(Reader(seconds=5)) as reader:
        assert reader.read(_sleep, 0) == 0
        reader.seconds = 0.2
        with pytest.raises(InputError, match="cannot be read within"):
            reader.read(_sleep, 60)
        reader.seconds = 30
        for fatal in (_swallow, _die):
            with pytest.raises(InputError, match="send less"):
                reader.read(fatal)
        with pytest.raises(ZeroDivisionError):
            reader.read(_fail)
        assert reader.read(_sleep, 0) == 0
    with pytest.raises(InputError):
        reader.read(_sleep, 0)


def test_a_file_that_is_too_large() -> None:
    with pytest.raises(InputError, match="20 MB"):
        open_image(bytes(20_000_001))
    with pytest.raises(InputError, match="20 MB"):
        from_base64("A" * 30_000_000)


def test_base64() -> None:
    text = base64.b64encode(b"an image").decode()
    assert from_base64(text) == from_base64("data:image/png;base64," + text) == b"an image"
    for bad in ("a", "ä", "data:image/png;base64,?", "YQ==YQ=="):
        with pytest.raises(InputError):
            from_base64(bad)


@pytest.mark.parametrize("size", [0, 1, 57, 749_999, 750_000, 750_001, 3_000_000])
def test_base64_of_any_length_and_with_line_breaks(size: int) -> None:
    data = bytes(range(256)) * (size // 256 + 1)
    data = data[:size]
    assert from_base64(base64.b64encode(data).decode()) == data
    assert from_base64(base64.encodebytes(data).decode()) == data
    assert from_base64(base64.encodebytes(data).decode().replace("\n", "\r\n")) == data
    assert from_base64(base64.urlsafe_b64encode(data).decode().rstrip("=")) == data


def test_a_piece_that_ends_in_padding_is_not_base64() -> None:
    text = base64.b64encode(bytes(PIECE * 3 // 4 - 1)).decode()
    assert len(text) == PIECE
    with pytest.raises(InputError):
        from_base64(text + "AAAA")


@pytest.mark.parametrize(
    "text", ["https://example.org/a.png", "HTTP://x", "file:///etc/passwd", "//example.org/a"]
)
def test_an_address_is_not_fetched(text: str) -> None:
    with pytest.raises(InputError, match="nothing is fetched"):
        from_base64(text)


def test_sizes(tmp_path: Path) -> None:
    spec = fake_models.spec("fake", tmp_path)  # 64x64 by itself, multiples of 16 up to 256
    assert can_draw(spec, 64, 256)
    assert not can_draw(spec, 72, 64)
    assert not can_draw(spec, 48, 64)
    assert not can_draw(spec, 272, 64)
    assert "from 64 to 256" in sizes(spec)


def test_a_model_of_one_size() -> None:
    spec = families.shipped()["stickers-dalle"]
    assert can_draw(spec, 64, 64)
    assert not can_draw(replace(spec, max_size=256), 128, 128)
    assert nearest_size(replace(spec, max_size=256), 128, 96) == (64, 64)
    assert sizes(spec) == "stickers-dalle draws 64x64"


@pytest.mark.parametrize(
    ("size", "times"),
    [((256, 256), 4), ((128, 192), 2), ((64, 64), 1), ((1024, 512), 4), ((192, 192), 3)],
)
def test_a_size_is_that_of_the_result(size: tuple[int, int], times: int, tmp_path: Path) -> None:
    """A model with an upsampler draws a fraction of what is asked for."""
    drawn = {"width": 64, "height": 64, "upscale": 4}
    spec = fake_models.spec("fake", tmp_path / "fake")
    spec = replace(spec, upsampler=tmp_path, defaults={**spec.defaults, **drawn})
    assert times_of([spec], size) == times
    assert times_of([replace(spec, upsampler=None)], size) == 1
    service = SimpleNamespace(find=lambda name: spec)
    settings = size_settings(service, "fake", size)  # type: ignore[arg-type]
    assert settings == {"width": size[0] // times, "height": size[1] // times, "upscale": times}


@pytest.mark.parametrize(
    ("asked", "drawn"),
    [
        ((100, 100), (96, 96)),  # the nearest
        ((8, 8), (64, 64)),
        ((1024, 1024), (64, 64)),  # larger than it draws: its own
        ((1792, 1024), (112, 64)),  # in proportion
        ((1024, 1536), (64, 96)),
        ((4096, 64), (256, 64)),  # as far as that goes
    ],
)
def test_the_nearest_size(asked: tuple[int, int], drawn: tuple[int, int], tmp_path: Path) -> None:
    spec = fake_models.spec("fake", tmp_path)
    assert nearest_size(spec, *asked) == drawn
    assert can_draw(spec, *drawn)
