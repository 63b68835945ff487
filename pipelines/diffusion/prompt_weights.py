"""Weights in prompts, in the grammar of AUTOMATIC1111's web UI. Loads no torch.

    (word)       1.1 times as much         ((word))     1.21 times
    [word]       1.1 times less            (word:1.3)   1.3 times
    \\( \\) \\[ \\] \\\\    these signs themselves   BREAK        go on in the next chunk of tokens

Weights of nested brackets multiply. A bracket that is not closed holds to the end, one that was
not opened is a sign like others, and no weight is above 1000. `<lora:name:0.8>` is left out: files
are named by settings.
"""

import re
from dataclasses import dataclass

SYNTAXES = ("a1111", "plain")
STEP = 1.1
MOST = 1000.0  # of a weight, above or below 0
_NUMBER = r"[+-]?(?:\d{1,400}(?:\.\d{0,400})?|\.\d{1,400})"
_SIGNS = re.compile(rf"\\[()\[\]\\]|:\s{{0,99}}({_NUMBER})\s{{0,99}}\)|[()\[\]\\:]|[^\\()\[\]:]+")
_NETWORK = re.compile(r"<(?:lora|lyco|hypernet):[^>]{0,400}>")
_BREAK = re.compile(r"\bBREAK\b")


@dataclass(frozen=True)
class Fragment:
    """A part of a prompt with one weight; `breaks` where a new chunk begins in front of it."""

    text: str
    weight: float = 1.0
    breaks: bool = False


def parse(prompt: str, syntax: str = "a1111") -> list[Fragment]:
    """Parse a prompt into weighted parts; neighbours of equal weight are joined. Never empty, never
    fails."""
    if syntax == "plain":
        return [Fragment(prompt)]
    parts: list[tuple[str, bool]] = []  # a text, and whether a chunk begins in front of it
    opened: dict[str, list[int]] = {"(": [], "[": []}  # the part that each bracket opens before
    closed: dict[str, list[tuple[int, int, float]]] = {"(": [], "[": []}  # from, to, factor
    goes_on = False  # whether the last part does: no bracket has come since

    def close(bracket: str, factor: float) -> None:
        closed[bracket].append((opened[bracket].pop(), len(parts), factor))

    for match in _SIGNS.finditer(_NETWORK.sub("", prompt)):
        sign, number = match[0], match[1]
        went_on, goes_on = goes_on, False
        if sign in opened:
            opened[sign].append(len(parts))
        elif number is not None and opened["("]:
            close("(", max(-MOST, min(MOST, float(number))))
        elif sign == ")" and opened["("]:
            close("(", STEP)
        elif sign == "]" and opened["["]:
            close("[", 1 / STEP)
        else:
            text = sign[1:] if len(sign) == 2 and sign[0] == "\\" else sign
            goes_on = True
            if "BREAK" in text:
                parts += _split_at_breaks(text)
            elif went_on:
                before, breaks = parts[-1]
                parts[-1] = (before + text, breaks)
            else:
                parts.append((text, False))
    for bracket, factor in (("(", STEP), ("[", 1 / STEP)):
        while opened[bracket]:
            close(bracket, factor)
    round_ones = _products(closed["("], len(parts))
    square_ones = _products(closed["["], len(parts))
    return _joined(
        [
            Fragment(text, first * second, breaks)
            for (text, breaks), first, second in zip(parts, round_ones, square_ones, strict=True)
        ]
    )


def _split_at_breaks(text: str) -> list[tuple[str, bool]]:
    """Split a text at each BREAK, without the space around it."""
    pieces = _BREAK.split(text)
    last = len(pieces) - 1
    pieces = [piece.lstrip() if i else piece for i, piece in enumerate(pieces)]
    pieces = [piece.rstrip() if i < last else piece for i, piece in enumerate(pieces)]
    return [(piece, i > 0) for i, piece in enumerate(pieces)]


def _products(ranges: list[tuple[int, int, float]], number: int) -> list[float]:
    """Return for each part the product of the factors of all ranges, which nest, that it is in."""
    outermost_first = sorted(ranges, key=lambda each: (each[0], -each[1]), reverse=True)
    products, within = [], [(number, 1.0)]  # ends of the ranges that a part is in, with products
    for i in range(number):
        while within[-1][0] <= i < number:
            within.pop()
        while outermost_first and outermost_first[-1][0] <= i:
            _, end, factor = outermost_first.pop()
            if end > i:
                product = max(-MOST, min(MOST, within[-1][1] * factor))
                within.append((end, product))
        products.append(within[-1][1])
    return products


def plain(prompt: str, syntax: str = "a1111") -> str:
    """Return the words of a prompt without its weight syntax, as rerankers read it."""
    text = "".join(
        f" {fragment.text}" if fragment.breaks else fragment.text
        for fragment in parse(prompt, syntax)
    )
    return text if syntax == "plain" else text.strip()


def _joined(fragments: list[Fragment]) -> list[Fragment]:
    """Join neighbours of one weight; leave out what has neither text nor break."""
    groups: list[list[Fragment]] = []
    for fragment in fragments:
        if groups and not fragment.breaks and fragment.weight == groups[-1][0].weight:
            groups[-1].append(fragment)
        elif fragment.text or fragment.breaks:
            groups.append([fragment])
    joined = [
        Fragment("".join(part.text for part in each), each[0].weight, each[0].breaks)
        for each in groups
    ]
    return joined or [Fragment("")]
