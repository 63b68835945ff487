"""Copies of what edits began from: once in a run folder, by the SHA-256 of the file."""

import hashlib
from pathlib import Path

from gen.run_folder.saving import no_room, write

FOLDER = "originals"
# The settings that name files whose copies are kept, each beside one with the file's hash.
NAMES = ("init_image", "mask", "image_prompt", "mix_with")


def keep(folder: Path, data: bytes, suffix: str) -> Path:
    """Keep the bytes of an image file in a run folder, once, and return where.

    Raises RoomError if the disk is full.
    """
    path = folder / FOLDER / f"{hashlib.sha256(data).hexdigest()}{suffix.lower()}"
    if not path.is_file():
        try:
            path.parent.mkdir(exist_ok=True)
        except OSError as error:
            raise no_room(path, error) from error
        write(path, data)
    return path


def find(folder: Path, digest: str) -> Path | None:
    """Return the copy of the file with this SHA-256, or None."""
    if not digest.isalnum():
        return None
    copies = sorted((folder / FOLDER).glob(f"{digest}.*"))
    return copies[0] if copies else None
