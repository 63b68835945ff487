"""What edits are worth on our world: a judge that is no network looks at them.

    python -m benchmarks.edits [-m NAME] [--world stickers|world] [--scenes 200] [--candidates 8]
    python -m benchmarks.edits --masks 1000

*Swap*: a thing of a scene is masked and another one is asked for; an edit is right if the judge
finds the scene with the other thing in it and all else as it was. *Outpainting*: a side of a scene
is cut off and drawn again; right if the judge finds the scene whole. Both take the reranker's best
of the candidates, and count pixels that were to stay and did not. *Masks*: random hard masks of
random images at few steps; counts the pixels outside that are not equal to the bit. All intervals
are 95 % (Wilson).
"""

from __future__ import annotations

import argparse
import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from gen.api import generate
from gen.engine import Engine
from train.stickers import captions, facts, judge, renderer, scene
from train.world import facts as world_facts
from train.world import measure, words
from train.world import renderer as world_renderer
from train.world import scene as world_scene
from train.world.captions import Speaker

CELL = 8  # pixels
CUT = 2  # cells that are cut off a side and drawn again
QUICK = 4  # steps for masks


@dataclass(frozen=True)
class Swap:
    """A scene, its caption with one thing exchanged, where that stands, and what is judged."""

    image: Image.Image
    text: str
    boxes: list[tuple[int, int, int, int]]
    right: Callable[[torch.Tensor], bool]
    whole: str  # the caption of the scene as it is
    still: Callable[[torch.Tensor], bool]


def sticker(rng: random.Random) -> Swap | None:
    """Return a swap in the world of the first shipped weights."""
    drawn = scene.draw_scene(rng)
    told = facts.describe(drawn, rng)
    other = facts.change(told, "object", rng)
    if other is None:
        return None

    def look(description: Any) -> Callable[[torch.Tensor], bool]:
        return lambda images: judge.judge(images, description)[0].right

    gone = set(told.things) - set(other.things)
    image = renderer.render([drawn])
    texts = [captions.phrase(each, rng) for each in (other, told)]
    return _swap(image, drawn.sprites, gone, texts, look(other), look(told))


def thousand(rng: random.Random) -> Swap | None:
    """Return a swap in the world of a thousand things."""
    drawn = world_scene.draw_scene(rng)
    told = world_facts.describe(drawn, rng)
    other = world_facts.change(told, rng, "thing")
    table = words.load()
    speaker = Speaker(table.unknown, table.adjectives, table.verbs)

    def look(description: Any) -> Callable[[torch.Tensor], bool]:
        return lambda images: measure.look(images, description)[0][0]

    gone = set(told.things) - set(other.things)
    image = world_renderer.render([drawn])
    texts = [speaker.phrase(each, rng) for each in (other, told)]
    return _swap(image, drawn.sprites, gone, texts, look(other), look(told))


def _swap(
    image: torch.Tensor, sprites: Any, gone: set[Any], texts: list[str], right: Any, still: Any
) -> Swap | None:
    boxes = [
        tuple(round(CELL * n) for n in (s.x, s.y, s.x + s.side, s.y + s.side))
        for s in sprites
        if s.thing in gone
    ]
    if not boxes or not still(image):
        return None
    picture = Image.fromarray(image[0].permute(1, 2, 0).numpy())
    return Swap(picture, texts[0], boxes, right, texts[1], still)  # type: ignore[arg-type]


WORLDS = {"stickers": sticker, "world": thousand}


def wilson(right: int, of: int) -> str:
    """Return a share with its interval, as text."""
    z, share = 1.96, right / of
    middle = (share + z * z / (2 * of)) / (1 + z * z / of)
    spread = z * math.sqrt(share * (1 - share) / of + z * z / (4 * of * of)) / (1 + z * z / of)
    return f"{right} of {of} = {share:.1%} [{middle - spread:.1%}, {middle + spread:.1%}]"


