"""What edits are worth on our world: a judge that is no network looks at them.

    python -m benchmarks.edits [-m NAME] [--world stickers|world] [--scenes 200] [--candidates 8]
    python -m benchmarks.edits --boxes
    python -m benchmarks.edits --masks 1000

*Swap*: a thing of a scene is named (or, with `--boxes`, framed) and another one is asked for; an
edit is right if the judge finds the scene with the other thing in it and all else as it was.
*Outpainting*: a side of a scene is cut off and drawn again; right if the judge finds the scene
whole. Both take the reranker's best of the candidates, tell how many had a right one among them,
and count pixels that were to stay and did not. *Masks*: random hard masks of random images, at few
steps and of any size where a model takes them; counts the pixels outside that are not equal to the
bit. All intervals are 95 % (Wilson).
"""

from __future__ import annotations

import argparse
import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from gen.api import generate
from gen.engine import Engine
from gen.errors import InputError
from gen.result import Result
from pipelines.families import find
from train.sheets import tile
from train.stickers import captions, facts, judge, renderer, scene
from train.world import facts as world_facts
from train.world import measure, words
from train.world import renderer as world_renderer
from train.world import scene as world_scene
from train.world import vocabulary as world_vocabulary
from train.world.captions import Speaker

CELL = 8  # pixels
CUT = 2  # cells that are cut off a side and drawn again
QUICK = 4  # steps for masks


@dataclass(frozen=True)
class Swap:
    """A scene, its caption with one thing exchanged, what that is, and what is judged."""

    image: Image.Image
    text: str
    name: str
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

    [gone] = set(told.things) - set(other.things)
    image = renderer.render([drawn])
    texts = [captions.phrase(each, rng) for each in (other, told)]
    return _swap(image, drawn.sprites, gone, gone.key, texts, look(other), look(told))


def thousand(rng: random.Random) -> Swap | None:
    """Return a swap in the world of a thousand things."""
    drawn = world_scene.draw_scene(rng)
    told = world_facts.describe(drawn, rng)
    other = world_facts.change(told, rng, "thing")
    table = words.load()
    speaker = Speaker(table.unknown, table.adjectives, table.verbs)

    def look(description: Any) -> Callable[[torch.Tensor], bool]:
        return lambda images: measure.look(images, description)[0][0]

    [gone] = set(told.things) - set(other.things)
    image = world_renderer.render([drawn])
    texts = [speaker.phrase(each, rng) for each in (other, told)]
    name = world_vocabulary.THINGS[gone].name
    return _swap(image, drawn.sprites, gone, name, texts, look(other), look(told))


def _swap(
    image: torch.Tensor,
    sprites: Any,
    gone: Any,
    name: str,
    texts: list[str],
    right: Any,
    still: Any,
) -> Swap | None:
    boxes = [
        tuple(round(CELL * n) for n in (s.x, s.y, s.x + s.side, s.y + s.side))
        for s in sprites
        if s.thing == gone
    ]
    if not still(image):
        return None
    picture = Image.fromarray(image[0].permute(1, 2, 0).numpy())
    return Swap(picture, texts[0], name, boxes, right, texts[1], still)  # type: ignore[arg-type]


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


@dataclass
class Tally:
    """How often the best candidate was right, and how often any was; what was not."""

    tried: int = 0
    right: int = 0
    possible: int = 0
    unfound: int = 0  # nothing of that name
    moved: int = 0  # pixels that were to stay
    wrong: list[tuple[str, list[Image.Image]]] = field(default_factory=list)

    def count(
        self,
        before: Image.Image,
        text: str,
        right: Callable[[torch.Tensor], bool],
        draw: Callable[[], tuple[list[Image.Image], Image.Image]],
    ) -> None:
        """Judge what comes of an edit of `before`; `draw` returns images, best first, and the mask
        of what was drawn anew."""
        self.tried += 1
        try:
            made, mask = draw()
        except InputError:
            self.unfound += 1
            self.wrong.append((text, [before]))
            return
        verdicts = [right(as_tensor(image)) for image in made]
        self.right += verdicts[0]
        self.possible += any(verdicts)
        self.moved += changed_outside(before, made[0], np.asarray(mask) == 0)
        if not verdicts[0]:
            self.wrong.append((text, [before, mask.convert("RGB"), *made[:2]]))

    def lines(self) -> list[str]:
        """Return the figures, for people."""
        return [
            f"best candidate right   {wilson(self.right, self.tried)}",
            f"any candidate right    {wilson(self.possible, self.tried)}",
            f"nothing found          {self.unfound}",
            f"pixels that were to stay and did not: {self.moved}",
        ]


