"""Prompts that change from step to step, and several at once, in the grammar of AUTOMATIC1111's web
UI. Loads no torch.

    [a:b:0.5]   a for half of the steps, then b     [a:b:5]       b after five steps
    [a:0.5]     nothing, then a                     [a::5]        a, then nothing
    [a|b|c]     a, b and c in turn, a step each     a AND b :0.7  both at once, each with a weight

Brackets nest. A number with a point is a share of the steps, one without a number of steps. What is
nothing of this stays as it is: brackets that weigh words are read by `prompt_weights`.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import groupby

from pipelines.settings import InputError

MOST_CHANGES = 100  # brackets of a prompt that change it
MOST_TEXTS = 64  # different ones that a prompt comes to, each of which is encoded
MOST_JOINED = 8  # prompts, by AND
SHOWN = 60  # characters of a bracket in a note
NO_WEIGHT = (
    "prompt: without guidance above 1, weights of prompts that AND joins must come to more than 0"
)
AND = re.compile(r"\bAND\b")
_TOKENS = re.compile(r"\\.|[()\[\]:|]|[^\\()\[\]:|]+|\\", re.DOTALL)
_NUMBER = re.compile(r"\s*([+-]?(?:\d{1,9}(?:\.\d{0,9})?|\.\d{1,9}))\s*")


@dataclass(frozen=True)
class Part:
    """One of the prompts that AND joins, and how strongly it is followed."""

    text: str
    weight: float = 1.0


@dataclass(frozen=True)
class Moment:
    """What is told to the network at one step; `negative` None where nothing is kept out."""

    texts: tuple[Part, ...]
    negative: str | None = None


@dataclass(frozen=True)
class Change:
    """A text that another takes the place of after some steps."""

    before: "Nodes"
    after: "Nodes"
    when: str

    def at(self, step: int, steps: int) -> "Nodes":
        """Return what holds at a step, from 1 to `steps`."""
        return self.before if step <= _steps_before(self.when, steps) else self.after


@dataclass(frozen=True)
class Turn:
    """Texts that hold in turn, a step each."""

    options: tuple["Nodes", ...]

    def at(self, step: int, steps: int) -> "Nodes":
        """Return what holds at a step, from 1 to `steps`."""
        return self.options[(step - 1) % len(self.options)]


Nodes = tuple[str | Change | Turn, ...]


def moments(
    prompt: str, negative_prompt: str | None, steps: int, syntax: str = "a1111"
) -> list[Moment]:
    """Return what is told to the network at each step.

    AND in the negative prompt is a word. Raises InputError for more texts than are encoded.
    """
    joined = [(_nodes(text, syntax), weight) for text, weight in _split(prompt, syntax)]
    negative = None if negative_prompt is None else _nodes(negative_prompt, syntax)
    parts = [nodes for nodes, _ in joined] + ([] if negative is None else [negative])
    changes = any(not isinstance(node, str) for nodes in parts for node in nodes)
    steps_apart = steps if changes else 1  # else all are alike
    found: dict[Moment, None] = {}
    made = []
    for step in range(1, steps_apart + 1):
        texts = tuple(Part(_at(nodes, step, steps), weight) for nodes, weight in joined)
        moment = Moment(texts, None if negative is None else _at(negative, step, steps))
        found.setdefault(moment)
        if len(found) > MOST_TEXTS:
            raise InputError(
                f"prompt: its brackets make more than {MOST_TEXTS} different texts over {steps} "
                "steps: leave some out"
            )
        made.append(moment)
    return made if steps_apart == steps else made * steps


def check(
    prompt: str,
    negative_prompt: str | None,
    guidance: float,
    steps: int,
    syntax: str = "a1111",
) -> None:
    """Raise InputError for prompts that cannot be drawn so."""
    moments(prompt, negative_prompt, steps, syntax)
    weights = [weight for _, weight in _split(prompt, syntax)]
    if guidance <= 1 and len(weights) > 1 and sum(weights) <= 0:
        raise InputError(NO_WEIGHT)


def finals(prompt: str, steps: int, syntax: str = "a1111") -> list[str]:
    """Return what a prompt comes to at its last step, for each of those that AND joins.

    What holds in turn is there side by side.
    """
    return ["".join(_last(_nodes(text, syntax), steps)) for text, _ in _split(prompt, syntax)]


def changing(prompt: str) -> Iterator[str]:
    """Yield what changes a prompt or joins others to it, as it stands there."""
    yield from dict.fromkeys(AND.findall(prompt))
    if "[" in prompt:
        tokens, found = _find(prompt)
        for start, end in found.closing.items():
            yield _shown(tokens, start, end)


def misunderstood(prompt: str, steps: int) -> Iterator[str]:
    """Yield a line for each bracket that does not do what it seems to be meant for."""
    if "[" not in prompt:
        return
    tokens, found = _find(prompt)
    for start, end in found.odd:
        yield (
            f"{_shown(tokens, start, end)} only weighs its words: a text that changes is "
            "[before:after:NUMBER], or [one|another]"
        )
    for start, colons in found.timed.items():
        text = tokens[found.closing[start] - 1].strip()
        if colons == 1 and _steps_before(text, steps) >= steps:
            yield (
                f"{_shown(tokens, start, found.closing[start])} comes after all {steps} steps, so "
                "it is not drawn: round brackets weigh words, as in (word:1.3)"
            )


def _split(prompt: str, syntax: str) -> list[tuple[str, float]]:
    """Split a prompt at each AND, with the weights behind their colons."""
    parts = AND.split(prompt) if syntax != "plain" else [prompt]
    if len(parts) == 1:
        return [(prompt, 1.0)]
    if len(parts) > MOST_JOINED:
        raise InputError(f"prompt: AND joins {len(parts)} prompts: at most {MOST_JOINED} are drawn")
    split = []
    for part in parts:
        text, colon, number = part.rpartition(":")
        weight = _NUMBER.fullmatch(number) if colon else None
        split.append((part.strip(), 1.0) if weight is None else (text.strip(), float(weight[1])))
    return split


def _nodes(text: str, syntax: str) -> Nodes:
    """Read the brackets of a text that change it."""
    if syntax == "plain" or "[" not in text:
        return (text,)
    tokens, found = _find(text)
    closing = found.closing
    if not closing:
        return (text,)
    if len(closing) > MOST_CHANGES:
        raise InputError(f"prompt: more than {MOST_CHANGES} brackets that change it")
    opened: list[list[list[str | Change | Turn]]] = [[[]]]  # the pieces of each bracket
    starts: list[int] = []
    for at, token in enumerate(tokens):
        if at in closing:
            starts.append(at)
            opened.append([[]])
        elif at in found.borders:
            opened[-1].append([])
        elif starts and at == closing[starts[-1]]:
            pieces = tuple(map(_with_whole_texts, opened.pop()))
            opened[-1][-1].append(_change(pieces) if starts.pop() in found.timed else Turn(pieces))
        else:
            opened[-1][-1].append(token)
    return _with_whole_texts(opened[0][0])


def _with_whole_texts(piece: list[str | Change | Turn]) -> Nodes:
    """Join what is read in tokens: each step goes through all nodes."""
    nodes: list[str | Change | Turn] = []
    for is_text, group in groupby(piece, lambda node: isinstance(node, str)):
        found = list(group)
        nodes += ["".join(map(str, found))] if is_text else found
    return tuple(nodes)


def _change(pieces: tuple[Nodes, ...]) -> Change:
    """Return what the pieces between the colons say, the last of which is the number."""
    *texts, number = pieces
    before = texts[0] if len(texts) == 2 else ()
    return Change(before, texts[-1], str(number[0]).strip())


@dataclass
class _Brackets:
    """Which tokens begin brackets that change a text, and where those end."""

    closing: dict[int, int] = field(default_factory=dict)
    timed: dict[int, int] = field(default_factory=dict)  # those with a number: their colons
    borders: set[int] = field(default_factory=set)  # the signs between their pieces
    odd: list[tuple[int, int]] = field(default_factory=list)  # nearly such brackets


@lru_cache(8)  # a prompt is looked at several times: for its notes, its steps, its last words
def _find(text: str) -> tuple[list[str], _Brackets]:
    """Return a text in tokens, and the brackets that change it; one that does not fit leaves those
    around it alone."""
    tokens, found = _TOKENS.findall(text), _Brackets()
    opened: list[tuple[int, dict[str, list[int]]]] = []  # where, and the signs in it
    for at, token in enumerate(tokens):
        if token in ("(", "["):
            opened.append((at, {":": [], "|": []}))
        elif token in (")", "]"):
            if not opened or tokens[opened[-1][0]] != {")": "(", "]": "["}[token]:
                opened.clear()
                continue
            start, signs = opened.pop()
            if token == "]":
                _sort(found, tokens, start, at, signs)
        elif opened and token in (":", "|"):
            opened[-1][1][token].append(at)
    return tokens, found


def _sort(
    found: _Brackets, tokens: list[str], start: int, end: int, signs: dict[str, list[int]]
) -> None:
    """Note what a bracket is."""
    colons, bars = signs[":"], signs["|"]
    is_timed = bool(colons) and colons[-1] == end - 2 and _NUMBER.fullmatch(tokens[end - 1])
    if is_timed and len(colons) <= 2:
        found.timed[start] = len(colons)
        found.closing[start] = end
        found.borders.update(colons)
    elif bars and not colons:
        found.closing[start] = end
        found.borders.update(bars)
    elif len(colons) > 1 or bars:
        found.odd.append((start, end))


def _steps_before(when: str, steps: int) -> int:
    return int(float(when) * (steps if "." in when else 1))


def _at(nodes: Nodes, step: int, steps: int) -> str:
    return "".join(
        node if isinstance(node, str) else _at(node.at(step, steps), step, steps) for node in nodes
    )


def _last(nodes: Nodes, steps: int) -> Iterator[str]:
    for node in nodes:
        if isinstance(node, str):
            yield node
        elif isinstance(node, Change):
            yield from _last(node.at(steps, steps), steps)
        else:
            texts = ("".join(_last(option, steps)) for option in node.options)
            yield " ".join(dict.fromkeys(text for text in texts if text))


def _shown(tokens: list[str], start: int, end: int) -> str:
    text = "".join(tokens[start : min(end + 1, start + SHOWN)])
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"
