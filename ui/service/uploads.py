"""Images that clients send to be changed, kept in the run folder under their hash."""

import hashlib
from pathlib import Path

from gen.run_folder.saving import SUFFIX_OF_FORMAT, no_room, write

FOLDER = "originals"  # in the run folder


def keep(run_folder: Path, data: bytes, image_format: str) -> Path:
    """Write an image's file (PNG, JPEG or WEBP) and return its path; the same image once.

    Raises RoomError if the disk is full.
    """
    name = hashlib.sha256(data).hexdigest()[:32] + SUFFIX_OF_FORMAT[image_format.lower()]
    path = run_folder / FOLDER / name
    if not path.is_file():
        try:
            path.parent.mkdir(exist_ok=True)
        except OSError as error:
            raise no_room(path, error) from error
        write(path, data)
    return path
