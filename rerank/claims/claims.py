"""Prompts as lists of claims that can be checked one by one, each with its changed versions.

CLIP's one number for a whole prompt hides what is wrong. So each fact of the prompt (an object, its
number, colour, size or place, a relation, the ground) is exchanged for others, in the prompt's own
words, and it holds in an image if the prompt as it is scores higher than with any exchange.
Imports no torch.
"""

import random
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice

from rerank.claims.sentences import Relation, Sentence, Span, Thing, read_sentence
from rerank.claims.vocabulary import (
    NUMBERS,
    SIZES,
    Noun,
    Vocabulary,
    article,
    exclusive,
    pluralise,
    singularise,
)
from rerank.texts import check_text

# Characters of the versions with other objects, and with other colours: thousands of versions of
# a long prompt, and few of one that is none.
MOST_CHANGED = 4_000_000
KINDS = ("object", "count", "colour", "size", "place", "relation", "ground")
OPPOSITES = {
    "left of": ("right of",),
    "right of": ("left of",),
    "above": ("below",),
    "below": ("above", "on"),
    "on": ("below", "next to"),
    "in": ("next to", "on"),
    "in front of": ("behind",),
    "behind": ("in front of",),
    "next to": ("on", "below"),
}
AFTER = {  # relations said behind both things
    "left of": "to its left",
    "right of": "to its right",
    "above": "above it",
    "below": "below it",
}


@dataclass(frozen=True)
class Claim:
    """One fact that a prompt tells.

    kind     one of KINDS
    subject  the thing it is about; "" for the ground
    value    the number, colour, size, place, relation or ground; "" for an object
    other    the second thing of a relation, else ""
    changed  the prompt with this fact exchanged for others
    """

    kind: str
    subject: str
    value: str = ""
    other: str = ""
    changed: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """The claim in a few words: `3 apples`, `red ball`, `dog left of cat`."""
        match self.kind:
            case "count" | "colour" | "size":
                return f"{self.value} {self.subject}"
            case "place":
                return f"{self.subject} {self.value}"
            case "relation":
                return f"{self.subject} {self.value} {self.other}"
            case "ground":
                return self.value
            case _:
                return self.subject


@dataclass(frozen=True)
class Claims:
    """The claims of a prompt, and the pieces of it that could not be made into any."""

    prompt: str
    claims: tuple[Claim, ...]
    unparsed: tuple[str, ...]

    def changed(self, each: int) -> list[str]:
        """Return changed versions of the prompt: up to `each` of every claim, always the same
        ones."""
        found: dict[str, None] = {}
        for claim in self.claims:
            shuffled = list(claim.changed)
            random.Random(f"{self.prompt}\n{claim.text}").shuffle(shuffled)
            found |= dict.fromkeys(shuffled[:each])
        return list(found)


def split(prompt: str, vocabulary: Vocabulary) -> Claims:
    """Return the claims of a prompt, by the words of a vocabulary.

    Raises ValueError for what is no text, or far too long.
    """
    check_text(prompt)
    sentence = read_sentence(prompt, vocabulary)
    claims: list[Claim] = []
    for index in range(len(sentence.things)):
        claims += _of_thing(sentence, index, vocabulary)
    for relation in sentence.relations:
        claims.append(_of_relation(sentence, relation, vocabulary))
    if sentence.background is not None:
        name, span = sentence.background
        others = [other for other in vocabulary.backgrounds if other != name]
        changed = [_exchange(prompt, [(span, _like(prompt, span, other))]) for other in others]
        claims.append(Claim("ground", "", name, changed=tuple(changed)))
    return Claims(prompt, tuple(claims), sentence.unparsed)


def _of_thing(sentence: Sentence, index: int, vocabulary: Vocabulary) -> Iterator[Claim]:
    """Return the claims about one thing: object, count, size, colour, place."""
    text, thing = sentence.text, sentence.things[index]
    most = 1 + MOST_CHANGED // (len(text) * len(sentence.things))
    others = islice(_other_objects(sentence, index, vocabulary), most)
    yield Claim("object", thing.name, changed=tuple(others))
    if vocabulary.closed and len(sentence.things) == 1 and thing.article_span is not None:
        thing = replace(thing, count=1, count_span=thing.article_span)
    if thing.count is not None:
        changed = _other_counts(text, thing, vocabulary)
        yield Claim("count", thing.name, str(thing.count), changed=tuple(changed))
    if thing.size is not None and thing.size_span is not None:
        changed = [
            _exchange(text, [_with_article(text, thing.size_span, said[0])])
            for name, said in SIZES.items()
            if name != thing.size and (name != "medium" or vocabulary.closed)
        ]
        said = text[slice(*thing.size_span)].lower()
        yield Claim("size", thing.name, said, changed=tuple(changed))
    if thing.colour is not None and thing.colour_span is not None:
        others = islice(_other_colours(sentence, index, vocabulary), most)
        yield Claim("colour", thing.name, thing.colour, changed=tuple(others))
    for owner, place, span in sentence.places:
        if owner == index:
            changed = [
                _exchange(text, [(span, said[0])])
                for name, said in vocabulary.places.items()
                if exclusive(name, place)
            ]
            yield Claim("place", thing.name, place, changed=tuple(changed))


