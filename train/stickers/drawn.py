"""Images that our networks drew, for the reranker to learn from: it judges such images, and no
others.

`draw` makes a few candidates of each of many prompts of training and keeps them in a file. What
they show is told by the judge: a scene, of which captions are true or false as of any other, or
nothing clear, which no caption should be found for.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from train.stickers.facts import Description, describe, holds
from train.stickers.judge import find
from train.stickers.scene import Scene, draw_scene, stands_in
from train.stickers.vocabulary import RELATIONS
from train.stickers.wording import Wording

Draw = Callable[[list[str], int], torch.Tensor]  # prompts and a seed to uint8 (N, 3, H, W)
TOGETHER = 64
CANDIDATES = 4  # of each prompt
FREE = 0.5


@dataclass(frozen=True)
class Shown:
    """One image, what was asked for, and the scene that the judge sees, None if none is clear."""

    image: torch.Tensor  # (3, H, W) uint8
    asked: Description
    scene: Scene | None


def asked_for(number: int, seed: str) -> list[tuple[str, Description]]:
    """Return prompts of training and what they tell, the same for the same seed."""
    rng, wording = random.Random(seed), Wording(FREE)
    told = [describe(draw_scene(rng), rng) for _ in range(number)]
    return [(wording.say(each, rng), each) for each in told]


def draw(paint: Draw, path: Path, number: int) -> Path:
    """Write `CANDIDATES` images of each of `number` prompts; prompts differ from path to path."""
    prompts = [text for text, _ in asked_for(number, path.stem) for _ in range(CANDIDATES)]
    parts = [
        paint(prompts[start : start + TOGETHER], start)
        for start in range(0, len(prompts), TOGETHER)
    ]
    save_file({"images": torch.cat(parts).contiguous()}, path)
    return path


def load(paths: Sequence[Path]) -> list[list[Shown]]:
    """Return what `draw` wrote, prompt by prompt."""
    shown = []
    for path in paths:
        images = load_file(path)["images"]
        prompts = asked_for(len(images) // CANDIDATES, path.stem)
        sights = find(images)
        for index, (_, told) in enumerate(prompts):
            places = range(index * CANDIDATES, (index + 1) * CANDIDATES)
            shown.append([Shown(images[i], told, sights[i].scene) for i in places])
    return shown


def seen(shown: Shown, rng: random.Random) -> Description | None:
    """Return what is true of an image: what was asked for if it is, else what stands there; None
    where that cannot be said in one sentence."""
    scene = shown.scene
    if scene is None:
        return None
    if holds(shown.asked, scene):
        return shown.asked
    things = list(dict.fromkeys(scene.things))
    ground = scene.ground if rng.random() < 0.5 else None
    if len(things) == 1:
        number = len(scene.sprites)
        return Description((things[0],), count=number, ground=ground) if number <= 5 else None
    if len(things) != len(scene.sprites) or len(things) > 3:
        return None
    relation = None
    if len(things) == 2 and rng.random() < 0.7:
        found = [name for name in RELATIONS if stands_in(name, *scene.sprites)]
        relation = rng.choice(found) if found else None
    return Description(tuple(things), relation=relation, ground=ground)
