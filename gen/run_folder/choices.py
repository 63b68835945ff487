"""What people chose among the images of a run folder: hearts, and which of two is better."""

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gen.settings.request import seed_to_json


@dataclass(frozen=True)
class ImageHearted:
    """Somebody gave an image a heart, or took it back."""

    number: int
    seed: int
    hearted: bool


@dataclass(frozen=True)
class ImagePreferred:
    """Somebody preferred an image to another of the same prompt."""

    number: int
    seed: int
    over: int  # the other one's seed


ChoiceEvent = ImageHearted | ImagePreferred


@dataclass
class Choices:
    """All choices about one prompt: the seeds with a heart, and (better, worse) in their order."""

    hearts: set[int] = field(default_factory=set)
    pairs: dict[frozenset[int], tuple[int, int]] = field(default_factory=dict)

    def apply(self, event: ChoiceEvent) -> None:
        """Take in a choice; about the same two the last one counts."""
        match event:
            case ImageHearted(_, seed, True):
                self.hearts.add(seed)
            case ImageHearted(_, seed, False):
                self.hearts.discard(seed)
            case ImagePreferred(_, seed, over):
                self.pairs[frozenset((seed, over))] = seed, over

    def preferences(self, seeds: Iterable[int]) -> Iterator[tuple[int, int, float]]:
        """Yield better, worse and weight among these images.

        A heart is a choice over all images without one, which together weigh as much as one choice
        between two.
        """
        there = list(seeds)
        for better, worse in self.pairs.values():
            if better in there and worse in there:
                yield better, worse, 1.0
        plain = [seed for seed in there if seed not in self.hearts]
        for seed in there:
            if seed in self.hearts:
                yield from ((seed, other, 1 / len(plain)) for other in plain)


def choice_to_json(event: ChoiceEvent) -> dict[str, Any]:
    """Return the line of the manifest."""
    line = {"event": "chosen", "number": event.number, "seed": seed_to_json(event.seed)}
    if isinstance(event, ImagePreferred):
        return {**line, "over": seed_to_json(event.over)}
    return {**line, "heart": event.hearted}


def choice_from_json(line: Mapping[str, Any]) -> ChoiceEvent:
    """Read what `choice_to_json` made. Raises the exceptions of a damaged line."""
    number, seed = int(line["number"]), int(line["seed"])
    if "over" not in line:
        return ImageHearted(number, seed, bool(line["heart"]))
    if int(line["over"]) == seed:
        raise ValueError("an image is not better than itself")
    return ImagePreferred(number, seed, int(line["over"]))


def export_lines(
    prompts: Iterable[tuple[str, Choices, Mapping[int, Path]]], folder: Path
) -> Iterator[str]:
    """Yield choices as `rerank learn` and `salon-train prefer` read them, a JSON object a line.

    `prompts` are the words, the choices, and the images by seed; their paths become relative to
    `folder`.
    """
    for prompt, choices, images in prompts:
        for better, worse, weight in choices.preferences(images):
            chosen, rejected = (
                Path(os.path.relpath(images[seed], folder)).as_posix() for seed in (better, worse)
            )
            row = {"prompt": prompt, "chosen": chosen, "rejected": rejected, "weight": weight}
            yield json.dumps(row, ensure_ascii=False)
