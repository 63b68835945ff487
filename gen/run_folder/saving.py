"""How an image becomes a file: encoded with its metadata inside, and never half-written."""

import io
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image

from gen import metadata
from gen.errors import RoomError
from gen.metadata import Metadata

SUFFIX_OF_FORMAT = {"png": ".png", "jpeg": ".jpg", "webp": ".webp"}
ENCODING: Mapping[str, Mapping[str, int]] = {
    "png": {},
    "jpeg": {"quality": 95, "subsampling": 0},
    "webp": {"quality": 90},
}


@dataclass(frozen=True)
class Export:
    """How images become files."""

    format: str = "png"
    strip_metadata: bool = False

    @property
    def suffix(self) -> str:
        """How the files' names end."""
        return SUFFIX_OF_FORMAT[self.format]

    def encode(self, image: Image.Image) -> bytes:
        """Return the bytes of an image file without metadata; the same image gives the same."""
        out = io.BytesIO()
        image.save(out, self.format, **ENCODING[self.format])
        return out.getvalue()

    def with_record(self, data: bytes, record: Metadata) -> bytes:
        """Return what `encode` gave with this record inside, unless there is to be none."""
        return data if self.strip_metadata else metadata.embed(data, record)

    def with_rank(
        self, path: Path, rank: int | None, score: float | None, scores: Mapping[str, float]
    ) -> bytes:
        """Return the bytes of a saved image file with its rank and score in its metadata, if any.

        The pixels stay encoded as they are. Raises FileNotFoundError if the file is gone, and
        InputError if it is damaged.
        """
        data = path.read_bytes()
        if self.strip_metadata:
            return data
        record = replace(metadata.read(path), rank=rank, score=score, scores=scores)
        return metadata.embed(data, record)


def write(path: Path, data: bytes) -> None:
    """Write a file that appears under its name only when all of it is on the disk.

    Raises RoomError if it cannot be written; what was there before is kept.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise no_room(path, error) from error
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
    """Return the error that says what could not be written, and how much room there is."""
    free = _free(path.parent) / 1e6
    return RoomError(
        f"cannot write {path}: {error.strerror} ({free:.0f} MB free); what was saved before is "
        "kept: make room and run the same command again"
    )


def _free(folder: Path) -> int:
    """Return the bytes free on the disk where a folder is, or will be."""
    there = next(path for path in (folder, *folder.parents) if path.is_dir())
    return shutil.disk_usage(there).free
