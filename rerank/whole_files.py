"""Files that appear under their name only when all of them is on the disk. Imports no torch."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LONGEST_NAME = 255  # bytes, on what people have disks formatted with


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; what is written to it takes its place at the end.

    When the block fails, what was there before is kept. Raises OSError that names `path`.
    """
    temporary = path.with_name(f".{os.getpid()}-{abs(hash(path.name)):x}.new")
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        code = error.errno if isinstance(error, OSError) else _code_of(error)
        if code is not None:
            raise OSError(code, os.strerror(code), str(path)) from error
        raise


def shortened(name: str, most: int = LONGEST_NAME) -> str:
    """Return a file's name of at most so many bytes; the end of the stem is cut, not the suffix."""
    if len(os.fsencode(name)) <= most:
        return name
    stem, dot, suffix = name.rpartition(".")
    if not stem or len(suffix) > 10:
        stem, dot, suffix = name, "", ""
    while len(os.fsencode(stem + dot + suffix)) > most:
        stem = stem[:-1]
    return stem + dot + suffix


def _code_of(error: BaseException) -> int | None:
    """Return the system's code in an error of a library that has only words for it."""
    if found := re.search(r"\(os error (\d+)\)", str(error)):  # as safetensors says it
        return int(found[1])
    return None