def _other_objects(sentence: Sentence, index: int, vocabulary: Vocabulary) -> Iterator[str]:
    """Return the prompt with another thing: another noun, or another shape of the same colour."""
    text, thing = sentence.text, sentence.things[index]
    present = {other.name for other in sentence.things} | {singularise(thing.name)}
    many = thing.count is not None and thing.count > 1
    for noun in vocabulary.nouns:
        if noun.name in present:
            continue
        if noun.coloured and thing.colour is None and vocabulary.closed:
            for colour in vocabulary.colours:
                yield _named(text, thing, f"{colour} {_form(noun, many)}", whole=True)
        else:
            loses_colour = vocabulary.closed and not noun.coloured
            yield _named(text, thing, _form(noun, many), whole=loses_colour)


def _named(text: str, thing: Thing, name: str, *, whole: bool) -> str:
    """Return the text with another name for the thing; `whole` drops its colour as well."""
    span = thing.noun_span
    if whole and thing.colour_span is not None and thing.colour_span[0] < span[0]:
        span = thing.colour_span[0], span[1]
    return _exchange(text, [_with_article(text, span, name)])


def _form(noun: Noun, many: bool) -> str:
    return noun.plural if many else noun.name


def _other_counts(text: str, thing: Thing, vocabulary: Vocabulary) -> list[str]:
    """Return the prompt with other numbers of the thing, nouns in singular or plural."""
    assert thing.count is not None
    assert thing.count_span is not None
    noun = text[slice(*thing.noun_span)]
    many = thing.count > 1
    head, of, rest = noun.partition(" of ")
    if thing.noun is not None:
        forms = (thing.noun.name, thing.noun.plural)
    elif many:
        forms = (singularise(head) + of + rest, noun)
    else:
        forms = (noun, pluralise(head) + of + rest)
    highest = (
        vocabulary.highest_count if vocabulary.closed else min(thing.count + 3, len(NUMBERS) - 1)
    )
    changed = []
    for count in range(1, highest + 1):
        if count == thing.count:
            continue
        if (count > 1) == many:
            changed.append(_exchange(text, [(thing.count_span, NUMBERS[count])]))
        else:
            edits = [(thing.count_span, NUMBERS[count]), (thing.noun_span, forms[count > 1])]
            changed.append(_exchange(text, edits))
    return changed


def _other_colours(sentence: Sentence, index: int, vocabulary: Vocabulary) -> Iterator[str]:
    """Return the prompt with other colours of the thing, and with the colours of two things
    exchanged."""
    text, thing = sentence.text, sentence.things[index]
    assert thing.colour_span is not None
    distinct = [c for c in vocabulary.colours if c not in ("gray", "golden") and c != thing.colour]
    for colour in distinct:
        yield _exchange(text, [_with_article(text, thing.colour_span, colour)])
    for other in sentence.things:
        if other.colour_span is None or other.colour in (None, thing.colour) or other is thing:
            continue
        assert thing.colour is not None
        assert other.colour is not None
        swap = [
            _with_article(text, thing.colour_span, other.colour),
            _with_article(text, other.colour_span, thing.colour),
        ]
        yield _exchange(text, swap)


def _of_relation(sentence: Sentence, relation: Relation, vocabulary: Vocabulary) -> Claim:
    text = sentence.text
    first, second = sentence.things[relation.first], sentence.things[relation.second]
    swapped = _exchange(
        text,
        [(first.span, text[slice(*second.span)]), (second.span, text[slice(*first.span)])],
    )
    others: Iterable[str] = ()
    if vocabulary.closed:
        others = (name for name in vocabulary.relations if name != relation.name)
    elif not relation.swaps:
        others = OPPOSITES.get(relation.name, ())
    phrases = AFTER if relation.after else {n: said[0] for n, said in vocabulary.relations.items()}
    changed = [
        _exchange(text, [(relation.span, phrases[name])]) for name in others if name in phrases
    ]
    return Claim("relation", first.name, relation.name, second.name, changed=(*changed, swapped))


def _with_article(text: str, span: Span, new: str) -> tuple[Span, str]:
    """Return the edit that puts `new` in place of the span, with the right one of a and an before
    it."""
    before = text[: span[0]].rstrip()
    found = re.search(r"\ban?$", before[-3:], re.IGNORECASE)  # not in all of a long text each time
    if found is None or len(before) == span[0]:
        return span, new
    fitting = article(new)
    if found[0][0].isupper():
        fitting = fitting.capitalize()
    return (len(before) - len(found[0]), span[1]), f"{fitting}{text[len(before) : span[0]]}{new}"


def _like(text: str, span: Span, ground: str) -> str:
    """Return the background with an article where there was one."""
    found = re.match(r"(an?|the)\s", text[slice(*span)], re.IGNORECASE)
    if found is None:
        return ground
    word = found[1] if found[1].lower() == "the" else article(ground)
    return f"{word} {ground}"


def _exchange(text: str, edits: Sequence[tuple[Span, str]]) -> str:
    """Return the text with each span replaced; spans do not overlap."""
    for (start, end), new in sorted(edits, reverse=True):
        text = text[:start] + new + text[end:]
    return text
