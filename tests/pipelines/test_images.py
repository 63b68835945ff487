"""Files as people have them: other formats, damaged EXIF, and sizes that cost too much."""

import io
import sys
from pathlib import Path

import pytest
from PIL import Image

from pipelines.images import LARGE, MAX_SCANS, _large_one, decoded, open_image
from rerank import BadImageError

RED, BLUE = (255, 0, 0), (0, 0, 255)


def half_blue(width: int = 64, height: int = 32) -> Image.Image:
    image = Image.new("RGB", (width, height), RED)
    image.paste(BLUE, (0, 0, width // 2, height))
    return image


def saved(image: Image.Image, format: str, **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, format, **options)
    return out.getvalue()


def near(pixel: object, colour: tuple[int, ...]) -> bool:
    assert isinstance(pixel, tuple)
    return all(abs(a - b) <= 8 for a, b in zip(pixel, colour, strict=True))


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "TIFF", "AVIF"])
@pytest.mark.fault("modes, rotation, animation")
def test_formats_turned_by_exif(format: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    image = open_image(saved(half_blue(), format, exif=exif))
    assert image.size == (32, 64)
    assert near(image.getpixel((16, 4)), BLUE)
    assert near(image.getpixel((16, 60)), RED)


def test_heic() -> None:
    plugin = pytest.importorskip("pillow_heif", reason="pillow-heif is not installed")
    plugin.register_heif_opener()
    assert near(open_image(saved(half_blue(), "HEIF")).getpixel((4, 16)), BLUE)


def test_heic_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(BadImageError, match=r"needs pillow-heif.*pip install 'salon\[heic\]'"):
        open_image(b"\0\0\0\x18ftypheic" + bytes(100))


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("exif", [b"Exif\0\0", b"Exif\0\0II", b"Exif\0\0II*\0\xff\xff\xff\xff"])
@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_damaged_exif_is_no_reason(format: str, exif: bytes) -> None:
    data = saved(half_blue(), format, exif=exif)
    assert exif[6:] in data
    assert open_image(data).size == (64, 32)


@pytest.mark.slow
@pytest.mark.parametrize("side", [7000, 14000])
def test_photographs_of_many_megapixels_are_decoded_at_a_fraction(side: int) -> None:
    data = saved(Image.new("RGB", (side, side), BLUE), "JPEG", quality=30)
    with decoded(data, enough=256) as image:
        assert max(image.size) <= side // 8
        assert near(image.getpixel((5, 5)), BLUE)
    if side > 8000:
        with pytest.raises(BadImageError, match="more than 64 megapixels"):
            open_image(data)


@pytest.mark.fault("image bombs")
def test_a_jpeg_of_thousands_of_scans_is_refused() -> None:
    data = saved(half_blue(), "JPEG", progressive=True)
    scan = data[data.index(b"\xff\xda") : -2]
    bomb = data[:-2] + scan * MAX_SCANS + data[-2:]
    with pytest.raises(BadImageError, match="scans; at most 64"):
        open_image(bomb)
    assert open_image(data).size == (64, 32)


@pytest.mark.slow
def test_large_ones_are_decoded_one_at_a_time() -> None:
    data = saved(Image.new("L", (4100, 4100)), "PNG")
    assert LARGE < 4100 * 4100
    with decoded(data):
        assert _large_one.locked()
        assert open_image(saved(half_blue(), "PNG")).size == (64, 32)
    assert not _large_one.locked()


def test_a_link_to_nowhere(tmp_path: Path) -> None:
    (tmp_path / "a.png").symlink_to("b.png")
    with pytest.raises(BadImageError, match=r"a\.png: a link to nowhere"):
        open_image(tmp_path / "a.png")
