"""The manifest: a JSON object a line for whatever happened in a run folder, only ever appended."""

import fcntl
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

from gen.errors import InputError
from pipelines.checkpoints.configs import parse_json

LONGEST_LINE = 16 * 2**20  # bytes: ten times a ranking of ten thousand candidates
KEPT = 2000  # bytes of a line that cannot be read


@dataclass(frozen=True)
class Unreadable:
    """A line that is no JSON object: how it begins, and why it cannot be read."""

    text: str
    reason: str


class Manifest:
    """A JSONL file that one process at a time appends to.

    A kill in the middle of a line costs that line alone: it is cut off when the file is opened
    next. Raises InputError while another process holds the file, OSError if it cannot be written.
    """

    def __init__(self, path: Path) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW
        self._file = os.open(path, flags, 0o644)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # ends with the process
        except OSError as error:
            os.close(self._file)
            raise InputError(f"another run is writing to {path.parent}: choose another") from error
        self._path = path
        self._lock = Lock()
        self._cut_off_half_a_line()

    def __iter__(self) -> Iterator[tuple[int, dict[str, Any] | Unreadable]]:
        """Yield every record, or what cannot be read, and where it begins, oldest first."""
        return ((start, record) for start, _, record in records(self._path))

    def read(self, places: Iterable[int]) -> Iterator[dict[str, Any]]:
        """Yield the records that begin at these places."""
        with self._path.open("rb") as file:
            for place in places:
                file.seek(place)
                yield parse_json(file.readline())

    def append(self, record: dict[str, Any]) -> int:
        """Add one record and return where it begins; after an OSError all is as it was before."""
        line = json.dumps(record, allow_nan=False).encode() + b"\n"
        with self._lock:
            size = os.fstat(self._file).st_size
            try:
                while line:
                    line = line[os.write(self._file, line) :]
            except OSError:
                os.ftruncate(self._file, size)
                raise
        return size

    def close(self) -> None:
        """Let others write to the file."""
        os.close(self._file)

    def _cut_off_half_a_line(self) -> None:
        end = size = os.fstat(self._file).st_size
        while end > 0:
            start = max(0, end - 4096)
            block = os.pread(self._file, end - start, start)
            if b"\n" in block:
                end = start + block.rindex(b"\n") + 1
                break
            end = start
        if end < size:
            os.ftruncate(self._file, end)


def records(path: Path, start: int = 0) -> Iterator[tuple[int, int, dict[str, Any] | Unreadable]]:
    """Yield every whole line from byte `start` on, with where it begins and ends, oldest first.

    A last line that is still being written is left.
    """
    place = start
    with path.open("rb") as file:
        file.seek(start)
        while line := file.readline(LONGEST_LINE + 1):
            size, is_whole = len(line), line.endswith(b"\n")
            while not is_whole and (more := file.readline(LONGEST_LINE)):  # too long to be held
                size, is_whole = size + len(more), more.endswith(b"\n")
            if not is_whole:
                return
            yield place, place + size, _read(line, size)
            place += size


def _read(line: bytes, size: int) -> dict[str, Any] | Unreadable:
    try:
        if size > LONGEST_LINE:
            raise ValueError(f"it has more than {LONGEST_LINE} bytes")
        record: dict[str, Any] = parse_json(line)
        return record
    except ValueError as error:
        return Unreadable(line[:KEPT].decode("utf-8", "replace").strip(), str(error))
