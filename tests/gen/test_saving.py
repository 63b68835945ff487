"""An image's way to its file."""

import errno
import io
import os
from pathlib import Path

import pytest
from PIL import Image

from gen.errors import RoomError
from gen.metadata import Metadata
from gen.run_folder.saving import Export, write
from gen.settings.request import Request

RECORD = Metadata(Request("a panda", seed=7))
IMAGE = Image.radial_gradient("L").resize((64, 48)).convert("RGB")


def opened(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data)).convert("RGB")


def encode(export: Export, image: Image.Image = IMAGE) -> bytes:
    return export.with_record(export.encode(image), RECORD)


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp"])
def test_the_same_image_is_the_same_file(kind: str) -> None:
    export = Export(kind)
    assert encode(export) == encode(export, IMAGE.copy())


def test_png_is_exact_and_the_others_are_close() -> None:
    assert opened(encode(Export("png"))).tobytes() == IMAGE.tobytes()
    for kind in ("jpeg", "webp"):
        after = opened(encode(Export(kind))).tobytes()
        assert max(abs(a - b) for a, b in zip(after, IMAGE.tobytes(), strict=True)) < 24


def test_stripped_metadata_leaves_nothing() -> None:
    data = encode(Export("png", strip_metadata=True))
    assert b"panda" not in data
    assert Image.open(io.BytesIO(data)).info == {}


def test_a_write_that_fails_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.png"
    write(path, b"old")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RoomError, match="No space left") as caught:
        write(path, b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["x.png"]
    assert str(path) in str(caught.value)
    assert "MB free" in str(caught.value)
