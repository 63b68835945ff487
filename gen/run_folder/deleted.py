"""Images that were deleted: put aside in a folder of their own, brought back, or removed."""

import os
from collections.abc import Iterator
from pathlib import Path

from gen.run_folder.events import IMAGE_NAME, Files, checked_name
from gen.run_folder.saving import no_room

DELETED = "deleted"  # the folder of what was deleted and can still be brought back


def put_aside(folder: Path, files: Files) -> None:
    """Move images of a run folder aside; one that is there already is kept once.

    Raises RoomError if that cannot be.
    """
    for _, _, name in _each(files):
        _move(folder / name, _aside(folder, name))


def bring_back(folder: Path, files: Files) -> None:
    """Move images back to where they were; what was made again since then stays as it is."""
    for number, seed, name in _each(files):
        if not any(_find(folder, number, seed)) and not any(
            _find(folder / "candidates", number, seed)
        ):
            _move(_aside(folder, name), folder / name)
        for older in _find(folder / DELETED, number, seed):  # of no use to anybody now
            older.unlink()


def empty(folder: Path) -> None:
    """Remove for good what is aside."""
    for path in (folder / DELETED).glob("*"):
        if IMAGE_NAME.fullmatch(path.name):
            path.unlink()


def _each(files: Files) -> Iterator[tuple[int, int, str]]:
    """Yield number, seed and name of every file. Raises ValueError for a name that is not ours."""
    for number, names in files.items():
        for seed, name in names.items():
            yield number, seed, checked_name(name)


def _aside(folder: Path, name: str) -> Path:
    """Return where a deleted file is; number and seed make its bare name its own."""
    return folder / DELETED / Path(name).name


def _find(folder: Path, number: int, seed: int) -> list[Path]:
    """Return a candidate's files in a folder, whatever its rank and the version that named it."""
    patterns = (f"{seed}.*", f"r*-{seed}.*", f"{seed}-r*.*")
    return [path for pattern in patterns for path in folder.glob(f"{number:04d}-{pattern}")]


def _move(old: Path, new: Path) -> None:
    try:
        new.parent.mkdir(exist_ok=True)
        if old.is_file():
            os.replace(old, new)
    except OSError as error:
        raise no_room(new, error) from error
