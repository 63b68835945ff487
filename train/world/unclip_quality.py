"""What the way over embeddings is worth: `python -m train.world.unclip_quality -m FOLDER`.

The prior is measured on captions of scenes, held-out combinations among them: how near its
embedding comes to that of the true image, and how near the text's own is. Variations and the ends
of mixes are judged by what the world's judge finds in them.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter

import torch
from PIL import Image
from torch.nn.functional import cosine_similarity

from pipelines.drafts import to_image
from pipelines.runtime.terminal import Parser, above_zero
from pipelines.unclip.image_prompt import ImagePrompt
from pipelines.unclip.pipeline import Unclip
from train.evaluate import share
from train.world import words
from train.world.captions import Speaker
from train.world.judge import find
from train.world.measure import draw_told
from train.world.renderer import render
from train.world.scene import Scene

MOVED = 0.5  # cells from where a thing was, on one axis at least
POOL = 64  # embeddings whose cost is measured


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


def kept_things(scenes: Sequence[Scene], drawn: torch.Tensor) -> tuple[list[bool], list[bool]]:
    """Return whether images (N, 3, H, W) show the things of their scenes, and whether those that
    do have one of them elsewhere."""
    same, moved = [], []
    for scene, sight in zip(scenes, find(drawn), strict=True):
        readings = [each for each in sight.scenes() if sorted(each.things) == sorted(scene.things)]
        same.append(bool(readings))
        if readings:
            moved.append(_moved(scene, readings[0]))
    return same, moved


def _moved(before: Scene, after: Scene) -> bool:
    def places(scene: Scene) -> list[tuple[int, float, float]]:
        return sorted((each.thing, each.x, each.y) for each in scene.sprites)

    pairs = zip(places(before), places(after), strict=True)
    return any(max(abs(a[1] - b[1]), abs(a[2] - b[2])) >= MOVED for a, b in pairs)


def drawn_of(pipeline: Unclip, prompts: Sequence[ImagePrompt]) -> torch.Tensor:
    """Return an image, uint8 (N, 3, H, W), of each of the prompts; the i-th has the seed i."""
    made = []
    for seed, images in enumerate(prompts):
        with pipeline.begin("", seeds=[seed], images=images) as draft:
            draft.step(draft.total)
            made.append(draft.pixels()[0].cpu())
    return torch.stack(made)


def cost_of_pool(pipeline: Unclip, prompt: str, number: int = POOL) -> float:
    """Return by what share of an image's time it takes longer to choose from so many embeddings."""

    def seconds(**settings: int) -> float:
        start = perf_counter()
        with pipeline.begin(prompt, seeds=[0], **settings) as draft:  # type: ignore[arg-type]
            draft.step(draft.total)
            draft.images()
        return perf_counter() - start

    seconds(prior_draws=1)  # warms up
    one = min(seconds(prior_draws=1) for _ in range(3))
    many = min(seconds(prior_candidates=number) for _ in range(3))
    return many / one - 1


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    parser = Parser(prog="python -m train.world.unclip_quality", description=__doc__)
    parser.add_argument("-m", "--model", required=True, help="a folder, or a known model")
    parser.add_argument("--scenes", type=above_zero(int), default=200)
    parser.add_argument("--cost", action="store_true", help="time the choice among embeddings, too")
    arguments: argparse.Namespace = parser.parse_args(argv)
    pipeline = Unclip.from_pretrained(arguments.model)
    scenes, told = draw_told(arguments.scenes, seed=1)
    table, rng = words.load(), random.Random(0)
    speaker = Speaker(table.unknown, table.adjectives, table.verbs)
    captions = [speaker.phrase(each, rng) for each in told]
    images = [to_image(each) for each in render(scenes)]

    gain = prior_gain(pipeline, captions, images)
    print(f"cosine with the true image: prior {gain.prior:.3f}, text {gain.text:.3f}", end=", ")
    print(f"gain {gain.prior - gain.text:+.3f}")
    drawn = drawn_of(pipeline, [ImagePrompt((each,)) for each in images])
    same, moved = kept_things(scenes, drawn)
    print(f"variations: same things {share(same)}; of these elsewhere {share(moved)}")
    others = images[1:] + images[:1]
    for at, ends in ((0.0, scenes), (1.0, [*scenes[1:], scenes[0]])):
        mixes = [ImagePrompt(pair, at) for pair in zip(images, others, strict=True)]
        same, _ = kept_things(ends, drawn_of(pipeline, mixes))
        print(f"mixes at {at:g}: the things of that image {share(same)}")
    if arguments.cost:
        extra = cost_of_pool(pipeline, captions[0])
        print(f"choosing from {POOL} embeddings takes {extra:+.1%} of an image's time")
    return 0


if __name__ == "__main__":
    sys.exit(main())
