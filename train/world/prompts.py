"""The evaluation set of the world: 480 prompts, half of them in wordings that no training makes.

The free wordings below are written by hand and stand here only: `train.world.captions` has none of
their forms. Half of the pairs, some of the styles and colours, and all words of `synonym` are held
out from training. Prompts of `unknown` come with a twin, the same without the unknown word, since
what is drawn for both should be the same. Never train or tune on these.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from train.world.facts import Told
from train.world.held_out import chosen, is_held_out, is_held_out_pair
from train.world.lexicon import plural
from train.world.vocabulary import (
    ACCEPTED,
    BACKGROUNDS,
    FIRST,
    NUMBERS,
    PLACES,
    RELATIONS,
    SHAPE_NUMBERS,
    STYLES,
    THINGS,
    article,
    has_style,
)

EVALUATION = Path(__file__).parents[2] / "prompts" / "world.jsonl"
# Of each category, half in each wording.
TAGS = {
    "single_object": 60,
    "synonym": 40,
    "counting": 80,
    "two_object": 80,
    "position": 80,
    "colors": 40,
    "style": 60,
    "background": 20,
    "unknown": 20,
}
WORDINGS = ("own", "free")

# {x}: the thing, {ax}: with its article, {xs}: its plural, {y}, {ay}: a second one; {n}: a number
FREE_SINGLE = (
    "has anyone got {ax} lying around?", "my kid adores {xs}, so {ax} would make her day",
    "let there be {ax}", "behold: {ax}", "one lonely {x}", "{ax} minding its own business",
    "a portrait of the noble {x}", "could i trouble you for {ax}?", "wanted: {x}",
    "put {ax} on the page", "i was thinking of {ax}", "once more, {ax}", "logo with {ax}",
    "surprise me with {ax}", "let's have {ax}", "so, {ax} then", "{x} clipart",
    "nothing beats {ax}", "there goes {ax}", "do me {ax}", "my flashcard says {x}",
    "{x}, as seen by a child", "whip up {ax}", "quick doodle: {x}", "ok now {ax}",
    "The {x}.", "{x} emblem", "say hello to {ax}", "i bet you can't do {ax}", "badge: {x}",
)  # fmt: skip
FREE_COUNT = (
    "{n} of those {xs}", "count them: {n} {xs}", "a gathering of {n} {xs}",
    "{n} {xs} hanging out", "a total of {n} {xs}", "{xs}: {n}", "i own {n} {xs}",
    "make it {n} {xs}", "there are {n} {xs} over here", "not one but {n} {xs}",
    "{n} {xs} went for a walk", "a family of {n} {xs}", "{n} little {xs} came to visit",
    "i lost {n} {xs}", "we counted {n} {xs} today", "let's have {n} {xs}",
)  # fmt: skip
FREE_TWO = (
    "{ax} meets {ay}", "{ax} has company: {ay}", "{x} + {y}", "both {ax} and {ay}",
    "{ax} shares the page with {ay}", "first {ax}, then {ay}", "{ax} who is friends with {ay}",
    "{ax} and also {ay}", "{x}, {y}", "{ax}, and don't forget {ay}", "the {x} loves the {y}",
    "what if {ax} met {ay}", "{ax} in the company of {ay}", "one {x}, one {y}",
    "{ax} versus {ay}", "the {x} found {ay}",
)  # fmt: skip
FREE_RELATION = {
    "left of": (
        "there is {ax} to the left and {ay} to the right", "left: {x}, right: {y}",
        "{ay}, and on its left hand side {ax}", "from left to right: {x}, {y}",
        "first comes {ax}, and right of it {ay}",
    ),
    "right of": (
        "there is {ay} to the left and {ax} to the right", "left: {y}, right: {x}",
        "{ay}, and on its right hand side {ax}", "from left to right: {y}, {x}",
        "first comes {ay}, and right of it {ax}",
    ),
    "above": (
        "{ax} flies over {ay}", "{ax} has {ay} underneath it", "top: {x}, bottom: {y}",
        "up there {ax}, down here {ay}", "{ax} floats above {ay}",
    ),
    "below": (
        "{ax} lies under {ay}", "{ay} has {ax} underneath it", "top: {y}, bottom: {x}",
        "up there {ay}, down here {ax}", "{ax} rests below {ay}",
    ),
}  # fmt: skip
FREE_STYLE = {
    "glossy": ("{x} with a glossy finish", "a shiny-looking {x}", "make the {x} glossy"),
    "flat": ("{ax} with a flat look", "flat-style {x}", "keep the {x} flat, like a vector"),
    "3d": ("{x}, but in 3d", "make it 3d: {ax}", "a three dimensional {x}, as if rendered"),
    "plain": ("{x}, drawn plainly", "keep it plain: {ax}", "the {x}, plain and simple"),
    "blob": ("{x} as a blob", "turn {ax} into a blob emoji", "{ax}, the blob way"),
}
FREE_BACKGROUND = (
    "{ax}; the background should be {b}", "{ax}, behind it everything is {b}",
    "make the backdrop {b} and put {ax} there", "{b} all around {ax}",
)  # fmt: skip
FREE_COLOUR = (
    "a {s} painted {c}", "a {s} that is {c}", "{c} coloured {s}", "one {c} {s} on the page",
    "i'd go for a {c} {s}", "the {s} should be {c}",
)  # fmt: skip
UNKNOWN = (
    "{ax} in the manner of Zorblax", "my quibblenax {x}", "{ax}, wexford edition",
    "{ax} for Uncle Bartholomew", "{ax} during the interregnum", "{ax}, vibes only",
    "{ax} from Ouagadougou", "a frumious {x}", "{ax} (see attachment)", "{ax} lol",
)  # fmt: skip
OPENINGS = ("", "", "a picture of ", "draw ", "an image of ", "please draw ")


@dataclass(frozen=True)
class Prompt:
    """One row: its category, the words, what must be seen, how it is worded, what is held out."""

    tag: str
    text: str
    description: Told
    wording: str
    held_out: bool
    twin: str | None = None


def make_prompts(seed: int = 0) -> list[Prompt]:
    """Return the evaluation set, the same for the same seed; categories and wordings in turns."""
    rng = random.Random(seed)
    nouns = iter(_endless(rng, FIRST))
    rows = {tag: [_MAKERS[tag](rng, nouns, index) for index in range(n)] for tag, n in TAGS.items()}
    largest = max(TAGS.values())
    order = sorted(
        (index * largest / TAGS[tag], tag, index) for tag in TAGS for index in range(TAGS[tag])
    )
    return [rows[tag][index] for _, tag, index in order]


def _endless(rng: random.Random, numbers: Sequence[int]) -> Any:
    while True:
        yield from rng.sample(numbers, len(numbers))


def _wording(index: int) -> str:
    return WORDINGS[index % 2]


def _ax(word: str) -> str:
    return f"{article(word)} {word}"


def _say(rng: random.Random, own: str, free: Sequence[str], wording: str, **parts: str) -> str:
    if wording == "own":
        return rng.choice(OPENINGS) + own.format(**parts)
    return rng.choice(free).format(**parts)


def _single(rng: random.Random, nouns: Any, index: int) -> Prompt:
    thing = next(nouns)
    return _of_word(rng, thing, THINGS[thing].name, "single_object", index, held_out=False)


def _synonym(rng: random.Random, nouns: Any, index: int) -> Prompt:
    while True:
        thing = next(nouns)
        known = THINGS[thing]
        words = [word for word in (*known.also, *known.kinds) if chosen(f"word:{word}")]
        words = [word for word in words if thing in ACCEPTED.get(word, ())]
        if words:
            return _of_word(rng, thing, words[0], "synonym", index, held_out=True)


def _of_word(
    rng: random.Random, thing: int, word: str, tag: str, index: int, *, held_out: bool
) -> Prompt:
    wording = _wording(index)
    text = _say(rng, "{ax}", FREE_SINGLE, wording, x=word, ax=_ax(word), xs=plural(word))
    return Prompt(tag, text, Told((word,), (thing,)), wording, held_out)


def _count(rng: random.Random, nouns: Any, index: int) -> Prompt:
    thing, count, wording = next(nouns), 2 + index // 2 % 4, _wording(index)
    name = THINGS[thing].name
    text = _say(rng, "{n} {xs}", FREE_COUNT, wording, n=NUMBERS[count], xs=plural(name))
    return Prompt("counting", text, Told((name,), (thing,), count=count), wording, False)


def _pair(nouns: Any, held_out: bool) -> tuple[int, int]:
    while True:
        first, second = next(nouns), next(nouns)
        alike = ACCEPTED[THINGS[first].name] & ACCEPTED[THINGS[second].name]
        if not alike and is_held_out_pair(first, second) == held_out:
            return first, second


def _two(rng: random.Random, nouns: Any, index: int) -> Prompt:
    held_out, wording = index // 2 % 2 == 0, _wording(index)
    pair = _pair(nouns, held_out)
    x, y = (THINGS[thing].name for thing in pair)
    text = _say(rng, "{ax} and {ay}", FREE_TWO, wording, x=x, y=y, ax=_ax(x), ay=_ax(y))
    return Prompt("two_object", text, Told((x, y), pair), wording, held_out)


def _relation(rng: random.Random, nouns: Any, index: int) -> Prompt:
    held_out, wording = index // 2 % 2 == 0, _wording(index)
    pair, relation = _pair(nouns, held_out), tuple(RELATIONS)[index // 4 % 4]
    x, y = (THINGS[thing].name for thing in pair)
    free = FREE_RELATION[relation]
    own = f"{{ax}} {relation} {{ay}}"
    text = _say(rng, own, free, wording, x=x, y=y, ax=_ax(x), ay=_ax(y))
    return Prompt("position", text, Told((x, y), pair, relation=relation), wording, held_out)


def _colour(rng: random.Random, nouns: Any, index: int) -> Prompt:
    thing, wording = SHAPE_NUMBERS[index * 7 % len(SHAPE_NUMBERS)], _wording(index)
    known = THINGS[thing]
    assert known.colour is not None
    assert known.shape is not None
    own = _ax(known.name)
    text = _say(rng, own, FREE_COLOUR, wording, s=known.shape, c=known.colour)
    told = Told((known.name,), (thing,))
    return Prompt("colors", text, told, wording, is_held_out([thing], "plain"))


def _style(rng: random.Random, nouns: Any, index: int) -> Prompt:
    style, wording = tuple(STYLES)[index // 2 % len(STYLES)], _wording(index)
    thing = next(thing for thing in nouns if has_style(thing, style))
    x = THINGS[thing].name
    own = f"{{ax}} in {style} style"
    text = _say(rng, own, FREE_STYLE[style], wording, x=x, ax=_ax(x))
    told = Told((x,), (thing,), style=style)
    return Prompt("style", text, told, wording, is_held_out([thing], style))


def _background(rng: random.Random, nouns: Any, index: int) -> Prompt:
    background, wording = tuple(BACKGROUNDS)[index % len(BACKGROUNDS)], _wording(index)
    thing = next(nouns)
    x = THINGS[thing].name
    own = f"{{ax}} on {_ax(background)} background"
    text = _say(rng, own, FREE_BACKGROUND, wording, x=x, ax=_ax(x), b=background)
    return Prompt("background", text, Told((x,), (thing,), background=background), wording, False)


def _unknown(rng: random.Random, nouns: Any, index: int) -> Prompt:
    thing = next(nouns)
    x = THINGS[thing].name
    text = UNKNOWN[index % len(UNKNOWN)].format(x=x, ax=_ax(x))
    return Prompt("unknown", text, Told((x,), (thing,)), "free", False, twin=_ax(x))


_MAKERS: dict[str, Callable[[random.Random, Any, int], Prompt]] = {
    "single_object": _single,
    "synonym": _synonym,
    "counting": _count,
    "two_object": _two,
    "position": _relation,
    "colors": _colour,
    "style": _style,
    "background": _background,
    "unknown": _unknown,
}


def to_row(prompt: Prompt) -> dict[str, Any]:
    """Return a row in the manner of GenEval: what must be there, and what else was asked."""
    told = prompt.description
    include = []
    for word, thing in zip(told.words, told.things, strict=True):
        known = THINGS[thing]
        row: dict[str, Any] = {"class": known.name, "count": told.count}
        if known.colour is not None:
            row = {"class": known.shape, "count": told.count, "color": known.colour}
        include.append(row | ({"word": word} if word != known.name else {}))
    said = {name: value for name, value in asdict(told).items() if name in _ASKED and value}
    rest = {"twin": prompt.twin} if prompt.twin is not None else {}
    return {
        "tag": prompt.tag,
        "include": include,
        **said,
        "wording": prompt.wording,
        "held_out": prompt.held_out,
        **rest,
        "prompt": prompt.text,
    }


_ASKED = ("relation", "size", "place", "background", "style")
_NUMBERS = {thing.name: number for number, thing in enumerate(THINGS)}


def from_row(row: dict[str, Any]) -> Prompt:
    """Return a prompt from a row that `to_row` made.

    Raises
    ------
    ValueError : a thing, or a fact, that the world does not know.
    """
    names = [
        f"{each['color']} {each['class']}" if "color" in each else each["class"]
        for each in row["include"]
    ]
    asked = {name: row.get(name) for name in _ASKED}
    known = (RELATIONS, ("small", "medium", "large"), PLACES, BACKGROUNDS, STYLES)
    for name, values in zip(_ASKED, known, strict=True):
        if asked[name] is not None and asked[name] not in values:
            raise ValueError(f"there is no {name} {asked[name]!r} ({row['prompt']!r})")
    for name in names:
        if name not in _NUMBERS:
            raise ValueError(f"there is no {name!r} in the world ({row['prompt']!r})")
    words = [each.get("word", name) for each, name in zip(row["include"], names, strict=True)]
    told = Told(
        tuple(words),
        tuple(_NUMBERS[name] for name in names),
        count=row["include"][0]["count"],
        **asked,
    )
    return Prompt(row["tag"], row["prompt"], told, row["wording"], row["held_out"], row.get("twin"))


def read_prompts(path: Path = EVALUATION) -> list[Prompt]:
    """Return the prompts of a JSONL file."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return [from_row(json.loads(line)) for line in lines]


def write_prompts(path: Path = EVALUATION) -> Path:
    """Write the evaluation set."""
    lines = (json.dumps(to_row(prompt)) + "\n" for prompt in make_prompts())
    path.write_text("".join(lines), encoding="utf-8")
    return path
