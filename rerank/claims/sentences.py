"""Prompts taken apart: what is told of which things, and where in the text.

A prompt is read from left to right: at each place the first pattern of `phrases.PATTERNS` that fits
is taken, and what none fits is remembered as not understood. Imports no torch.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

from rerank.claims.phrases import (
    LEFT_OVER,
    OPENINGS,
    PATTERNS,
    UNDERSTOOD,
    Found,
    Matcher,
)
from rerank.claims.vocabulary import Noun, Vocabulary

Span = tuple[int, int]  # of characters
MOST_THINGS = 32  # of a prompt; whatever it says of more is left unparsed
MOST_WORDS = 200  # that are read, of a prompt of any length; the rest is left unparsed


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
    background: tuple[str, Span] | None = None
    unparsed: tuple[str, ...] = ()


def read_sentence(text: str, vocabulary: Vocabulary) -> Sentence:
    """Take a prompt apart by the words of a vocabulary."""
    reader = _Reader(text, vocabulary)
    opening = reader.matcher.first(OPENINGS, 0)
    at = 0 if opening is None else opening[0]
    while at < min(len(reader.matcher.words), MOST_WORDS):
        at = reader.read(at)
    if at < len(reader.matcher.words):
        reader.take_nothing((at, len(reader.matcher.words)), {})
    return reader.sentence()


class _Reader:
    """What was found so far. Each `take_…` says whether what a pattern found makes sense here."""

    def __init__(self, text: str, vocabulary: Vocabulary) -> None:
        self.text = text
        self.matcher = Matcher(text, vocabulary.phrases)
        self.things: list[Thing] = []
        self.relations: list[Relation] = []
        self.places: list[tuple[int, str, Span]] = []
        self.background: tuple[str, Span] | None = None
        self.waiting: Relation | None = None  # has its first thing, not yet its second
        self.left_over: list[Span] = []
        self.takes: dict[str, Callable[[Span, Found], bool]] = {
            "nothing": self.take_nothing,
            "background": self.take_background,
            "side": self.take_side,
            "place": self.take_place,
            "relation": self.take_relation,
            "colour": self.take_colour,
            "thing": self.take_thing,
        }

    def read(self, at: int) -> int:
        """Take what stands there, or leave it over; return where the next part begins."""
        self.matcher.begin = at
        for kind, pattern in PATTERNS:
            fit = self.matcher.first((pattern,), at)
            if fit is not None and self.takes[kind]((at, fit[0]), fit[1]):
                return fit[0]
        stop, _ = self.matcher.first(LEFT_OVER, at) or (at + 1, {})
        if self.matcher.words[at] not in UNDERSTOOD:
            self.take_nothing((at, stop), {})
        return stop

    def sentence(self) -> Sentence:
        """Return what was found."""
        if self.waiting is not None:
            self.left_over.append(self.waiting.span)
        return Sentence(
            self.text,
            tuple(self.things),
            tuple(self.relations),
            tuple(self.places),
            self.background,
            tuple(self.text[start:end] for start, end in sorted(self.left_over)),
        )

    def take_nothing(self, part: Span, found: Found) -> bool:
        """Note words that are not understood."""
        self.left_over.append(self._span(part))
        return True

    def take_background(self, part: Span, found: Found) -> bool:
        """Take the one background of a prompt, its name without the article."""
        if self.background is not None:
            return False
        said = found.get("new background") or found["known background"]
        name = self.matcher.meaning("background", said)
        self.background = (name, self._span(found.get("named", said)))
        return True

    def take_side(self, part: Span, found: Found) -> bool:
        """Take a relation of the last thing to the one before, said behind both."""
        if len(self.things) < 2:
            return False
        name, last = self.matcher.meaning("side", found["side"]), len(self.things) - 1
        self.relations.append(Relation(name, last, last - 1, self._span(part), after=True))
        return True

    def take_place(self, part: Span, found: Found) -> bool:
        """Take the place of the last thing."""
        if not self.things:
            return False
        name = self.matcher.meaning("place", found["place"])
        self.places.append((len(self.things) - 1, name, self._span(part)))
        return True

    def take_relation(self, part: Span, found: Found) -> bool:
        """Take a relation of the last thing to the next one, which it waits for."""
        if not self.things or self.waiting is not None or len(self.things) == MOST_THINGS:
            return False
        swaps = "action" in found
        name = (
            self.matcher.said(found["action"])
            if swaps
            else self.matcher.meaning("relation", found["relation"])
        )
        self.waiting = Relation(name, len(self.things) - 1, -1, self._span(part), swaps=swaps)
        return True

    def take_colour(self, part: Span, found: Found) -> bool:
        """Take the colour of the last thing, told behind it."""
        if not self.things or self.things[-1].colour is not None:
            return False
        said = found["plain colour"]
        colour, span = self.matcher.said(said), self._span(said)
        self.things[-1] = replace(self.things[-1], colour=colour, colour_span=span)
        return True

    def take_thing(self, part: Span, found: Found) -> bool:
        """Take a thing with what is told before its noun."""
        if len(self.things) == MOST_THINGS:
            return self.take_nothing(part, found)
        said = self.matcher.said
        noun_span = found.get("listed") or found["unlisted"]
        noun = self.matcher.meaning("listed", noun_span) if "listed" in found else None
        colour, size, quantity = (found.get(slot) for slot in ("colour", "size", "quantity"))
        number, article = found.get("number"), found.get("determiner")
        is_article = quantity is None and article is not None and said(article) in ("a", "an")
        count = None if quantity is None else 2
        self.things.append(
            Thing(
                name=said(noun_span) if noun is None else noun.name,
                noun=noun,
                span=self._span(part),
                noun_span=self._span(noun_span),
                article_span=self._span(article) if is_article and article else None,
                count=count if number is None else self.matcher.meaning("number", number),
                count_span=None if quantity is None else self._span(quantity),
                colour=None if colour is None else said(colour),
                colour_span=None if colour is None else self._span(colour),
                size=None if size is None else self.matcher.meaning("size", size),
                size_span=None if size is None else self._span(size),
            )
        )
        if self.waiting is not None:
            self.relations.append(replace(self.waiting, second=len(self.things) - 1))
            self.waiting = None
        return True

    def _span(self, words: Span) -> Span:
        """Return the characters of a span of words."""
        spans = self.matcher.spans
        return spans[words[0]][0], spans[words[1] - 1][1]