def measure_edits(arguments: argparse.Namespace, folder: Path) -> None:
    """Print the shares of swaps and outpaintings that are right."""
    engine, rng = Engine(threads=arguments.threads), random.Random(arguments.seed)
    draw = WORLDS[arguments.world]
    tallies = {"swap": Tally(), "outpainting": Tally()}
    image, mask, cut = folder / "image.png", folder / "mask.png", folder / "cut.png"

    def made(text: str, seed: int, **edit: Any) -> list[Result]:
        return generate(
            text,
            model=arguments.model,
            candidates=arguments.candidates,
            top_k=arguments.candidates,
            seed=100 * seed,
            engine=engine,
            upscale=1,
            **edit,
        )

    def swapped(swap: Swap, seed: int) -> tuple[list[Image.Image], Image.Image]:
        where: dict[str, Any] = {"mask_text": f"the {swap.name}"}
        if arguments.boxes:
            drawn = Image.new("L", swap.image.size, 0)
            for box in swap.boxes:
                drawn.paste(255, box)
            drawn.save(mask)
            where = {"mask": mask}
        results = made(swap.text, seed, init_image=image, **where)
        found = Image.open(str(results[0].request.mask)).convert("L")
        return [each.open() for each in results], found

    def extended(swap: Swap, seed: int) -> tuple[list[Image.Image], Image.Image]:
        results = made(swap.whole, seed, init_image=cut, extend=f"right={CUT * CELL}")
        drawn = Image.new("L", swap.image.size, 255)
        drawn.paste(0, (0, 0, swap.image.width - CUT * CELL, swap.image.height))
        return [each.open() for each in results], drawn

    for number in tqdm(range(arguments.scenes)):
        while (swap := draw(rng)) is None:
            pass
        swap.image.save(image)
        swap.image.crop((0, 0, swap.image.width - CUT * CELL, swap.image.height)).save(cut)
        swap_it, extend_it = partial(swapped, swap, number), partial(extended, swap, number)
        tallies["swap"].count(swap.image, f"{swap.name}: {swap.text}", swap.right, swap_it)
        tallies["outpainting"].count(swap.image, swap.whole, swap.still, extend_it)
    print(f"{arguments.model} on {arguments.world}, best of {arguments.candidates}:")
    for name, tally in tallies.items():
        print(f"  {name}", *tally.lines(), sep="\n    ")
        if arguments.wrong is not None:
            show(tally.wrong, arguments.wrong / f"{name}.png")


def show(wrong: list[tuple[str, list[Image.Image]]], path: Path) -> None:
    """Write what went wrong as an image: before, mask, and the two best."""
    cells, texts = [], []
    for text, images in wrong:
        blank = Image.new("RGB", images[0].size, "white")
        cells += [as_tensor(image) for image in (*images, *[blank] * (4 - len(images)))]
        texts += [text, "", "", ""]
    if cells:
        path.parent.mkdir(parents=True, exist_ok=True)
        tile(torch.cat(cells), 12, captions=texts).save(path)


def measure_masks(arguments: argparse.Namespace, folder: Path) -> None:
    """Print how many pixels outside random hard masks are not equal to the bit."""
    engine = Engine(reranker="none", threads=arguments.threads)
    rng = np.random.default_rng(arguments.seed)
    spec = find(arguments.model)
    own = spec.defaults["width"], spec.defaults["height"]
    any_size = "width" in spec.settings
    quick: dict[str, Any] = {"steps": QUICK} if any_size else {"upscale": 1}
    moved = 0
    for number in tqdm(range(arguments.masks)):
        width, height = (int(n) for n in rng.integers(64, 129, 2)) if any_size else own
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
            engine=engine,
            **quick,
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
    parser.add_argument("--boxes", action="store_true", help="frame things instead of naming them")
    parser.add_argument("--wrong", type=Path, help="a folder for images of what was not right")
    parser.add_argument("--masks", type=int, help="random masks instead of scenes")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, help="CPU threads; default: all cores")
    arguments = parser.parse_args()
    with TemporaryDirectory() as folder:
        if arguments.masks is None:
            measure_edits(arguments, Path(folder))
        else:
            measure_masks(arguments, Path(folder))


if __name__ == "__main__":
    main()
