"""The world of a thousand things, as `train.evaluate` measures by it."""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import partial

import torch

from train.world import words
from train.world.captions import Speaker
from train.world.facts import CHANGES, Told, change, describe, possible_changes
from train.world.held_out import is_held_out
from train.world.judge import find, verdict
from train.world.prompts import EVALUATION, TAGS, Prompt, read_prompts
from train.world.renderer import render
from train.world.scene import KINDS, Scene, draw_scene
from train.world.source import source
from train.world.vocabulary import FIRST
from train.worlds import CAPTIONS, Question, Quiz, Tried, World

GROUPS = (*TAGS, "own wording", "free wording", "held out")


def groups_of(prompt: Prompt) -> set[str]:
    """Return the groups under which a prompt's figures are told."""
    held_out = {"held out"} if prompt.held_out else set()
    return {prompt.tag, f"{prompt.wording} wording"} | held_out


def look(images: torch.Tensor, told: Told) -> list[tuple[bool, object]]:
    """Return for each of (N, 3, H, H) uint8 images whether it is right, and what is seen in it."""
    return [(verdict(sight, told).right, sight) for sight in find(images)]


def draw_told(
    number: int, nouns: Sequence[int] = FIRST, seed: int = 0
) -> tuple[list[Scene], list[Told]]:
    """Return scenes with what is told of each, held-out combinations among them."""
    rng = random.Random(seed)
    scenes = [draw_scene(rng, nouns, held_out=True) for _ in range(number)]
    return scenes, [describe(scene, rng) for scene in scenes]


def trial(number: int) -> Tried:
    """Return scenes to be made again, and the judge of what came back."""
    scenes, told = draw_told(number)

    def right(images: torch.Tensor) -> list[bool]:
        pairs = zip(find(images), told, strict=True)
        return [verdict(sight, each).right for sight, each in pairs]

    return Tried(render(scenes), [scene.kind for scene in scenes], right)


def quiz(rng: random.Random, held_out: bool) -> Quiz | None:
    """Return a scene, its caption, and captions in the same wording with one fact changed."""
    scene = draw_scene(rng, FIRST, held_out=held_out)
    if is_held_out(scene.things, scene.style) != held_out:
        return None
    table = words.load()
    speaker = Speaker(table.unknown, table.adjectives, table.verbs)
    told = describe(scene, rng)
    changed: dict[Told, str] = {}
    for _ in range(CAPTIONS):
        for fact in possible_changes(told):
            other = change(told, rng, fact)
            if other != told and len(changed) < CAPTIONS - 1:
                changed.setdefault(other, fact)
    if len(changed) < CAPTIONS - 1:
        return None
    wording = rng.random()
    texts = [speaker.phrase(each, random.Random(wording)) for each in (told, *changed)]
    return Quiz(render([scene]), texts, list(changed.values()))


def ask(rng: random.Random) -> Question:
    """Return a prompt for a scene without held-out combinations."""
    table = words.load()
    told = describe(draw_scene(rng, FIRST), rng)
    return Question(Speaker(table.unknown, table.adjectives, table.verbs).phrase(told, rng), told)


def readings(images: torch.Tensor) -> list[list[Scene]]:
    """Return the scenes that each of (N, 3, H, H) uint8 images may show."""
    return [list(sight.scenes()) for sight in find(images)]


WORLD = World(
    prompts=EVALUATION,
    read=read_prompts,
    groups=GROUPS,
    groups_of=groups_of,
    look=look,
    facts=CHANGES,
    quiz=quiz,
    kinds=tuple(KINDS),
    trial=trial,
    ask=ask,
    lesson=ask,
    source=partial(source, held_out=True),
    readings=readings,
)
