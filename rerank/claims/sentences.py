"""Prompts taken apart: what is told of which things, and where in the text.

A reader goes through the words from left to right. At each place the longest known phrase is taken:
an opening ("a photo of"), a ground, a relation, a place, a thing with its number, size and colour.
What none of these fits is remembered as not understood. Imports no torch.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from rerank.claims.vocabulary import NUMBERS, SIZES, Noun, Vocabulary, names_of

Span = tuple[int, int]  # of characters

DETERMINERS = frozenset({"a", "an", "the", "its", "his", "her", "their", "this", "that", "some"})
VAGUE = frozenset({"several", "many", "few", "multiple", "various"})
GROUPS = frozenset({"group", "stack", "pile", "set", "row", "flock", "herd", "pack"})
MEDIA = frozenset(
    {"photo", "photograph", "picture", "image", "drawing", "painting", "sticker", "illustration",
     "cartoon", "sketch", "rendering", "render", "portrait", "closeup", "view", "poster"}
)  # fmt: skip
ACTIONS = frozenset(  # of a first thing on a second
    {"riding", "holding", "wearing", "carrying", "eating", "watching", "chasing", "hugging",
     "kissing", "pulling", "pushing", "driving", "playing", "reading", "drinking", "throwing",
     "catching", "feeding", "following"}
)  # fmt: skip
JOINTS = frozenset({"and", "with", "&", ",", ";", ".", "is", "are", "plus"})
UNDERSTOOD = JOINTS | {"which", "that"}
SIDES = ("left", "right")
MANNERS = frozenset({"shape", "form", "style", "manner"})
PREPOSITIONS = frozenset(
    {"of", "at", "in", "on", "to", "by", "from", "for", "as", "like", "under", "over", "above",
     "below", "beneath", "underneath", "behind", "beside", "near", "between", "among", "around",
     "through", "across", "along", "into", "onto", "inside", "within", "atop", "next", "front",
     "against", "without"}
)  # fmt: skip
OTHERS = frozenset({"while", "who", "which", "where", "it", "there", "highly", "very"})
# What a noun that no list holds cannot contain.
STOPS = DETERMINERS | VAGUE | JOINTS | ACTIONS | PREPOSITIONS | OTHERS | frozenset(NUMBERS)


@dataclass(frozen=True)
class Word:
    """A word or a mark, in lower case, with its place in the text."""

    text: str
    start: int
    end: int


@dataclass(frozen=True)
class Thing:
    """A thing that the prompt names. Spans say where; None is what it leaves open.

    `name` is the vocabulary's where the noun is one of its own, else as written.
    """

    name: str
    noun: Noun | None
    span: Span  # all of it, from the article on
    noun_span: Span
    article_span: Span | None = None  # of "a" or "an"
    count: int | None = None
    count_span: Span | None = None
    colour: str | None = None
    colour_span: Span | None = None
    size: str | None = None
    size_span: Span | None = None


@dataclass(frozen=True)
class Relation:
    """`first` is `name` `second`; indices into the things.

    `after` is the way of saying it behind both things: "a cat with a dog to its left". `swaps` says
    that it is an action, whose only opposite is that the things change places.
    """

    name: str
    first: int
    second: int
    span: Span
    after: bool = False
    swaps: bool = False


@dataclass(frozen=True)
class Sentence:
    """All that was understood of a prompt, and the pieces that were not."""

    text: str
    things: tuple[Thing, ...] = ()
    relations: tuple[Relation, ...] = ()
    places: tuple[tuple[int, str, Span], ...] = ()  # thing, name of the place, where
    ground: tuple[str, Span] | None = None
    unsplit: tuple[str, ...] = ()


def read_sentence(text: str, vocabulary: Vocabulary) -> Sentence:
    """Take a prompt apart by the words of a vocabulary."""
    reader = _Reader(text, vocabulary)
    takes = (
        reader.take_ground,
        reader.take_side,
        reader.take_relation,
        reader.take_place,
        reader.take_told_colour,
        reader.take_thing,
    )
    reader.skip_opening()
    while reader.at < len(reader.words):
        if not any(take() for take in takes):
            reader.skip()
    return reader.sentence()


class _Reader:
    """Where the reading is, and what was found. Each `take_…` says whether it took some words."""

    def __init__(self, text: str, vocabulary: Vocabulary) -> None:
        self.text = text
        self.vocabulary = vocabulary
        found = re.finditer(r"[^\W_]+(?:['’-][^\W_]+)*|[,.;&]", text)
        self.words = [Word(m[0].lower(), m.start(), m.end()) for m in found]
        self.at = 0
        self.things: list[Thing] = []
        self.relations: list[Relation] = []
        self.places: list[tuple[int, str, Span]] = []
        self.ground: tuple[str, Span] | None = None
        self.waiting: Relation | None = None  # has its first thing, not yet its second
        self.left_over: list[Span] = []
        self._relations = names_of(vocabulary.relations)
        self._places = names_of(vocabulary.places)
        self._grounds = names_of(vocabulary.grounds)
        self._sizes = names_of(SIZES)
        # Plain English has too many nouns for a list: any words may be one.
        self._nouns = vocabulary.noun_forms() if vocabulary.closed else {}

    # ---- whole parts

    def skip_opening(self) -> None:
        """As in "a photo of", "an oil painting of", "there is"."""
        if self._word(0) == "there" and self._word(1) in ("is", "are"):
            self.at = 2
            return
        for length in range(1, 5):
            if self._word(length) == "of" and self._word(length - 1) in MEDIA:
                self.at = length + 1
                return

    def take_ground(self) -> bool:
        """As in "on a white background", "…, white background"; in a closed world "on white"."""
        begin = self.at
        length = self._longest(("on", "against", "in front of", ","), begin)
        if length == 0 or self.ground is not None:
            return False
        start = begin + length
        has_article = self._word(start) in ("a", "an", "the")
        inner = start + has_article
        for stop in range(inner + 1, min(inner + 4, len(self.words)) + 1):
            if self._word(stop - 1) in STOPS or self._is_end(stop - 1):
                break
            said = self._said(inner, stop - inner)
            named = self._word(stop) in ("background", "ground", "backdrop")
            plain = self.vocabulary.closed and said in self._grounds and self._is_end(stop)
            if not named and (has_article or not plain or self.words[begin].text == ","):
                continue
            self.ground = (self._grounds.get(said, said), self._span(start, stop))
            self.at = stop + named
            return True
        return False

    def take_side(self) -> bool:
        """As in "a cat with a dog to its left": where the last thing is from the one before."""
        names = {f"{how} its {side}": f"{side} of" for how in ("to", "on") for side in SIDES}
        names |= {f"{said} it": name for said, name in self._relations.items() if " " not in said}
        length = self._longest(names, self.at)
        if length == 0 or len(self.things) < 2:
            return False
        name = names[self._said(self.at, length)]
        first, second = len(self.things) - 1, len(self.things) - 2
        span = self._span(self.at, self.at + length)
        self.relations.append(Relation(name, first, second, span, after=True))
        self.at += length
        return True

    def take_relation(self) -> bool:
        """As in "to the left of"; it waits for its second thing, without which it is none."""
        if not self.things or self.waiting is not None or self._is_manner():
            return False
        first, span = len(self.things) - 1, (0, 0)
        if self._word(self.at) in ACTIONS:
            name, length, swaps = self._word(self.at), 1, True
        else:
            length = self._longest(self._relations, self.at)
            name, swaps = self._relations.get(self._said(self.at, length), ""), False
        if length == 0 or not self._begins_thing(self.at + length):
            return False
        if self._longest(self._places, self.at) > length:
            return False  # "on the left" is a place
        span = self._span(self.at, self.at + length)
        self.waiting = Relation(name, first, -1, span, swaps=swaps)
        self.at += length
        return True

    def take_place(self) -> bool:
        """As in "in the top left corner"."""
        length = self._longest(self._places, self.at)
        if length == 0 or not self.things or self._word(self.at + length) == "of":
            return False
        name = self._places[self._said(self.at, length)]
        span = self._span(self.at, self.at + length)
        self.places.append((len(self.things) - 1, name, span))
        self.at += length
        return True

    def take_told_colour(self) -> bool:
        """As in "is blue", "that is blue": the colour of the last thing."""
        begin = self.at + (self._word(self.at) in ("that", "which"))
        length = self._longest(self.vocabulary.colours, begin + 1)
        if self._word(begin) not in ("is", "are") or length == 0 or not self.things:
            return False
        if not self._is_end(begin + 1 + length) or self.things[-1].colour is not None:
            return False
        colour, span = self._said(begin + 1, length), self._span(begin + 1, begin + 1 + length)
        self.things[-1] = replace(self.things[-1], colour=colour, colour_span=span)
        self.at = begin + 1 + length
        return True

    def take_thing(self) -> bool:
        """As in "three small red apples"."""
        thing, stop = self._thing(self.at)
        if thing is None:
            return False
        self.things.append(thing)
        if self.waiting is not None:
            self.relations.append(replace(self.waiting, second=len(self.things) - 1))
            self.waiting = None
        self.at = stop
        return True

    def skip(self) -> None:
        """Leave a word over, with the bare noun that belongs to a preposition ("at dusk")."""
        word = self.words[self.at]
        stop = self.at + 1
        if self._is_manner():
            stop += 3
        elif word.text == "next" and self._word(stop) == "to":
            stop += 1
        elif word.text in ("at", "in", "during", "by", "on") and self._word(stop) not in STOPS:
            stop += stop < len(self.words)  # "at dusk"
        elif word.text not in JOINTS | VAGUE and not self._is_end(stop):
            while not self._is_end(stop) and self._word(stop) not in STOPS:
                stop += 1  # "highly detailed"
        if word.text not in UNDERSTOOD and word.text not in DETERMINERS:
            self.left_over.append(self._span(self.at, stop))
        self.at = stop

    def sentence(self) -> Sentence:
        """What was found."""
        if self.waiting is not None:
            self.left_over.append(self.waiting.span)
        unsplit = tuple(self.text[start:end] for start, end in sorted(self.left_over))
        return Sentence(
            self.text,
            tuple(self.things),
            tuple(self.relations),
            tuple(self.places),
            self.ground,
            unsplit,
        )

    # ---- a thing

    def _thing(self, begin: int) -> tuple[Thing | None, int]:
        """The thing that begins there, and where it ends."""
        at, count, article = self._quantity(begin)
        quantity_stop = at
        size = size_span = colour = colour_span = None
        while True:
            if size is None and (length := self._longest(self._sizes, at)):
                size, size_span = self._sizes[self._said(at, length)], self._span(at, at + length)
            elif colour is None and not self._noun_length(at) and (length := self._colour(at)):
                colour, colour_span = self._said(at, length), self._span(at, at + length)
            else:
                break
            at += length
        length = self._noun_length(at)
        if length > 0:
            noun = self._nouns[self._said(at, length)]
        else:
            length, noun = self._unknown_noun(at, determined=at > begin), None
        if length == 0:
            return None, begin
        thing = Thing(
            name=self._said(at, length) if noun is None else noun.name,
            noun=noun,
            span=self._span(begin, at + length),
            noun_span=self._span(at, at + length),
            article_span=self._span(begin, begin + 1) if article else None,
            count=count,
            count_span=None if count is None else self._span(begin, quantity_stop),
            colour=colour,
            colour_span=colour_span,
            size=size,
            size_span=size_span,
        )
        return thing, at + length

    def _quantity(self, begin: int) -> tuple[int, int | None, bool]:
        """Where the adjectives begin, the number, and whether the article is a or an."""
        at, count = begin, None
        article = self._word(at) in ("a", "an")
        if self._noun_length(at):  # "a bunch of grapes" is a noun of some vocabularies
            return at, None, False
        at += self._word(at) in DETERMINERS
        if not self._noun_length(at) and self._word(at + 1) == "of":
            if self._word(at) in ("pair", "couple"):
                return at + 2, 2, False
            if self._word(at) in GROUPS and self._number(at + 2) is not None:
                at += 2
        count = self._number(at)
        at += count is not None
        return at, count, article and count is None

    def _number(self, at: int) -> int | None:
        word = self._word(at)
        if word in NUMBERS[1:]:
            return NUMBERS.index(word)
        return int(word) if re.fullmatch("[1-9][0-9]?", word) else None

    def _colour(self, at: int) -> int:
        """The length of a colour: "red", "dark red", "black and white"."""
        shade = self._word(at) in ("light", "dark", "bright", "pale", "deep")
        length = self._longest(self.vocabulary.colours, at + shade)
        if length == 0:
            return 0
        stop = at + shade + length
        second = self._longest(self.vocabulary.colours, stop + 1)
        if self._word(stop) == "and" and second and not self._is_end(stop + 1 + second):
            return stop + 1 + second - at
        return stop - at

    def _noun_length(self, at: int) -> int:
        return self._longest(self._nouns, at)

    def _unknown_noun(self, at: int, *, determined: bool) -> int:
        """How many words from there make a noun that no vocabulary lists: up to the next word that
        cannot be part of one, and on through "of" ("a bowl of soup")."""
        stop = at
        while stop < len(self.words) and self._word(stop) not in STOPS:
            action = self._word(stop).endswith("ing") and len(self._word(stop)) > 5
            adverb = self._word(stop).endswith("ly") and len(self._word(stop)) > 4
            if adverb or (action and (stop > at or not determined)):
                break
            stop += 1
        if stop > at and self._word(stop) == "of" and self._begins_thing(stop + 1):
            return stop + 1 + self._of_length(stop + 1) - at
        return stop - at

    def _of_length(self, at: int) -> int:
        article = self._word(at) in DETERMINERS
        return article + self._unknown_noun(at + article, determined=True)

    def _begins_thing(self, at: int) -> bool:
        """Whether a noun follows, after article and adjectives."""
        at, *_ = self._quantity(at)
        return at < len(self.words) and (
            self._noun_length(at) > 0 or self._unknown_noun(at, determined=True) > 0
        )

    # ---- words

    def _word(self, at: int) -> str:
        return self.words[at].text if 0 <= at < len(self.words) else ""

    def _said(self, at: int, length: int) -> str:
        return " ".join(word.text for word in self.words[at : at + length])

    def _span(self, start: int, stop: int) -> Span:
        return self.words[start].start, self.words[stop - 1].end

    def _is_manner(self) -> bool:
        """As in "in the shape of"."""
        words = [self._word(self.at + offset) for offset in range(4)]
        return words[:2] == ["in", "the"] and words[2] in MANNERS and words[3] == "of"

    def _is_end(self, at: int) -> bool:
        """Whether the sentence, or a part of it, ends there."""
        return self._word(at) in ("", ",", ".", ";", "and", "with")

    def _longest(self, phrases: Mapping[str, object] | Iterable[str], at: int) -> int:
        """How many words the longest of the phrases that stands there has; 0 for none."""
        known = phrases if isinstance(phrases, Mapping) else frozenset(phrases)
        for length in range(min(6, len(self.words) - at), 0, -1):
            if self._said(at, length) in known:
                return length
        return 0
