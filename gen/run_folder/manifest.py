"""The manifest: a JSON object a line for whatever happened in a run folder, only ever appended."""

import fcntl
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from threading import Lock
from typing import Any

from gen.errors import InputError


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

    def __iter__(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yield every record and where it begins, oldest first; lines that are no JSON objects are
        passed over.
        """
        return ((start, record) for start, _, record in records(self._path))

    def read(self, places: Iterable[int]) -> Iterator[dict[str, Any]]:
        """Yield the records that begin at these places."""
        with self._path.open("rb") as file:
            for place in places:
                file.seek(place)
                yield json.loads(file.readline())

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


def records(path: Path, start: int = 0) -> Iterator[tuple[int, int, dict[str, Any]]]:
    """Yield every whole record from byte `start` on, with where it begins and ends, oldest first.

    Lines that are no JSON objects are passed over; a last line that is still being written is left.
    """
    place = start
    with path.open("rb") as file:
        file.seek(start)
        for line in file:
            if not line.endswith(b"\n"):
                return
            try:
                record = json.loads(line)
            except (ValueError, RecursionError):
                record = None
            end = place + len(line)
            if isinstance(record, dict):
                yield place, end, record
            place = end
