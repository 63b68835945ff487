"""The words that prompts are taken apart by: those of plain English, or of a model's own world.

A model folder may hold a vocabulary.json, written by those who trained it: its nouns, shapes,
colours, grounds, relations, places and counts. Without one, the tables of plain English below do.
Imports no torch.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

from typing_extensions import TypedDict

from pipelines.checkpoints.configs import read_json
from pipelines.checkpoints.errors import WeightsError

NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
NUMBER_WORDS = {str(number): number for number in range(1, 100)} | {
    word: number for number, word in enumerate(NUMBERS) if number > 0
}
SIDES = ("left", "right")
SIZES = {
    "small": ("small", "tiny", "little"),
    "medium": ("medium-sized",),
    "large": ("large", "big", "huge"),
}
# Column and row of a 3 × 3 grid; None leaves that direction open.
PLACE_CELLS: dict[str, tuple[int | None, int | None]] = {
    "centre": (1, 1),
    "left": (0, None),
    "right": (2, None),
    "top": (None, 0),
    "bottom": (None, 2),
    "top left": (0, 0),
    "top right": (2, 0),
    "bottom left": (0, 2),
    "bottom right": (2, 2),
}


@dataclass(frozen=True)
class Noun:
    """A thing by its name; `forms` are all ways of writing it, singular and plural."""

    name: str
    plural: str
    forms: tuple[str, ...]
    coloured: bool = False  # a shape, which is drawn in any colour


class Forms(TypedDict):
    """A way of writing a noun, as vocabulary.json has it."""

    name: str
    plural: str


class NounRow(Forms):
    """A noun there."""

    synonyms: list[Forms]


class Named(TypedDict):
    """A colour there."""

    name: str


class BackgroundRow(Named):
    """A background there."""

    synonyms: list[str]


class VocabularyFile(TypedDict):
    """What vocabulary.json holds, of which only this is read."""

    nouns: list[NounRow]
    shapes: list[NounRow]
    colours: list[Named]
    grounds: list[BackgroundRow]
    relations: dict[str, list[str]]
    places: dict[str, list[str]]
    counts: dict[str, int]


class Phrases:
    """Phrases of one meaning each, found by their first word."""

    def __init__(self, meanings: Mapping[str, object]) -> None:
        self.meanings = meanings
        self._by_first: dict[str, list[list[str]]] = {}
        for phrase in sorted(meanings, key=lambda phrase: -phrase.count(" ")):
            words = phrase.split(" ")
            self._by_first.setdefault(words[0], []).append(words)

    def length_at(self, words: Sequence[str], at: int) -> int:
        """Return how many words the longest phrase that stands there has; 0 for none."""
        for phrase in self._by_first.get(words[at] if at < len(words) else "", ()):
            if words[at : at + len(phrase)] == phrase:
                return len(phrase)
        return 0


@dataclass(frozen=True)
class Vocabulary:
    """What a prompt may be made of.

    Tables of phrases map a name to the ways of saying it, the plainest first. `closed` says that
    images show nothing but these nouns, and that "a panda" means one.
    """

    nouns: tuple[Noun, ...]
    colours: tuple[str, ...]
    backgrounds: Mapping[str, tuple[str, ...]]
    relations: Mapping[str, tuple[str, ...]]
    places: Mapping[str, tuple[str, ...]]
    highest_count: int
    closed: bool

    def noun_forms(self) -> dict[str, Noun]:
        """Every way of writing a noun."""
        return {form: noun for noun in self.nouns for form in noun.forms}

    @cached_property
    def phrases(self) -> dict[str, Phrases]:
        """The tables that slots of patterns stand for, by the names of the slots."""
        relations, backgrounds = names_of(self.relations), names_of(self.backgrounds)
        sides = {f"{how} its {side}": f"{side} of" for how in ("to", "on") for side in SIDES}
        sides |= {f"{said} it": name for said, name in relations.items() if " " not in said}
        # Plain English has too many nouns and backgrounds for a list: any words may be one.
        tables: dict[str, Mapping[str, object]] = {
            "relation": relations,
            "side": sides,
            "place": names_of(self.places),
            "size": names_of(SIZES),
            "number": NUMBER_WORDS,
            "plain colour": dict.fromkeys(self.colours),
            "background": backgrounds,
            "known background": backgrounds if self.closed else {},
            "listed": self.noun_forms() if self.closed else {},
        }
        return {slot: Phrases(meanings) for slot, meanings in tables.items()}


def names_of(table: Mapping[str, Iterable[str]]) -> dict[str, str]:
    """Phrase → name."""
    return {phrase: name for name, phrases in table.items() for phrase in phrases}


def noun(
    name: str, plural: str, synonyms: Iterable[tuple[str, str]] = (), *, coloured: bool = False
) -> Noun:
    """Return a noun with the forms of its name and its synonyms."""
    forms = tuple(form for pair in ((name, plural), *synonyms) for form in pair)
    return Noun(name, plural, forms, coloured)


def pluralise(word: str) -> str:
    """Return the regular English plural, of the last word."""
    if word.endswith(("s", "x", "z", "ch", "sh")):
        return f"{word}es"
    if word.endswith("y") and word[-2:-1] not in "aeiou":
        return f"{word[:-1]}ies"
    return f"{word}s"


def singularise(word: str) -> str:
    """Return the regular English singular, of the last word."""
    if word.endswith("ies") and len(word) > 4:
        return f"{word[:-3]}y"
    if word.endswith(("sses", "xes", "ches", "shes")):
        return word[:-2]
    return word[:-1] if word.endswith("s") and not word.endswith("ss") else word


def article(words: str) -> str:
    """Return `a` or `an`, by the first letters."""
    first = words.lower()
    if first.startswith(("uni", "use", "usu", "eu", "one")):
        return "a"
    return "an" if first[:1] in ("a", "e", "i", "o", "u") or first.startswith("hour") else "a"


def exclusive(first: str, second: str) -> bool:
    """Whether a thing cannot be at both places: they differ in a direction that both name."""
    if first not in PLACE_CELLS or second not in PLACE_CELLS:
        return first != second
    pairs = zip(PLACE_CELLS[first], PLACE_CELLS[second], strict=True)
    return any(None not in (one, other) and one != other for one, other in pairs)


@cache
def read_vocabulary(folder: Path) -> Vocabulary:
    """Return the vocabulary of a model folder; plain English where it has none.

    Raises WeightsError for a vocabulary.json that is none.
    """
    path = folder / "vocabulary.json"
    if not path.is_file():
        return ENGLISH
    try:
        return _from_json(read_json(path, VocabularyFile))
    except (OSError, ValueError) as error:
        raise WeightsError(f"{path}: not a vocabulary ({type(error).__name__}: {error})") from error


def _from_json(content: VocabularyFile) -> Vocabulary:
    """Return what a file says. Raises ValueError for numbers and phrases that cannot be said."""
    counts = content["counts"].values()
    if not counts or not all(0 < count < len(NUMBERS) for count in counts):
        raise ValueError(f"counts are from 1 to {len(NUMBERS) - 1}")
    if not all(content["relations"].values()) or not all(content["places"].values()):
        raise ValueError("a relation or a place cannot be said")

    def nouns(rows: list[NounRow], *, coloured: bool) -> list[Noun]:
        return [
            noun(
                row["name"],
                row["plural"],
                [(other["name"], other["plural"]) for other in row["synonyms"]],
                coloured=coloured,
            )
            for row in rows
        ]

    return Vocabulary(
        nouns=(*nouns(content["nouns"], coloured=False), *nouns(content["shapes"], coloured=True)),
        colours=tuple(row["name"] for row in content["colours"]),
        backgrounds={row["name"]: (row["name"], *row["synonyms"]) for row in content["grounds"]},
        relations={name: tuple(said) for name, said in content["relations"].items()},
        places={name: tuple(said) for name, said in content["places"].items()},
        highest_count=max(counts),
        closed=True,
    )


ENGLISH = Vocabulary(
    # Only what a noun of a prompt is exchanged for; the nouns of prompts may be any words.
    nouns=tuple(
        noun(name, pluralise(name))
        for name in (
            "dog", "car", "tree", "cup", "chair", "bird",
            "house", "flower", "boat", "guitar", "clock", "shoe",
        )
    ),
    colours=(
        "red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white",
        "grey", "gray", "gold", "golden", "silver", "turquoise", "beige", "violet",
    ),
    backgrounds={
        name: (name,)
        for name in ("white", "black", "grey", "red", "green", "blue", "yellow", "pink")
    },
    relations={
        "left of": ("to the left of", "left of", "on the left of", "on the left side of"),
        "right of": ("to the right of", "right of", "on the right of", "on the right side of"),
        "above": ("above", "over"),
        "below": ("below", "under", "beneath", "underneath"),
        "on": ("on", "on top of", "atop"),
        "in": ("in", "inside", "within"),
        "in front of": ("in front of",),
        "behind": ("behind",),
        "next to": ("next to", "beside", "near", "by"),
    },
    places={
        "centre": ("in the middle", "in the centre", "in the center", "at the centre"),
        "left": ("on the left", "on the left side", "at the left"),
        "right": ("on the right", "on the right side", "at the right"),
        "top": ("at the top", "near the top", "in the upper half"),
        "bottom": ("at the bottom", "near the bottom", "in the lower half"),
        "top left": ("in the top left corner", "at the top left", "in the upper left corner"),
        "top right": ("in the top right corner", "at the top right", "in the upper right corner"),
        "bottom left": (
            "in the bottom left corner", "at the bottom left", "in the lower left corner",
        ),
        "bottom right": (
            "in the bottom right corner", "at the bottom right", "in the lower right corner",
        ),
    },
    highest_count=len(NUMBERS) - 1,
    closed=False,
)  # fmt: skip
