"""How a picture becomes a file: encoded with its record inside, and never half-written."""

import io
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from gen.errors import RoomError
from gen.metadata import metadata
from gen.metadata.metadata import Metadata

SUFFIX_OF_FORMAT = {"png": ".png", "jpeg": ".jpg", "webp": ".webp"}
ENCODING: Mapping[str, Mapping[str, int]] = {
    "png": {},
    "jpeg": {"quality": 95, "subsampling": 0},
    "webp": {"quality": 90},
}
MAX_UPSCALE = 8


@dataclass(frozen=True)
class Export:
    """How pictures become files."""

    format: str = "png"
    upscale: int = 1  # times larger than drawn, in each direction
    strip_metadata: bool = False

    def encode(self, image: Image.Image, record: Metadata) -> bytes:
        """The bytes of a picture file; the same picture and record give the same bytes."""
        if self.upscale > 1:
            image = upscaled(image, self.upscale)
        out = io.BytesIO()
        image.save(out, self.format, **ENCODING[self.format])
        return self.with_record(out.getvalue(), record)

    def with_record(self, data: bytes, record: Metadata) -> bytes:
        """A picture file's bytes with another record inside, or with none if that is wished."""
        return data if self.strip_metadata else metadata.embed(data, record)


def upscaled(image: Image.Image, times: int) -> Image.Image:
    """The picture that many times larger in each direction, with soft edges kept sharp."""
    return image.resize((image.width * times, image.height * times), Image.Resampling.LANCZOS)


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file that appears under its name only when all of it is on the disk."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def check_room(folder: Path, size: int) -> None:
    """Raise RoomError unless so many bytes fit on the disk where a folder is, or will be."""
    free = _free(folder)
    if free < size:
        raise RoomError(
            f"{size / 1e9:.1f} GB are to be written to {folder}, {free / 1e9:.1f} GB are free: "
            "make room, or set HF_HUB_CACHE to a folder on another disk"
        )


def no_room(path: Path, error: OSError) -> RoomError:
    """The line that says what could not be written, and how much room there is."""
    free = _free(path.parent) / 1e6
    return RoomError(
        f"cannot write {path}: {error.strerror} ({free:.0f} MB free); what was saved before is "
        "kept: make room and run the same command again"
    )


def _free(folder: Path) -> int:
    """Bytes free on the disk where a folder is, or will be."""
    there = next(path for path in (folder, *folder.parents) if path.is_dir())
    return shutil.disk_usage(there).free