def as_tensor(image: Image.Image) -> torch.Tensor:
    """Return (1, 3, H, W) uint8."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)[None]


def changed_outside(before: Image.Image, after: Image.Image, kept: np.ndarray) -> int:
    """Return how many pixels that are kept, bool (H, W), are not the same."""
    return int((np.asarray(before) != np.asarray(after)).any(2)[kept].sum())


def measure_edits(arguments: argparse.Namespace, folder: Path) -> None:
    """Print the shares of swaps and outpaintings that are right."""
    engine, rng = Engine(), random.Random(arguments.seed)
    draw = WORLDS[arguments.world]
    right = {"swap": 0, "outpainting": 0}
    moved = 0
    settings: dict[str, Any] = {
        "model": arguments.model,
        "candidates": arguments.candidates,
        "top_k": 1,
        "engine": engine,
        "upscale": 1,
    }
    for number in tqdm(range(arguments.scenes)):
        while (swap := draw(rng)) is None:
            pass
        image, mask, cut = folder / "image.png", folder / "mask.png", folder / "cut.png"
        swap.image.save(image)
        drawn = Image.new("L", swap.image.size, 0)
        for box in swap.boxes:
            drawn.paste(255, box)
        drawn.save(mask)
        files = {"init_image": image, "mask": mask}
        [best] = generate(swap.text, seed=100 * number, **files, **settings)
        assert best.image is not None
        right["swap"] += swap.right(as_tensor(best.image))
        moved += changed_outside(swap.image, best.image, np.asarray(drawn) == 0)
        side = CUT * CELL
        swap.image.crop((0, 0, swap.image.width - side, swap.image.height)).save(cut)
        extend = {"init_image": cut, "extend": f"right={side}"}
        [best] = generate(swap.whole, seed=100 * number, **extend, **settings)
        assert best.image is not None
        right["outpainting"] += swap.still(as_tensor(best.image))
        kept = np.zeros(best.image.size[::-1], bool)
        kept[:, :-side] = True
        moved += changed_outside(swap.image, best.image, kept)
    print(f"{arguments.model} on {arguments.world}, best of {arguments.candidates}:")
    for name, count in right.items():
        print(f"  {name}: {wilson(count, arguments.scenes)}")
    print(f"  pixels that were to stay and did not: {moved}")


def measure_masks(arguments: argparse.Namespace, folder: Path) -> None:
    """Print how many pixels outside random hard masks are not equal to the bit."""
    engine, rng = Engine(reranker="none"), np.random.default_rng(arguments.seed)
    moved = 0
    for number in tqdm(range(arguments.masks)):
        width, height = (int(n) for n in rng.integers(64, 129, 2))
        photo = Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
        coarse = (rng.random((rng.integers(2, 9), rng.integers(2, 9))) < 0.5) * 255
        coarse[0, 0] = 255
        mask = Image.fromarray(coarse.astype(np.uint8)).resize((width, height), 0)
        photo.save(folder / "image.png")
        mask.save(folder / "mask.png")
        [made] = generate(
            "a sun",
            model=arguments.model,
            init_image=folder / "image.png",
            mask=folder / "mask.png",
            candidates=1,
            seed=number,
            steps=QUICK,
            engine=engine,
        )
        assert made.image is not None
        moved += changed_outside(photo, made.image, np.asarray(mask) == 0)
    print(f"{arguments.model}: {arguments.masks} masks, {moved} pixels outside are not the same")


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.edits", description=__doc__)
    parser.add_argument("-m", "--model", default="stickers")
    parser.add_argument("--world", choices=tuple(WORLDS), default="stickers")
    parser.add_argument("--scenes", type=int, default=200)
    parser.add_argument("--candidates", type=int, default=8)
    parser.add_argument("--masks", type=int, help="random masks instead of scenes")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with TemporaryDirectory() as folder:
        if arguments.masks is None:
            measure_edits(arguments, Path(folder))
        else:
            measure_masks(arguments, Path(folder))


if __name__ == "__main__":
    main()
