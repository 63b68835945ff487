"""The phrases that prompts are made of, as data, and the matcher that finds them in a text.

A pattern is a row of elements with spaces between:

    on|against   one of these words
    <place>      a slot: a phrase of a table, what other patterns describe, or an open class
    …?           may be missing
    =… and !…    must follow, or must not; takes no words

Matching takes time in proportion to the text: slots look at a few words, and what an open class
runs over is taken as a whole. Imports no torch.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from itertools import takewhile
from typing import Any, TypeAlias

from rerank.claims.vocabulary import NUMBERS, Phrases

Span = tuple[int, int]  # of words here, of characters in a sentence
Found: TypeAlias = dict[str, Span]  # slot → where it is
Element: TypeAlias = tuple[str, str, frozenset[str], bool]

DETERMINERS = frozenset({"a", "an", "the", "its", "his", "her", "their", "this", "that", "some"})
VAGUE = frozenset({"several", "many", "few", "multiple", "various"})
JOINTS = frozenset({"and", "with", "&", ",", ";", ".", "is", "are", "plus"})
UNDERSTOOD = JOINTS | DETERMINERS | {"which"}
# Of a first thing on a second.
ACTIONS = frozenset(
    {"riding", "holding", "wearing", "carrying", "eating", "watching", "chasing", "hugging",
     "kissing", "pulling", "pushing", "driving", "playing", "reading", "drinking", "throwing",
     "catching", "feeding", "following"}
)  # fmt: skip
PREPOSITIONS = frozenset(
    {"of", "at", "in", "on", "to", "by", "from", "for", "as", "like", "under", "over", "above",
     "below", "beneath", "underneath", "behind", "beside", "near", "between", "among", "around",
     "through", "across", "along", "into", "onto", "inside", "within", "atop", "next", "front",
     "against", "without"}
)  # fmt: skip
OTHERS = frozenset({"while", "who", "which", "where", "it", "there", "highly", "very"})
MEDIA = frozenset(
    {"photo", "photograph", "picture", "image", "drawing", "painting", "sticker", "illustration",
     "cartoon", "sketch", "rendering", "render", "portrait", "closeup", "view", "poster"}
)  # fmt: skip
# What a noun that no list holds cannot contain.
STOPS = DETERMINERS | VAGUE | JOINTS | ACTIONS | PREPOSITIONS | OTHERS | frozenset(NUMBERS)
ENDS = frozenset({"", ",", ".", ";", "and", "with"})

WORDS = {
    "determiner": DETERMINERS,
    "action": ACTIONS,
    "end": ENDS,
    "group": frozenset({"group", "stack", "pile", "set", "row", "flock", "herd", "pack"}),
    "manner": frozenset({"shape", "form", "style", "manner"}),
    "medium": MEDIA,
    "shade": frozenset({"light", "dark", "bright", "pale", "deep"}),
}

# Slots that other patterns describe; the first that fits is taken.
PARTS = {
    "colour": (
        "!<listed> <shade>? <plain colour> and <plain colour> !<end>",
        "!<listed> <shade>? <plain colour>",
    ),
    "adjectives": ("<size> <colour>", "<colour> <size>", "<size>", "<colour>", ""),
    "quantity": (
        "<determiner>? pair|couple of",
        "<determiner>? <group> of <number>",
        "<determiner>? <number>",
    ),
    "noun": ("<listed>", "<unlisted>"),
    "thing": (
        "<determiner>? <listed>",
        "<quantity> <adjectives> <noun>",
        "<determiner>? <adjectives> <noun>",
    ),
    "named": ("a|an|the? <new background> =background|ground|backdrop",),
}

OPENINGS = (  # "there is", "a photo of", "an oil painting of"
    "there is|are",
    "<medium> of",
    "<any> <medium> of",
    "<any> <any> <medium> of",
    "<any> <any> <any> <medium> of",
)
# What a part of a prompt may be, by what it tells; the first that fits is taken.
PATTERNS = (
    ("nothing", "in the <manner> of"),
    ("background", "on|against|, <named> <any>"),
    ("background", "in front of <named> <any>"),
    ("background", "on|against <known background> =<end>"),
    ("background", "in front of <known background> =<end>"),
    ("side", "<side>"),  # "a cat with a dog to its left"
    ("place", "<place> !of"),
    ("relation", "<relation> =<thing>"),
    ("relation", "<action> =<thing>"),
    ("colour", "that|which? is|are <plain colour> =<end>"),  # "a car that is blue"
    ("thing", "<thing>"),
)
LEFT_OVER = (  # "on pale blue", "at dusk", "highly detailed"
    "next to",
    "at|in|during|by|on <colour>",
    "at|in|during|by|on <plain>",
    "<loose>",
)

NOTHING: Element = ("", "", frozenset(), True)
ELEMENT = re.compile(r"([=!]?)(?:<([^>]+)>|([^\s<?]+))(\??)")
# A word, or a mark; of several marks in a row the first counts.
TOKEN = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*|([,.;&])(?:\s*[,.;&])*")


class Matcher:
    """Finds phrases in the words of one text."""

    def __init__(self, text: str, tables: Mapping[str, Phrases]) -> None:
        tokens = list(TOKEN.finditer(text))
        self.words = [(token[1] or token[0]).lower() for token in tokens]
        self.spans = [token.span(1) if token[1] else token.span() for token in tokens]
        self.tables = tables
        self.begin = 0  # of the part that is being read
        self._filled: dict[tuple[str, int, bool], tuple[tuple[int, Found], ...]] = {}

    def first(self, patterns: Iterable[str], at: int) -> tuple[int, Found] | None:
        """Return where the first pattern that fits there ends, and where its slots are."""
        word = self.word(at)
        for pattern in patterns:
            elements = _elements(pattern)
            look, slot, words, optional = elements[0] if elements else NOTHING
            if look or slot or optional or word in words:  # else it begins with another word
                fit = next(self._fits(elements, at), None)
                if fit is not None:
                    return fit
        return None

    def _fits(self, elements: tuple[Element, ...], at: int) -> Iterator[tuple[int, Found]]:
        """Yield each way in which elements fit there."""
        if not elements:
            yield at, {}
            return
        (look, slot, words, optional), *rest = elements
        ways = iter(self._slot(slot, at) if slot else self._one_of(words, at))
        if look:
            if (next(ways, None) is not None) == (look == "="):
                yield from self._fits(tuple(rest), at)
            return
        for stop, found in ways:
            for end, more in self._fits(tuple(rest), stop):
                yield end, found | more
        if optional:
            yield from self._fits(tuple(rest), at)

    def _slot(self, slot: str, at: int) -> tuple[tuple[int, Found], ...]:
        """Return each way in which a slot is filled there; patterns that begin alike ask again."""
        place = (slot, at, at == self.begin)
        if place not in self._filled:
            self._filled[place] = tuple(self._fill(slot, at))
        return self._filled[place]

    def _fill(self, slot: str, at: int) -> Iterator[tuple[int, Found]]:
        inner: Found = {}
        stops: Iterable[int] = ()
        if slot in PARTS:
            fit = self.first(PARTS[slot], at)
            stops, inner = ((), {}) if fit is None else ((fit[0],), fit[1])
        elif slot in WORDS:
            stops = [at + 1] if self.word(at) in WORDS[slot] else []
        elif slot in self.tables:
            length = self.tables[slot].length_at(self.words, at)
            stops = [at + length] if length > 0 else []
        else:
            stops = OPEN_CLASSES[slot](self, at)
        for stop in stops:
            yield stop, inner | {slot: (at, stop)}

    def _one_of(self, words: frozenset[str], at: int) -> Iterator[tuple[int, Found]]:
        if self.word(at) in words:
            yield at + 1, {}

    def word(self, at: int) -> str:
        """Return a word, in lower case; "" beyond the end."""
        return self.words[at] if at < len(self.words) else ""

    def said(self, span: Span) -> str:
        """Return the words of a span."""
        return " ".join(self.words[slice(*span)])

    def meaning(self, slot: str, span: Span) -> Any:
        """Return what the phrase in a slot means; the words themselves if no table has them."""
        return self.tables[slot].meanings.get(self.said(span), self.said(span))

    # ---- open classes: where they may stop

    def any_word(self, at: int) -> list[int]:
        """Any one word."""
        return [at + 1] if at < len(self.words) else []

    def plain_word(self, at: int) -> list[int]:
        """One word that is not of the grammar."""
        return [at + 1] if self.word(at) not in STOPS | {""} else []

    def new_background(self, at: int) -> list[int]:
        """Up to three words, as in "light green", the fewest first."""
        stops = list(range(at + 1, at + 4))
        free = takewhile(lambda stop: self.word(stop - 1) not in STOPS | ENDS, stops)
        return list(free)

    def unlisted(self, at: int) -> list[int]:
        """Return a noun that no table has: the words up to one that cannot be part of it, on
        through "of" as in "a bowl of soup". What begins a part with -ing names nothing."""
        stop = self._plain_words(at, at == self.begin)
        while stop > at and self.word(stop) == "of":
            inner = stop + 1 + (self.word(stop + 1) in DETERMINERS)
            end = self._plain_words(inner, False)
            if end == inner:
                break
            stop = end
        return [stop] if stop > at else []

    def _plain_words(self, at: int, bare: bool) -> int:
        stop = at
        while self.word(stop) not in STOPS | {""}:
            word = self.word(stop)
            is_action = word.endswith("ing") and len(word) > 5
            if (is_action and (stop > at or bare)) or (word.endswith("ly") and len(word) > 4):
                break
            stop += 1
        return stop

    def loose(self, at: int) -> list[int]:
        """Return a word that nothing fits, with the words behind it that are not of the grammar."""
        stop = at + 1
        if self.word(at) not in JOINTS | VAGUE:
            while self.word(stop) not in STOPS | ENDS:
                stop += 1
        return [stop]


OPEN_CLASSES: dict[str, Callable[[Matcher, int], list[int]]] = {
    "any": Matcher.any_word,
    "plain": Matcher.plain_word,
    "new background": Matcher.new_background,
    "unlisted": Matcher.unlisted,
    "loose": Matcher.loose,
}


@cache
def _elements(pattern: str) -> tuple[Element, ...]:
    """Take a pattern apart: looks ahead or not, slot, words, may be missing."""
    return tuple(
        (look, slot, frozenset(words.split("|")), optional == "?")
        for look, slot, words, optional in ELEMENT.findall(pattern)
    )
