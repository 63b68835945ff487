"""What people write to have something found: words, points and boxes, joined by + and -.

Loads no torch.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from pipelines.settings import InputError

MOST = 64  # parts of one setting
JOINT = re.compile(r"\s([+-])\s")
NUMBER = re.compile(r"\d{1,5}")


@dataclass(frozen=True)
class Words:
    """Something that is named; what is found of it is added to the mask, or taken away."""

    text: str
    adds: bool = True


@dataclass(frozen=True)
class Point:
    """A place on a thing, or beside it, in pixels of the image."""

    x: int
    y: int
    adds: bool = True


@dataclass(frozen=True)
class Frame:
    """A box around a thing (left, top, right, bottom), in pixels of the image."""

    box: tuple[int, int, int, int]
    adds: bool = True


@dataclass(frozen=True)
class Asked:
    """All that one mask is made of; the points are on one thing."""

    words: tuple[Words, ...] = ()
    points: tuple[Point, ...] = ()
    frames: tuple[Frame, ...] = ()


def read(text: str | None, point: str | None, box: str | None) -> Asked:
    """Read the three settings. Raises InputError for what they do not say clearly."""
    words = tuple(Words(part, adds) for part, adds in _parts("mask_text", text))
    points: list[Point] = []
    frames: list[Frame] = []
    for part, adds in _parts("mask_point", point):
        x, y = _numbers("mask_point", part, "x,y")
        points.append(Point(x, y, adds))
    for part, adds in _parts("mask_box", box):
        left, top, right, bottom = _numbers("mask_box", part, "left,top,right,bottom")
        if left >= right or top >= bottom:
            raise InputError(f"mask_box {part}: is empty: give left,top,right,bottom")
        frames.append(Frame((left, top, right, bottom), adds))
    asked: dict[str, Sequence[Words | Point | Frame]] = {
        "mask_text": words,
        "mask_point": points,
        "mask_box": frames,
    }
    for name, parts in asked.items():
        if parts and not any(part.adds for part in parts):
            raise InputError(f"{name}: only takes away: say what is masked, too")
    return Asked(words, tuple(points), tuple(frames))


def _parts(name: str, text: str | None) -> list[tuple[str, bool]]:
    """Return the parts of a text, and whether each is added; the first one is unless it says
    so."""
    if text is None:
        return []
    signs_and_parts = ["+", *JOINT.split(f" {text.strip()} ")]
    if len(signs_and_parts) > 2 and not signs_and_parts[1].strip():
        del signs_and_parts[:2]
    pairs = zip(signs_and_parts[::2], signs_and_parts[1::2], strict=True)
    found = [(part.strip(), sign == "+") for sign, part in pairs]
    if len(found) > MOST or not all(part for part, _ in found):
        raise InputError(f"{name} {text[:80]}: must be up to {MOST} parts with + or - between them")
    return found


def _numbers(name: str, text: str, form: str) -> list[int]:
    numbers = [number.strip() for number in text.split(",")]
    if len(numbers) != form.count(",") + 1 or not all(map(NUMBER.fullmatch, numbers)):
        raise InputError(f"{name} {text[:80]}: must be {form}, in pixels of the image")
    return [int(number) for number in numbers]
