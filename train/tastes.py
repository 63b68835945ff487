"""Simulated people: a taste that can be told from the program that draws, and choices by it.

They make tests and figures of learning from choices honest, since it is known what is to be
learned. `python -m train.tastes` draws scenes, has one choose, and prints what a head learns.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable, Sequence

import torch

from rerank import Reranker
from rerank.learn.learning import Learned, learn
from train.stickers.captions import phrase
from train.stickers.facts import describe
from train.stickers.renderer import render
from train.stickers.scene import CELLS, Scene, draw_scene
from train.stickers.vocabulary import GROUND_BY_NAME


def luminance(colour: Sequence[int]) -> float:
    """Return how bright a colour of three channels from 0 to 255 is, from 0 to 1 (ITU-R BT.709)."""
    red, green, blue = (channel / 255 for channel in colour)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def large_on_dark(scene: Scene) -> float:
    """Return how much somebody likes a scene who loves large things on dark backgrounds."""
    covered = sum(sprite.side**2 for sprite in scene.sprites) / CELLS**2
    return 2 * covered - luminance(GROUND_BY_NAME[scene.ground].rgb)


def simulate(
    number: int, taste: Callable[[Scene], float], noise: float, seed: int
) -> tuple[list[Scene], list[Scene], list[str]]:
    """Return `number` choices: scenes chosen and rejected, and the prompt of each.

    `noise` is the share of choices that are made by the toss of a coin.
    """
    rng = random.Random(f"choices:{seed}")
    chosen, rejected, prompts = list[Scene](), list[Scene](), list[str]()
    while len(chosen) < number:
        first, second = draw_scene(rng), draw_scene(rng)
        better, worse = sorted((first, second), key=taste, reverse=True)
        if rng.random() < noise / 2:
            better, worse = worse, better
        chosen.append(better)
        rejected.append(worse)
        prompts.append(phrase(describe(first, rng), rng))
    return chosen, rejected, prompts


def features(reranker: Reranker, scenes: Sequence[Scene]) -> torch.Tensor:
    """Return the reranker's features (N, D) of scenes as they are drawn."""
    return torch.cat([reranker.image_features(render([scene])) for scene in scenes])


def measure(
    reranker: Reranker, number: int, noise: float = 0.0, held_out: int = 500
) -> tuple[Learned, float]:
    """Return what is learned from so many choices, and the agreement on others of that person."""
    chosen, rejected, prompts = simulate(number, large_on_dark, noise, seed=0)
    learned = learn(features(reranker, chosen), features(reranker, rejected), prompts)
    better, worse, _ = simulate(held_out, large_on_dark, 0.0, seed=1)
    margin = learned.reward(features(reranker, better)) - learned.reward(features(reranker, worse))
    return learned, float((margin > 0).float().mean())


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(prog="python -m train.tastes", description=__doc__)
    parser.add_argument("--clip", help="a known CLIP or a folder; default: the shipped one")
    parser.add_argument("--choices", type=int, nargs="+", default=[100, 500, 2000])
    parser.add_argument("--noise", type=float, default=0.0, help="share of choices by a coin")
    arguments = parser.parse_args()
    reranker = Reranker.load(arguments.clip)
    for number in arguments.choices:
        learned, agreement = measure(reranker, number, arguments.noise)
        print(f"{number} choices: {agreement:.1%} agreement on 500 others; {learned.summary()}")


if __name__ == "__main__":
    main()
