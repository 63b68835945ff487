"""The things that the world can draw: the one table, read from concepts.tsv.

Code points, names and tags are those of emojibase-data and emojilib (MIT); the last column says
which sets draw the thing, and under which name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

TABLE = Path(__file__).with_name("concepts.tsv")


@dataclass(frozen=True)
class Concept:
    """One thing: its code point, its name, words that people also use, and its drawings."""

    codepoint: str  # "U+1F43C", several with hyphens between
    name: str
    category: str
    tags: tuple[str, ...]
    drawings: Mapping[str, str]  # set → name in its package


def read(path: Path = TABLE) -> tuple[Concept, ...]:
    """Read the table, in its order."""
    rows = path.read_text(encoding="utf-8").splitlines()[1:]
    return tuple(_concept(*row.split("\t")) for row in rows)


def _concept(codepoint: str, name: str, category: str, tags: str, drawings: str) -> Concept:
    return Concept(
        codepoint,
        name,
        category,
        tuple(tag.strip() for tag in tags.split(",") if tag.strip()),
        dict(drawing.split(":", 1) for drawing in drawings.split()),
    )


CONCEPTS = read()
