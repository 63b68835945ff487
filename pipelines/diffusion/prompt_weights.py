"""Weights in prompts, in the grammar of AUTOMATIC1111's web UI. Loads no torch.

    (word)       1.1 times as much         ((word))     1.21 times
    [word]       1.1 times less            (word:1.3)   1.3 times
    \\( \\) \\[ \\] \\\\    these signs themselves   BREAK        go on in the next chunk of tokens

Weights of nested brackets multiply. A bracket that is not closed holds to the end, one that was
not opened is a sign like others. `<lora:name:0.8>` is left out: files are named by settings.
"""

import re
from dataclasses import dataclass, replace

SYNTAXES = ("a1111", "plain")
STEP = 1.1
_NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)"
_SIGNS = re.compile(rf"\\[()\[\]\\]|:\s*({_NUMBER})\s*\)|[()\[\]\\:]|[^\\()\[\]:]+")
_NETWORK = re.compile(r"<(?:lora|lyco|hypernet):[^>]*>")
_BREAK = re.compile(r"\s*\bBREAK\b\s*")


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
    fragments: list[Fragment] = []
    opened: dict[str, list[int]] = {"(": [], "[": []}  # the fragment that each bracket opens before

    def close(bracket: str, factor: float) -> None:
        for i in range(opened[bracket].pop(), len(fragments)):
            fragments[i] = replace(fragments[i], weight=fragments[i].weight * factor)

    for match in _SIGNS.finditer(_NETWORK.sub("", prompt)):
        sign, number = match[0], match[1]
        if sign in opened:
            opened[sign].append(len(fragments))
        elif number is not None and opened["("]:
            close("(", float(number))
        elif sign == ")" and opened["("]:
            close("(", STEP)
        elif sign == "]" and opened["["]:
            close("[", 1 / STEP)
        else:
            text = sign[1:] if len(sign) == 2 and sign[0] == "\\" else sign
            first, *others = _BREAK.split(text)
            fragments += [Fragment(first), *(Fragment(part, breaks=True) for part in others)]
    for bracket, factor in (("(", STEP), ("[", 1 / STEP)):
        while opened[bracket]:
            close(bracket, factor)
    return _joined(fragments)


def plain(prompt: str, syntax: str = "a1111") -> str:
    """Return the words of a prompt without its weight syntax, as rerankers read it."""
    text = "".join(
        f" {fragment.text}" if fragment.breaks else fragment.text
        for fragment in parse(prompt, syntax)
    )
    return text if syntax == "plain" else text.strip()


def _joined(fragments: list[Fragment]) -> list[Fragment]:
    joined: list[Fragment] = []
    for fragment in fragments:
        if joined and not fragment.breaks and fragment.weight == joined[-1].weight:
            joined[-1] = replace(joined[-1], text=joined[-1].text + fragment.text)
        elif fragment.text or fragment.breaks:
            joined.append(fragment)
    return joined or [Fragment("")]
