import json
import math
import os
import resource
import struct
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pipelines.images import MAX_PIXELS, open_image, to_rgb
from rerank import BadImageError, WeightsError
from rerank.model.preprocessing import Preprocessing, read_preprocessing

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")
SIZES = [(224, 224), (64, 64), (33, 47), (47, 33), (300, 200), (500, 227), (225, 2000)]
SIZES += [(1024, 1024), (448, 448)]


def photo(width: int, height: int, seed: int = 0) -> Image.Image:
    """Smooth colours with noise and a hard edge, as photographs have them."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (5, 7, 3), dtype=np.uint8))
    pixels = np.array(coarse.resize((width, height), Image.Resampling.BICUBIC)).astype(int)
    pixels += rng.integers(-20, 21, pixels.shape)
    pixels[: height // 3, : width // 3] = (255, 0, 40)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def as_tensor(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


@pytest.fixture
def at_224(tmp_path: Path) -> Preprocessing:
    """OpenAI's settings, as transformers writes them."""
    from transformers import CLIPImageProcessorPil

    CLIPImageProcessorPil().save_pretrained(tmp_path)
    return read_preprocessing(tmp_path, 224)


@pytest.fixture
def exact_224(at_224: Preprocessing) -> Preprocessing:
    return replace(at_224, exact=True)


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_equal_to_transformers_pil_processor(
    exact_224: Preprocessing, width: int, height: int
) -> None:
    from transformers import CLIPImageProcessorPil

    image = photo(width, height)
    expected = CLIPImageProcessorPil()(image, return_tensors="pt")["pixel_values"]
    for source in (image, np.array(image), as_tensor(image), as_tensor(image).double() / 255):
        ours = exact_224.normalise(exact_224.prepare(source, CPU)[None])
        assert ours.dtype == torch.float32
        torch.testing.assert_close(ours, expected, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_the_fast_way_differs_from_pil_by_single_subpixels(
    at_224: Preprocessing, exact_224: Preprocessing, width: int, height: int
) -> None:
    image = photo(width, height)
    by_pil = exact_224.prepare(image, CPU).int()
    for source in (image, np.array(image), as_tensor(image)):
        difference = (at_224.prepare(source, CPU).int() - by_pil).abs()
        assert difference.max() <= (1 if min(width, height) >= 224 else 2)
        assert (difference > 0).float().mean() < 0.01


def test_floats_are_rounded_to_bytes(at_224: Preprocessing) -> None:
    image = as_tensor(photo(300, 224))
    for kind in (torch.float32, torch.float64):
        assert torch.equal(at_224.prepare(image.to(kind) / 255, CPU), at_224.prepare(image, CPU))


@pytest.mark.parametrize("value", [-0.01, 1.01, 255.0, math.nan])
def test_floats_beyond_0_and_1_are_refused(at_224: Preprocessing, value: float) -> None:
    image = torch.full((3, 4, 4), 0.5)
    image[1, 2, 3] = value
    with pytest.raises(ValueError, match=r"in \[0, 1\]"):
        at_224.prepare(image, CPU)


def test_large_jpegs_are_decoded_small_and_look_the_same(
    tmp_path: Path, at_224: Preprocessing, exact_224: Preprocessing
) -> None:
    photo(4000, 3000).save(tmp_path / "large.jpg", quality=95)
    opened = open_image(tmp_path / "large.jpg", 4 * 224)
    assert opened.size == (2000, 1500)
    fast, exact = (
        each.prepare(tmp_path / "large.jpg", CPU).float() for each in (at_224, exact_224)
    )
    assert (fast - exact).abs().mean() < 1


def test_bytes_of_a_file_are_a_image(tmp_path: Path, at_224: Preprocessing) -> None:
    photo(300, 200).save(tmp_path / "a.png")
    content = (tmp_path / "a.png").read_bytes()
    assert torch.equal(at_224.prepare(content, CPU), at_224.prepare(tmp_path / "a.png", CPU))
    with pytest.raises(BadImageError, match="image of 20 bytes"):
        at_224.prepare(content[:20], CPU)


def test_images_of_the_right_size_are_not_touched(at_224: Preprocessing) -> None:
    image = photo(224, 224)
    for source in (image, np.array(image), as_tensor(image)):
        assert torch.equal(at_224.prepare(source, CPU), as_tensor(image))


def test_stretching_to_an_exact_size(tmp_path: Path) -> None:
    config = {
        "size": {"height": 20, "width": 20},
        "do_center_crop": False,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
    }
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(config))
    preprocessing = read_preprocessing(tmp_path, 20)
    image = photo(50, 31)
    stretched = as_tensor(image.resize((20, 20), Image.Resampling.BICUBIC))
    assert torch.equal(replace(preprocessing, exact=True).prepare(image, CPU), stretched)
    difference = preprocessing.prepare(image, CPU).int() - stretched.int()
    assert difference.abs().max() <= 1
    white = torch.full((1, 3, 20, 20), 255, dtype=torch.uint8)
    torch.testing.assert_close(preprocessing.normalise(white), torch.ones(1, 3, 20, 20))


