"""What a reranker's scores, ticks and crosses are worth, by the world's own truth.

A calibration is learned from scenes and from images that the painter drew, where the world and
the judge say which captions are right; its error is measured on other scenes, with held-out
combinations among them, and on the drawn evaluation prompts. No caption is on both sides.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from pipelines.diffusion.pipeline import LatentDiffusion
from rerank import Reranker
from rerank.calibration.calibrating import Pair, Quality, make, quality
from rerank.calibration.calibration import CAPTIONS, NONE_MATCHES, Calibration
from rerank.claims.claims import KINDS, Claim
from rerank.images import Encoded
from train.stickers.captions import phrase
from train.stickers.facts import Description, change, describe, holds, possible_changes
from train.stickers.judge import find, verdict
from train.stickers.prompts import make_prompts, read_prompts
from train.stickers.renderer import render
from train.stickers.scene import SIZE_CELLS, Scene, draw_scene, stands_at, stands_in
from train.stickers.vocabulary import SIZES

SAID = (("said 50-80%", 0.5, 0.8), ("said 80-95%", 0.8, 0.95), ("said 95%", 0.95, 1.1))
PROMPTS_SEED = 1  # of the prompts drawn to learn from; the evaluation set has 0


@dataclass(frozen=True)
class Labelled:
    """Images with captions of which is known whether they match. `foreign` are the places in
    `pairs` of captions that tell of another scene."""

    images: torch.Tensor  # (N, 3, H, W) uint8
    pairs: list[Pair]
    foreign: list[int]


@dataclass(frozen=True)
class Rates:
    """Shares of right answers, each with the number of cases, by a name."""

    right: dict[str, list[bool]]

    def lines(self) -> list[str]:
        """For people."""
        return [
            f"  {name:<12}{sum(each) / len(each):6.1%}  of {len(each)}"
            for name, each in self.right.items()
            if each
        ]


def label_scenes(number: int, seed: str, avoid: Sequence[str] = ()) -> Labelled:
    """Scenes, each with its caption, with one that has a fact changed, and with that of another
    scene; never a caption of `avoid`."""
    rng, taken = random.Random(seed), set(avoid)
    scenes: list[Scene] = []
    pairs: list[Pair] = []
    foreign: list[int] = []
    while len(scenes) < number:
        scene = draw_scene(rng, held_out=True)
        told = describe(scene, rng)
        changed = change(told, rng.choice(possible_changes(told)), rng, held_out=True)
        other = describe(draw_scene(rng, held_out=True), rng)
        described = [each for each in (told, changed, other) if each is not None]
        captions = [phrase(each, rng) for each in described]
        if not taken.isdisjoint(captions):
            continue
        foreign += [len(pairs) + 2] if len(described) == 3 and not holds(other, scene) else []
        pairs += [
            Pair(len(scenes), caption, holds(each, scene))
            for caption, each in zip(captions, described, strict=True)
        ]
        scenes.append(scene)
    return Labelled(render(scenes), pairs, foreign)


def label_drawn(
    pipeline: LatentDiffusion,
    prompts: Sequence[tuple[str, Description]],
    seeds: int,
) -> Labelled:
    """Images drawn for each prompt, each with that prompt and with that of another, by the
    judge's verdict."""
    images: list[torch.Tensor] = []
    pairs: list[Pair] = []
    foreign: list[int] = []
    for number, (text, description) in enumerate(prompts):
        with pipeline.begin(text, seeds=range(seeds)) as draft:
            draft.step(draft.total)
            drawn = draft.pixels().cpu()
        other_text, other = prompts[(number + len(prompts) // 2 + 1) % len(prompts)]
        for image, sight in zip(drawn, find(drawn), strict=True):
            pairs.append(Pair(len(images), text, verdict(sight, description).right))
            pairs.append(Pair(len(images), other_text, verdict(sight, other).right))
            foreign += [] if pairs[-1].matches else [len(pairs) - 1]
            images.append(image)
    return Labelled(torch.stack(images), pairs, foreign)


def calibrate(
    reranker: Reranker,
    pipeline: LatentDiffusion | None,
    *,
    scenes: int = 400,
    prompts: int = 60,
    seeds: int = 4,
) -> tuple[Calibration, Quality]:
    """Calibrate on scenes and, with a pipeline, on what it draws of prompts that are not in the
    evaluation set; return the quality on images that were held out too."""
    evaluated = {prompt.text for prompt in read_prompts()}
    parts = [label_scenes(scenes, "calibration")]
    if pipeline is not None:
        fresh = [p for p in make_prompts(PROMPTS_SEED) if p.text not in evaluated][:prompts]
        parts.append(label_drawn(pipeline, [(p.text, p.description) for p in fresh], seeds))
    rng = random.Random("unrelated captions")
    unrelated = [phrase(describe(draw_scene(rng), rng), rng) for _ in range(2 * CAPTIONS)]
    pairs, begin = [], 0
    for part in parts:
        pairs += [Pair(begin + p.image, p.caption, p.matches) for p in part.pairs]
        begin += len(part.images)
    images = reranker.encode(torch.cat([part.images for part in parts]))
    return make(reranker, images, pairs, [text for text in unrelated if text not in evaluated])


def main_figures(
    reranker: Reranker,
    pipeline: LatentDiffusion | None,
    *,
    scenes: int = 300,
    prompts: int = 48,
    seeds: int = 4,
) -> str:
    """Return what probabilities and ticks are worth, as lines for people: on scenes, and with a
    model on what it draws of the first evaluation prompts."""
    labelled = label_scenes(scenes, "evaluation")
    lines = [
        f"{scenes} scenes, each with its caption, a changed one and that of another scene",
        *_calibration_lines(reranker, labelled),
        f"claims of {scenes} captions, a third of them true",
        *measure_claims_on_scenes(reranker, scenes).lines(),
    ]
    if pipeline is not None:
        chosen = [(p.text, p.description) for p in read_prompts()[:prompts]]
        drawn = label_drawn(pipeline, chosen, seeds)
        lines += [
            f"{len(drawn.images)} images drawn of {prompts} prompts, each with its prompt and "
            "another; the judge decides",
            *_calibration_lines(reranker, drawn),
            "claims on them, where the judge sees a scene clearly",
            *measure_claims_on_drawn(reranker, drawn).lines(),
        ]
    return "\n".join(lines)


def _calibration_lines(reranker: Reranker, labelled: Labelled) -> list[str]:
    found, none = measure_calibration(reranker, labelled)
    return [
        f"  expected calibration error {found.error:.3f}, {found.right:.1%} told right, "
        f"of {found.pairs} pairs",
        *none.lines(),
    ]


def measure_calibration(reranker: Reranker, labelled: Labelled) -> tuple[Quality, Rates]:
    """Return the quality of probabilities on labelled images; how often "none of these match" is
    right where the caption is another scene's, and how often it is rightly not said; and how many
    match of those that are said to with a probability in some bounds."""
    images = reranker.encode(labelled.images)
    probabilities = [
        reranker.calibrated(pair.caption, _one(images, pair.image))[0].probability
        for pair in labelled.pairs
    ]
    matches = [pair.matches for pair in labelled.pairs]
    said = {
        name: [truth for p, truth in zip(probabilities, matches, strict=True) if low <= p < high]
        for name, low, high in SAID
    }
    none = {
        "none matches": [probabilities[place] < NONE_MATCHES for place in labelled.foreign],
        "one matches": [
            p >= NONE_MATCHES for p, truth in zip(probabilities, matches, strict=True) if truth
        ],
    }
    return quality(probabilities, matches), Rates(none | said)


def measure_claims_on_scenes(reranker: Reranker, number: int) -> Rates:
    """How often ticks and crosses are right on scenes: a third with their own captions, a third
    with one fact changed, a third with captions of other scenes."""
    rng = random.Random("claims")
    scenes = [draw_scene(rng, held_out=True) for _ in range(number)]
    images = reranker.encode(render(scenes))
    cases = []
    for index, scene in enumerate(scenes):
        told = describe(scene if index % 3 < 2 else draw_scene(rng, held_out=True), rng)
        if index % 3 == 1:
            changed = change(told, rng.choice(possible_changes(told)), rng, held_out=True)
            told = told if changed is None else changed
        cases.append((phrase(told, rng), _one(images, index), scene))
    return _rates(reranker, cases)


def measure_claims_on_drawn(reranker: Reranker, drawn: Labelled) -> Rates:
    """Return the same on drawn images in which the judge sees a scene clearly."""
    images = reranker.encode(drawn.images)
    sights = find(drawn.images)
    seen = [(pair, sights[pair.image].scene) for pair in drawn.pairs]
    return _rates(
        reranker,
        [(p.caption, _one(images, p.image), scene) for p, scene in seen if scene is not None],
    )


def _rates(reranker: Reranker, cases: Sequence[tuple[str, Encoded, Scene]]) -> Rates:
    right: dict[str, list[bool]] = {name: [] for name in ("overall", *KINDS)}
    for caption, image, scene in cases:
        for verdict_ in reranker.check(caption, image)[0].results:
            is_right = verdict_.holds == is_true(verdict_.claim, scene)
            right["overall"].append(is_right)
            right[verdict_.claim.kind].append(is_right)
    return Rates(right)


def is_true(claim: Claim, scene: Scene) -> bool:
    """Whether a claim, in the words of the vocabulary, is true of a scene."""
    subjects = [sprite for sprite in scene.sprites if sprite.thing.name == claim.subject]
    match claim.kind:
        case "object":
            return bool(subjects)
        case "count":
            return len(subjects) == int(claim.value)
        case "colour":
            return any(sprite.thing.colour == claim.value for sprite in subjects)
        case "size":
            [size] = [name for name, words in SIZES.items() if claim.value in words]
            return any(sprite.side == SIZE_CELLS[size] for sprite in subjects)
        case "place":
            return any(stands_at(sprite, claim.value) for sprite in subjects)
        case "relation":
            return any(
                stands_in(claim.value, first, second)
                for first in subjects
                for second in scene.sprites
                if second is not first and second.thing.name == claim.other
            )
        case "ground":
            return scene.ground == claim.value
        case _:
            raise ValueError(f"no truth is known for claims of {claim.kind}")


def _one(images: Encoded, index: int) -> Encoded:
    return Encoded(images.features[index : index + 1])
