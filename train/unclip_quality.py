"""What the way over embeddings is worth: `python -m train.unclip_quality`.

The prior is measured on captions of scenes, held-out combinations among them: how near its
embedding comes to that of the true image, and how near the text's own is. Variations and the ends
of mixes are judged by what the judge finds in them: in one candidate, and in the best of eight,
ranked as `generate` ranks them.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median
from time import perf_counter
from typing import Any

import torch
from PIL import Image
from torch.nn.functional import cosine_similarity, normalize

from pipelines.drafts import to_image
from pipelines.families import find
from pipelines.loading import LoadOptions
from pipelines.runtime.terminal import Parser, above_zero
from pipelines.unclip.image_prompt import ImagePrompt
from pipelines.unclip.pipeline import Unclip
from rerank import Reranker
from rerank.likeness import Likeness
from train.evaluate import share, world_named
from train.report import Estimate
from train.worlds import World

MOVED = 0.5  # cells from where a thing was, on one axis at least
POOL = 64  # embeddings whose cost is measured
CANDIDATES = 8  # of a variation or a mix
ROUNDS = 9  # of timing one embedding and many, in turn
ALIKE = 16  # true images of the same words


@dataclass(frozen=True)
class Gain:
    """Mean cosines with the embedding of the true image: of the prior's, and of the text's."""

    prior: float
    text: float


def prior_gain(pipeline: Unclip, captions: Sequence[str], images: Sequence[Image.Image]) -> Gain:
    """Measure the prior on captions of images that it never saw."""
    true = pipeline.embed(images)  # (N, D)
    prior, text = [], []
    for caption, embedding in zip(captions, true, strict=True):
        assert pipeline.reader is not None
        own = pipeline.reader.read(caption).embedding
        assert own is not None
        text.append(float(cosine_similarity(own.float(), embedding[None])))
        with pipeline.begin(caption, seeds=[0]) as draft:
            while draft.embeddings is None:
                draft.step()
            prior.append(float(cosine_similarity(draft.embeddings, embedding[None])))
    return Gain(sum(prior) / len(prior), sum(text) / len(text))


@dataclass(frozen=True)
class Ceiling:
    """What a prior can reach: mean cosines of embeddings of true images of the same words, of two
    with each other, which is that of a prior that draws as the world does, and of each with the
    mean of the others, which is that of a prior that always says the mean."""

    drawn: float
    mean: float


def ceiling(pipeline: Unclip, world: World, number: int, rng: random.Random) -> Ceiling:
    """Measure it on so many prompts of a world that draws scenes of a description."""
    assert world.draw_told is not None
    source, drawn, mean = world.source(), [], []
    for _ in range(number):
        told = world.lesson(rng).description
        scenes = [world.draw_told(told, rng) for _ in range(ALIKE)]
        rendered = [to_image(each) for each in source.render(scenes)]
        made = normalize(pipeline.embed(rendered).float(), dim=1)  # (ALIKE, D)
        others = made.sum(0) - made
        drawn.append(float((made * others).sum(1).mean()) / (ALIKE - 1))
        mean.append(float(cosine_similarity(made, others).mean()))
    return Ceiling(sum(drawn) / number, sum(mean) / number)


def kept_things(
    world: World, scenes: Sequence[Any], drawn: torch.Tensor
) -> tuple[list[bool], list[bool]]:
    """Return whether images (N, 3, H, W) show the things of their scenes, and whether those that
    do have one of them elsewhere."""
    same, moved = [], []
    for scene, readings in zip(scenes, world.readings(drawn), strict=True):
        alike = [each for each in readings if Counter(each.things) == Counter(scene.things)]
        same.append(bool(alike))
        if alike:
            moved.append(_moved(scene, alike[0]))
    return same, moved


def _moved(before: Any, after: Any) -> bool:
    def places(scene: Any) -> list[tuple[str, float, float]]:
        return sorted((str(each.thing), each.x, each.y) for each in scene.sprites)

    pairs = zip(places(before), places(after), strict=True)
    return any(max(abs(a[1] - b[1]), abs(a[2] - b[2])) >= MOVED for a, b in pairs)


@dataclass(frozen=True)
class Kept:
    """Whether candidates (N, 8) of N image prompts show the same things, and whether those that do
    have one of them elsewhere; the nearest come first in `order` (N, 8)."""

    same: torch.Tensor
    moved: list[bool]
    order: torch.Tensor

    def one(self) -> Estimate:
        """Return the share of the first candidates, before any ranking."""
        return share(self.same[:, 0].tolist())

    def best(self, number: int) -> Estimate:
        """Return the share of the so many nearest."""
        chosen = self.order[:, :number]
        return share(self.same.gather(1, chosen).float().mean(1).tolist())


def kept_of(
    pipeline: Unclip,
    reranker: Reranker,
    world: World,
    scenes: Sequence[Any],
    prompts: Sequence[ImagePrompt],
) -> Kept:
    """Draw eight candidates of each image prompt, and look for the things of its scene in them."""
    same, moved, order = [], [], []
    for number, (scene, images) in enumerate(zip(scenes, prompts, strict=True)):
        seeds = range(number * CANDIDATES, (number + 1) * CANDIDATES)
        with pipeline.begin("", seeds=seeds, images=images) as draft:
            draft.step(draft.total)
            drawn = draft.pixels().cpu()
        shown, elsewhere = kept_things(world, [scene] * CANDIDATES, drawn)
        near = Likeness(reranker, images.images, images.turned).score("", drawn)
        same.append(shown)
        moved += elsewhere
        order.append(torch.tensor(near).argsort(descending=True))
    return Kept(torch.tensor(same), moved, torch.stack(order))


def cost_of_pool(pipeline: Unclip, prompt: str, number: int = POOL) -> float:
    """Return by what share of an image's time it takes longer to choose from so many embeddings."""

    def seconds(**settings: int) -> float:
        start = perf_counter()
        with pipeline.begin(prompt, seeds=[0], **settings) as draft:  # type: ignore[arg-type]
            draft.step(draft.total)
            draft.images()
        return perf_counter() - start

    seconds(prior_draws=1)  # warms up
    one, many = zip(
        *((seconds(prior_draws=1), seconds(prior_candidates=number)) for _ in range(ROUNDS)),
        strict=True,
    )
    return median(many) / median(one) - 1


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    parser = Parser(prog="python -m train.unclip_quality", description=__doc__)
    parser.add_argument("-m", "--model", default="stickers-unclip", help="a folder, or a name")
    parser.add_argument("--world", action="store_true", help="the world of a thousand things")
    parser.add_argument("--scenes", type=above_zero(int), default=200)
    parser.add_argument("--cost", action="store_true", help="time the choice among embeddings, too")
    arguments: argparse.Namespace = parser.parse_args(argv)
    pipeline = Unclip.load(find(arguments.model), LoadOptions())
    world, rng = world_named(arguments.world), random.Random(1)
    source = world.source()
    scenes = [source.draw(rng) for _ in range(arguments.scenes)]
    captions = [source.caption(scene, rng) for scene in scenes]
    images = [to_image(each) for each in source.render(scenes)]

    gain = prior_gain(pipeline, captions, images)
    print(f"cosine with the true image: prior {gain.prior:.3f}, text {gain.text:.3f}", end=", ")
    print(f"gain {gain.prior - gain.text:+.3f}")
    if world.draw_told is not None:
        best = ceiling(pipeline, world, arguments.scenes, rng)
        print(f"  two true images of the same words {best.drawn:.3f}", end=", ")
        print(f"one and the mean of {ALIKE - 1} others {best.mean:.3f}")
    measured = partial(kept_of, pipeline, Reranker.load(), world)
    kept = measured(scenes, [ImagePrompt((each,)) for each in images])
    print(f"variations, same things: one candidate {kept.one()}, 4 of 8 {kept.best(4)}", end="; ")
    print(f"of these elsewhere {share(kept.moved)}")
    half = max(2, len(images) // 2)
    pairs = list(zip(images, images[1:] + images[:1], strict=True))[:half]
    for at, ends in ((0.0, scenes), (1.0, [*scenes[1:], scenes[0]])):
        kept = measured(ends[:half], [ImagePrompt(pair, at) for pair in pairs])
        print(f"mixes at {at:g}, the things of that image: one candidate {kept.one()}", end=", ")
        print(f"best of 8 {kept.best(1)}")
    if arguments.cost:
        extra = cost_of_pool(pipeline, captions[0])
        print(f"choosing from {POOL} embeddings takes {extra:+.1%} of an image's time")
    return 0


if __name__ == "__main__":
    sys.exit(main())
