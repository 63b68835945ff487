"""The files of wildcards: lines of text files, lists of YAML and JSON files, by their names.

animals.txt            __animals__                   a line each, # begins a comment
sea/fish.txt           __sea/fish__
clothes.yaml           __shirts__ __hats/summer__    the lists in it, by their keys
shapes.json            __shapes__                    a list that is the whole file
"""

import difflib
import logging
import math
import os
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path

from dynamicprompts.wildcards import WildcardManager
from dynamicprompts.wildcards.collection import WildcardCollection
from dynamicprompts.wildcards.collection.list import ListWildcardCollection
from dynamicprompts.wildcards.item import WildcardItem
from dynamicprompts.wildcards.values import WildcardValues

from gen.errors import InputError
from gen.settings.templates.lists import MOST_VALUES, read_lists
from pipelines.settings import MAX_TEXT

MOST_FILES = 10_000
LARGEST_FILE = 2**24  # bytes
HEAVIEST = 1e9  # weight of a value
STRUCTURED = (".yaml", ".json")
Lists = dict[str, WildcardCollection | list[str]]


class Wildcards(WildcardManager):
    """The wildcards of a folder. A name that means nothing is an error; so is a damaged file."""

    def __init__(self, root: Path) -> None:
        self.root = root
        # What the library warns of, with a traceback at that, is an error here.
        logging.getLogger("dynamicprompts").setLevel(logging.CRITICAL)
        lists, self.damaged = _collections(root)
        super().__init__(root_map={"": [lists]} if lists else None)

    def get_values(self, wildcard: str) -> WildcardValues:
        """Return the lines that a name means; raises InputError if there are none."""
        values = super().get_values(wildcard)
        if values:
            return values
        names = sorted(self.get_collection_names())
        near = difflib.get_close_matches(wildcard[:200], names[:1000], n=3)
        meant = f"; did you mean {', '.join(f'__{name}__' for name in near)}?" if near else ""
        shown = wildcard if len(wildcard) <= 80 else wildcard[:80] + "…"
        damaged = "".join(f"; {reason}" for reason in self.damaged[:3])
        raise InputError(
            f"prompt: __{shown}__ means no line of a file in {self.root}{meant}{damaged}"
        )


class NoWildcards(WildcardManager):
    """What stands for wildcards where there is no folder of them: their signs stay."""


def read_folder(folder: Path) -> Wildcards:
    """Return the wildcards of a folder, as its files are now; the last few are kept."""
    root = folder.expanduser().resolve()
    if not root.is_dir():
        raise InputError(f"wildcards {folder}: is not a folder")
    files = tuple(_files(root))
    return _read(root, files)


@lru_cache(4)
def _read(root: Path, files: tuple[tuple[str, int, int], ...]) -> Wildcards:
    return Wildcards(root)


def _files(root: Path) -> Iterator[tuple[str, int, int]]:
    """Yield the files of wildcards in a folder, and those in it, with their times and sizes.

    A link that leaves the folder is not followed.
    """
    count = 0
    for directory, inner, names in os.walk(root):
        inner[:] = sorted(name for name in inner if not name.startswith("."))
        for name in sorted(names):
            path = Path(directory) / name
            if path.suffix not in (".txt", *STRUCTURED) or name.startswith("."):
                continue
            if not path.resolve().is_relative_to(root) or not path.is_file():
                continue
            count += 1
            if count > MOST_FILES:
                raise InputError(f"wildcards {root}: more than {MOST_FILES} files")
            there = path.stat()
            yield str(path.relative_to(root)), there.st_mtime_ns, there.st_size


def _collections(root: Path) -> tuple[Lists, list[str]]:
    """Return all lists by their names, and why some files cannot be read."""
    found: Lists = {}
    damaged = []
    for name, _, _ in _files(root):
        path = root / name
        if path.suffix == ".txt":
            found[path.relative_to(root).with_suffix("").as_posix()] = _Lines(path)
            continue
        folder = path.relative_to(root).parent.as_posix()
        within = "" if folder == "." else f"{folder}/"
        try:
            found |= {within + key: values for key, values in _structured(path)}
        except InputError as error:
            damaged.append(str(error))
    return found, damaged


class _Lines(WildcardCollection):
    """The lines of a text file, read when they are first needed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lines: list[str] | None = None

    def get_values(self) -> list[str]:
        """Return the lines that are neither empty nor a comment."""
        if self.lines is None:
            lines = (line.strip() for line in _text(self.path).splitlines())
            self.lines = [line for line in lines if line and not line.startswith("#")]
            _check(self.path, self.lines)
        return self.lines


def _structured(path: Path) -> list[tuple[str, ListWildcardCollection]]:
    """Return the lists of a YAML or JSON file, with their names."""
    text = _text(path)
    found = []
    try:
        for name, values in read_lists(text, path.suffix, path.stem):
            _check(path, values)
            found.append((name, ListWildcardCollection(values)))
    except InputError:
        raise
    except Exception as error:  # what the readers of YAML and JSON raise, and for odd weights
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise InputError(f"{path} cannot be read: {reason}") from error
    return found


def _check(path: Path, values: Sequence[str | WildcardItem]) -> None:
    if len(values) > MOST_VALUES:
        raise InputError(f"{path}: more than {MOST_VALUES} values")
    for value in values:
        if len(str(value)) > MAX_TEXT:
            raise InputError(f"{path}: a value of more than {MAX_TEXT} characters")
        weight = getattr(value, "weight", 1.0)
        if not (math.isfinite(weight) and 0 < weight <= HEAVIEST):
            raise InputError(f"{path}: the weight {weight} of {str(value)[:40]!r}: it is above 0")


def _text(path: Path) -> str:
    try:
        if path.stat().st_size > LARGEST_FILE:
            raise InputError(f"{path}: larger than {LARGEST_FILE // 2**20} MB")
        return path.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} cannot be read as UTF-8: {error}") from error