def test_integers_as_sizes_and_the_newer_file(tmp_path: Path, at_224: Preprocessing) -> None:
    config = json.loads((tmp_path / "preprocessor_config.json").read_text())
    (tmp_path / "preprocessor_config.json").unlink()
    config.update(size=224, crop_size=224)
    (tmp_path / "processor_config.json").write_text(json.dumps({"image_processor": config}))
    assert read_preprocessing(tmp_path, 224) == at_224


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"crop_size": 336}, "makes images of 336x336 pixels, the model reads 224x224"),
        ({"size": 100}, "resizes to 100 pixels and then cuts 224"),
        ({"do_resize": False}, "do_resize is false"),
        ({"resample": 1}, "resample is LANCZOS"),
        ({"size": {"longest_edge": 224}}, "has no 'height'"),
        ({"size": None}, "cannot follow"),
    ],
)
def test_settings_that_cannot_be_followed(
    tmp_path: Path, at_224: Preprocessing, changes: dict[str, object], message: str
) -> None:
    path = tmp_path / "preprocessor_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    with pytest.raises(WeightsError, match=message):
        read_preprocessing(tmp_path, 224)


# ---- what images may be


def pixel(image: Image.Image) -> tuple[int, ...]:
    rgb = to_rgb(image)
    assert rgb.mode == "RGB"
    value = rgb.getpixel((0, 0))
    assert isinstance(value, tuple)
    return value


def palette(transparency: int | None) -> Image.Image:
    image = Image.new("P", (4, 4), 1)
    image.putpalette([0, 0, 0, 200, 100, 50])
    if transparency is not None:
        image.info["transparency"] = transparency
    return image


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (Image.new("RGB", (4, 4), (1, 2, 3)), (1, 2, 3)),
        (Image.new("1", (4, 4), 1), (255, 255, 255)),
        (Image.new("L", (4, 4), 77), (77, 77, 77)),
        (palette(None), (200, 100, 50)),
        (palette(1), (255, 255, 255)),
        (palette(0), (200, 100, 50)),
        (Image.new("LA", (4, 4), (0, 0)), (255, 255, 255)),
        (Image.new("RGBA", (4, 4), (255, 0, 0, 128)), (255, 127, 127)),
        (Image.new("RGBA", (4, 4), (9, 9, 9, 0)), (255, 255, 255)),
        (Image.fromarray(np.full((4, 4), 65535, np.uint16)), (255, 255, 255)),
        (Image.fromarray(np.full((4, 4), 257 * 100, np.uint16)), (100, 100, 100)),
        (Image.new("CMYK", (4, 4), (0, 255, 255, 0)), (255, 0, 0)),
    ],
    ids=lambda value: getattr(value, "mode", None),
)
@pytest.mark.fault("modes, rotation, animation")
def test_colour_modes(image: Image.Image, expected: tuple[int, ...]) -> None:
    assert pixel(image) == expected


@pytest.mark.fault("modes, rotation, animation")
def test_16_bit_png(tmp_path: Path) -> None:
    Image.fromarray(np.full((4, 4), 257 * 60, np.uint16)).save(tmp_path / "deep.png")
    assert pixel(Image.open(tmp_path / "deep.png")) == (60, 60, 60)


@pytest.mark.parametrize("mode", ["I", "F"])
def test_modes_without_a_white_are_refused(mode: str) -> None:
    with pytest.raises(BadImageError, match=f"mode {mode} has no known white"):
        to_rgb(Image.new(mode, (4, 4)))


@pytest.mark.fault("modes, rotation, animation")
def test_exif_turns_a_image_upright(tmp_path: Path, at_224: Preprocessing) -> None:
    lying = photo(300, 224)
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 270 degrees
    lying.save(tmp_path / "turned.png", exif=exif)
    upright = lying.transpose(Image.Transpose.ROTATE_270)
    prepared = at_224.prepare(tmp_path / "turned.png", CPU)
    assert torch.equal(prepared, at_224.prepare(upright, CPU))
    assert not torch.equal(prepared, at_224.prepare(lying, CPU))


@pytest.mark.parametrize("suffix", ["gif", "webp"])
@pytest.mark.fault("modes, rotation, animation")
def test_animations_are_judged_by_their_first_frame(tmp_path: Path, suffix: str) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("white", "black")]
    path = tmp_path / f"moving.{suffix}"
    frames[0].save(path, save_all=True, append_images=frames[1:], lossless=True)
    assert pixel(Image.open(path)) == (255, 255, 255)


