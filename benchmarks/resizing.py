"""How far the fast way of preparing pictures is from PIL's, in scores.

500 pictures of 33 to 2,000 px a side (photographs and figures from scikit-image, drawings and
noise, reduced and enlarged, half of them JPEG files) are scored with 100 prompts both ways.

    python -m benchmarks.resizing

Printed are the differences of the scores, in percent of the exact score where that is at least a
tenth of the largest, and for how many prompts the best picture is the same.
"""

import argparse
import random
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw

from rerank import Reranker
from rerank.claims.vocabulary import Vocabulary, article, read_vocabulary

PHOTOGRAPHS = (
    "astronaut", "brick", "camera", "cell", "chelsea", "coffee", "coins", "grass", "gravel",
    "hubble_deep_field", "immunohistochemistry", "moon", "page", "retina", "rocket", "text",
)  # fmt: skip
SMALLEST, LARGEST = 33, 2000


def make_pictures(folder: Path, count: int) -> list[Path]:
    """Three photographs of five pictures, then a drawing and noise; PNG and JPEG in turns."""
    from skimage import data

    rng = random.Random(0)
    photographs = [Image.fromarray(getattr(data, name)()).convert("RGB") for name in PHOTOGRAPHS]
    files = []
    for number in range(count):
        side = round(SMALLEST * (LARGEST / SMALLEST) ** rng.random())
        other = min(LARGEST, max(SMALLEST, round(side * rng.uniform(0.6, 1.7))))
        if number % 5 < 3:
            image = _crop(rng.choice(photographs), rng).resize((side, other), rng.choice((1, 2, 3)))
        else:
            image = _drawing(rng, side, other) if number % 5 == 3 else _noise(number, side, other)
        files.append(folder / f"{number:03}.{'jpg' if number % 2 else 'png'}")
        image.save(files[-1])
    return files


def _crop(image: Image.Image, rng: random.Random) -> Image.Image:
    wide, high = (round(side * rng.uniform(0.4, 1)) for side in image.size)
    left, top = rng.randint(0, image.width - wide), rng.randint(0, image.height - high)
    return image.crop((left, top, left + wide, top + high))


def _drawing(rng: random.Random, wide: int, high: int) -> Image.Image:
    image = Image.new("RGB", (wide, high), _colour(rng))
    pen = ImageDraw.Draw(image)
    for _ in range(12):
        xs, ys = sorted(rng.choices(range(wide), k=2)), sorted(rng.choices(range(high), k=2))
        shape = rng.choice((pen.rectangle, pen.ellipse))
        shape((xs[0], ys[0], xs[1], ys[1]), fill=_colour(rng))
    return image


def _noise(seed: int, wide: int, high: int) -> Image.Image:
    values = np.random.default_rng(seed).integers(0, 256, (high, wide, 3), dtype=np.uint8)
    return Image.fromarray(values)


def _colour(rng: random.Random) -> tuple[int, int, int]:
    return rng.randrange(256), rng.randrange(256), rng.randrange(256)


def prompts(vocabulary: Vocabulary, count: int) -> list[str]:
    """Things of the model's own vocabulary, in its colours and on its grounds."""
    rng = random.Random(0)
    found: dict[str, None] = {}
    while len(found) < count:
        noun = rng.choice(vocabulary.nouns)
        thing = f"{rng.choice(vocabulary.colours)} {noun.name}" if noun.coloured else noun.name
        ground = rng.choice(list(vocabulary.backgrounds))
        found[f"{article(thing)} {thing} on {article(ground)} {ground} background"] = None
    return list(found)


def main(argv: Sequence[str] | None = None) -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-m", "--model", help="a CLIP or SigLIP; default: the shipped one")
    parser.add_argument("--pictures", type=int, default=500)
    options = parser.parse_args(argv)
    fast, exact = (Reranker.load(options.model, exact=exact) for exact in (False, True))
    texts = prompts(read_vocabulary(fast.folder), 100)
    with tempfile.TemporaryDirectory() as place:
        files = make_pictures(Path(place), options.pictures)
        ours, theirs = (jury.similarity(texts, files) for jury in (fast, exact))
    difference = (ours - theirs).abs()
    large = theirs.abs() >= theirs.abs().max() / 10
    percent = 100 * difference[large] / theirs[large].abs()
    same = (ours.argmax(1) == theirs.argmax(1)).float().mean()
    quantiles = torch.quantile(
        percent[:: max(1, len(percent) // 100_000)], torch.tensor([0.5, 0.99])
    )
    print(
        f"{len(files)} pictures, {len(texts)} prompts, {fast.name}\n"
        f"  difference of scores: mean {difference.mean():.5f}, at most {difference.max():.5f}\n"
        f"  in percent: mean {percent.mean():.3f}, median {quantiles[0]:.3f}, "
        f"99th percentile {quantiles[1]:.3f}\n"
        f"  the same best picture for {same:.1%} of prompts"
    )


if __name__ == "__main__":
    main()
