"""What a world offers to `train.evaluate`: prompts, a judge, quizzes for CLIP, and trials."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from train.pool import Source

CAPTIONS = 16  # among which CLIP picks: the true one and those with one fact changed


class Asked(Protocol):
    """A prompt of an evaluation set: its category, the words, and what must be seen."""

    @property
    def tag(self) -> str: ...
    @property
    def text(self) -> str: ...
    @property
    def description(self) -> Any: ...


@dataclass(frozen=True)
class Question:
    """A prompt that was made up, and what must be seen."""

    text: str
    description: Any
    tag: str = "made up"


@dataclass(frozen=True)
class Quiz:
    """One scene for CLIP: captions, the true one first, and which fact is false in the others."""

    picture: torch.Tensor  # (1, 3, H, W) uint8
    captions: list[str]
    changed: list[str]


@dataclass(frozen=True)
class Tried:
    """Scenes to be made again by an autoencoder, their kinds, and a judge of what came back."""

    pictures: torch.Tensor  # (B, 3, H, W) uint8
    kinds: list[str]
    right: Callable[[torch.Tensor], list[bool]]


@dataclass(frozen=True)
class World:
    """What is measured by: the prompts and the judge of one of the two worlds."""

    prompts: Path
    read: Callable[[Path], Sequence[Asked]]
    groups: tuple[str, ...]  # under which figures are told, beside the whole
    groups_of: Callable[[Any], set[str]]  # of a prompt
    look: Callable[[torch.Tensor, Any], list[tuple[bool, Any]]]  # right, and what is seen
    facts: tuple[str, ...]  # that a caption can have wrong
    quiz: Callable[[random.Random, bool], Quiz | None]  # None: not a scene of that kind
    kinds: tuple[str, ...]
    trial: Callable[[int], Tried]
    ask: Callable[[random.Random], Asked]  # a prompt that no evaluation set has
    lesson: Callable[[random.Random], Asked]  # such a prompt of what is hard, in all wordings
    source: Callable[[], Source]  # of scenes with held-out combinations among them
    readings: Callable[[torch.Tensor], Sequence[Sequence[Any]]]  # scenes that images may show
    # A scene that a description is true of, where such can be drawn.
    draw_told: Callable[[Any, random.Random], Any] | None = None