def test_the_image_given_is_not_changed() -> None:
    image = Image.new("RGBA", (4, 4), (1, 2, 3, 4))
    exif = image.getexif()
    exif[0x0112] = 3
    before = image.tobytes()
    to_rgb(image)
    assert image.mode == "RGBA"
    assert image.tobytes() == before
    assert image.getexif()[0x0112] == 3


# ---- what is refused


def png_header(width: int, height: int) -> bytes:
    """A PNG that declares this size and holds 1 kB of pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = zlib.compress(bytes(1000))
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    )


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize(
    ("width", "height", "message"),
    [
        (10_000, 10_000, "10000x10000 is more than 64 megapixels"),
        (30_000, 30_000, "far too many megapixels"),  # PIL's own check
        (100_000, 1, "100000x1 pixels is too narrow"),
        (1, 100_000, "1x100000 pixels is too narrow"),
    ],
)
@pytest.mark.fault("image bombs")
def test_bombs_are_refused_before_decoding(
    tmp_path: Path, at_224: Preprocessing, width: int, height: int, message: str
) -> None:
    path = tmp_path / "bomb.png"
    path.write_bytes(png_header(width, height))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(BadImageError, match=rf"bomb\.png: .*{message}"):
        at_224.prepare(path, CPU)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kB


@pytest.mark.parametrize("kind", [b"zTXt", b"iTXt"])
@pytest.mark.fault("texts inside images")
def test_text_that_unpacks_to_much_is_refused(
    tmp_path: Path, at_224: Preprocessing, kind: bytes
) -> None:
    photo(64, 64).save(tmp_path / "a.png")
    content = (tmp_path / "a.png").read_bytes()
    packed = zlib.compress(bytes(60_000_000))
    head = b"parameters\0\0" if kind == b"zTXt" else b"parameters\0\1\0\0\0"
    data = kind + head + packed
    chunk = struct.pack(">I", len(data) - 4) + data + struct.pack(">I", zlib.crc32(data))
    (tmp_path / "a.png").write_bytes(content[:33] + chunk + content[33:])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(BadImageError, match=r"a\.png: "):
        at_224.prepare(tmp_path / "a.png", CPU)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kB


def encoded(path: Path, **options: object) -> bytes:
    photo(64, 64).save(path, **options)
    return path.read_bytes()


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp"])
@pytest.mark.fault("damaged images")
def test_truncated_files(tmp_path: Path, at_224: Preprocessing, suffix: str) -> None:
    path = tmp_path / f"half.{suffix}"
    content = encoded(path)
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(BadImageError, match=rf"half\.{suffix}: "):
        at_224.prepare(path, CPU)


@pytest.mark.parametrize(
    "content",
    [b"", b"not an image", b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"8BPS\x00\x01" * 50],
    ids=["empty", "text", "svg", "psd"],
)
@pytest.mark.fault("damaged images")
def test_files_that_are_no_images(tmp_path: Path, at_224: Preprocessing, content: bytes) -> None:
    path = tmp_path / "image.png"
    path.write_bytes(content)
    with pytest.raises(BadImageError, match=r"image\.png: not an image in one of PNG"):
        at_224.prepare(path, CPU)


@pytest.mark.fault("damaged images")
def test_formats_beyond_the_list_are_refused(tmp_path: Path, at_224: Preprocessing) -> None:
    path = tmp_path / "image.png"
    encoded(path, format="PPM")
    with pytest.raises(BadImageError, match="not an image in one of PNG"):
        at_224.prepare(path, CPU)


def test_paths_without_a_file(tmp_path: Path, at_224: Preprocessing) -> None:
    os.mkfifo(tmp_path / "pipe.png")  # opening it would wait for ever
    for path in (tmp_path / "pipe.png", tmp_path / "missing.png", tmp_path):
        with pytest.raises(BadImageError, match="no such image file"):
            at_224.prepare(path, CPU)


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 3), np.float32),
        np.zeros((3, 4, 4), np.uint8),
        torch.zeros(3, 4, 4, dtype=torch.int32),
        torch.zeros(4, 4, 3, dtype=torch.uint8),
        7,
        None,
    ],
)
def test_what_is_not_a_image(at_224: Preprocessing, image: object) -> None:
    with pytest.raises(ValueError, match=r"image|path"):
        at_224.prepare(image, CPU)  # type: ignore[arg-type]


def test_tensors_have_the_limits_of_files(at_224: Preprocessing) -> None:
    with pytest.raises(BadImageError, match="too narrow"):
        at_224.prepare(torch.zeros(3, 1, 101, dtype=torch.uint8), CPU)
    wide = torch.zeros(1, dtype=torch.uint8).expand(3, MAX_PIXELS // 5000, 5001)
    with pytest.raises(BadImageError, match="64 megapixels"):
        at_224.prepare(wide, CPU)
