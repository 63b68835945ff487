"""The images that people have starred, in a small file of the run folder."""

import json
from pathlib import Path
from threading import Lock
from typing import Any

from gen.run_folder.saving import write
from pipelines.checkpoints.configs import read_json

FILE = "stars.json"
Key = tuple[int, int]  # an image: the number of its prompt, and its seed


class Stars:
    """Which images have a star; for callers in many threads."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / FILE
        self._lock = Lock()
        self._keys = _read(self._path)

    def __contains__(self, key: object) -> bool:
        return key in self._keys

    def prompts(self) -> set[int]:
        """Return the numbers of the prompts that have a starred image."""
        with self._lock:
            return {number for number, _ in self._keys}

    def toggle(self, key: Key) -> bool:
        """Give an image a star, or take it; return whether it has one now. Raises RoomError."""
        with self._lock:
            self._keys ^= {key}
            pairs = sorted([number, str(seed)] for number, seed in self._keys)
            write(self._path, json.dumps(pairs).encode())
            return key in self._keys


def _read(path: Path) -> set[Key]:
    """Return the keys in a file of stars; none for what is no such file."""
    try:
        return {(int(number), int(seed)) for number, seed in read_json(path, list[Any])}
    except (OSError, TypeError, ValueError):
        return set()
