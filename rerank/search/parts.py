"""The index of a folder on disk: features and files in parts, each whole or not there.

A part is `.rerank/00000007.safetensors` with `features` (N, D) and `files`, the bytes of a JSON
object a line for each row: path inside the folder, size, time of change. Later parts count where
they tell of the same file, and one that `begins` makes all before it void. So a process that is
killed at any moment leaves an index that is whole, with all parts that it had finished.

Earlier versions kept one pair of files, `features.safetensors` and `files.jsonl`, which are read.
"""

import fcntl
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from rerank.whole_files import written_whole

OLD_FEATURES, OLD_FILES = "features.safetensors", "files.jsonl"
LONGEST_LINE = 20_000  # bytes: a path and two numbers
Row = tuple["Entry", torch.Tensor]  # (D,)


@dataclass(frozen=True)
class Entry:
    """An image as it was when it was read: its path inside the folder, bytes, time of change."""

    file: str
    size: int
    changed: int  # nanoseconds


@dataclass(frozen=True)
class Stored:
    """What is on disk: rows by file, and what of it makes no sense, each in a line."""

    rows: dict[str, Row]
    problems: tuple[str, ...] = ()


@contextmanager
def lock(place: Path) -> Iterator[None]:
    """Keep other processes from writing to an index. Raises ValueError while one does."""
    place.mkdir(parents=True, exist_ok=True)
    with (place / "lock").open("wb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ValueError(f"{place}: another `rerank index` is writing there") from error
        for leftover in place.glob(".*.new"):  # of one that was killed
            leftover.unlink(missing_ok=True)
        yield


def exists(place: Path) -> bool:
    """Return whether there is an index."""
    return bool(_numbers(place)) or (place / OLD_FILES).is_file()


def read(place: Path, weights: str, width: int) -> Stored:
    """Read the parts that were made with these weights, whose features are so wide.

    What is damaged or was edited by somebody is left out, and told.
    """
    rows: dict[str, Row] = {}
    problems: list[str] = []
    names = [OLD_FEATURES] if (place / OLD_FILES).is_file() else []
    for name in [*names, *(_name(number) for number in _numbers(place))]:
        path = place / name
        try:
            facts, features, lines = _read_part(path)
        except (OSError, ValueError, SafetensorError) as error:
            problems.append(f"{path}: damaged ({error})")
            continue
        if facts.get("begins") == "yes":
            rows, problems = {}, []
        if facts.get("model") != weights:
            continue
        entries = [_entry(line) for line in lines]
        if not entries:
            continue
        if features.shape != (len(entries), width) or features.dtype != torch.float32:
            problems.append(f"{path}: damaged (features of {tuple(features.shape)})")
            continue
        sound = features.isfinite().all(1).tolist()
        for entry, row, is_finite in zip(entries, features, sound, strict=True):
            if entry is not None and is_finite:
                rows[entry.file] = entry, row
        if wrong := sum(entry is None for entry in entries) + sound.count(False):
            problems.append(f"{path}: {wrong} rows make no sense and are left out")
    return Stored(rows, tuple(problems))


def made_with(place: Path, weights: str) -> bool:
    """Return whether the newest part was made with these weights."""
    names = [_name(number) for number in _numbers(place)] or [OLD_FEATURES]
    with suppress(OSError, SafetensorError), safe_open(place / names[-1], framework="pt") as opened:
        return (opened.metadata() or {}).get("model") == weights
    return True  # it cannot be read: a problem, and no other weights


def append(place: Path, weights: str, rows: Sequence[Row], *, begins: bool = False) -> None:
    """Write rows as a new part; with `begins`, remove all older ones afterwards.

    Raises OSError when the disk is full; what was there before is kept.
    """
    older = _numbers(place)
    path = place / _name(max(older, default=0) + 1)
    lines = b"".join(json.dumps(asdict(entry)).encode() + b"\n" for entry, _ in rows)
    features = torch.stack([row for _, row in rows]) if rows else torch.empty(0, 0)
    tensors = {
        "features": features.contiguous(),
        "files": torch.frombuffer(bytearray(lines or b"\n"), dtype=torch.uint8),
    }
    with written_whole(path) as temporary:
        save_file(tensors, temporary, {"model": weights, "begins": "yes" if begins else "no"})
    if begins:
        for number in older:
            (place / _name(number)).unlink(missing_ok=True)
        for name in (OLD_FILES, OLD_FEATURES):
            (place / name).unlink(missing_ok=True)


def count(place: Path) -> int:
    """Return how many parts there are."""
    return len(_numbers(place)) + (place / OLD_FILES).is_file()


def _read_part(path: Path) -> tuple[dict[str, str], torch.Tensor, list[bytes]]:
    with safe_open(path, framework="pt") as opened:
        facts = opened.metadata() or {}
        features = opened.get_tensor("features")
        if path.name == OLD_FEATURES:
            lines = (path.parent / OLD_FILES).read_bytes()
        else:
            lines = bytes(opened.get_tensor("files").numpy())
    rows = lines.splitlines() if len(features) else []
    return facts, features, rows


def _entry(line: bytes) -> Entry | None:
    """Read a row; None for one that says nothing sound, or leads out of the folder."""
    try:
        if len(line) > LONGEST_LINE:
            return None
        values = json.loads(line.decode("utf-8", "surrogateescape"))
        entry = Entry(str(values["file"]), int(values["size"]), int(values["changed"]))
        os.fsencode(entry.file)
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return None
    path = PurePosixPath(entry.file)
    return None if path.is_absolute() or ".." in path.parts or "\0" in entry.file else entry


def _numbers(place: Path) -> list[int]:
    """Return the numbers of the parts, in order."""
    return sorted(
        int(path.stem)
        for path in place.glob("*.safetensors")
        if path.stem.isascii() and path.stem.isdigit()
    )


def _name(number: int) -> str:
    return f"{number:08d}.safetensors"
