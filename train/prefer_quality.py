"""What `salon-train prefer` brings: `python -m train.prefer_quality -m stickers`.

A simulated person looks at what a model draws and chooses: what was asked for before what was not
(by the world's judge), and of equals large things on dark backgrounds. The model learns from the
choices by the same command that people use, or with `--reinforce` from a head that has learned
them, and is asked for prompts that were not among them. Told is how often the taste is met, which
is to be liked better than another image that the unchanged model draws of the same prompt (half of
the time, if nothing was learned), and how often the image is still right. How much images of
different prompts are liked differs mostly by what the prompts say, which no model that follows
them can change.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from PIL import Image

from pipelines.checkpoints.specs import read_adapters
from pipelines.dalle.pipeline import Dalle
from pipelines.diffusion.pipeline import LatentDiffusion
from pipelines.drafts import Pipeline
from pipelines.families import find
from rerank import cli as rerank_cli
from train import cli
from train.evaluate import share, world_named
from train.shipping import LORA
from train.worlds import Asked, World

TOGETHER = 8  # images of a prompt, which make two choices
OTHERS = 8  # images of a prompt by the unchanged model, with which one is compared
HEAD_WEIGHT = 2  # beside the reranker, which keeps to the prompt
DIFFERENT = 24  # of 255: how far a channel of what is drawn is from the background


def liking(images: torch.Tensor) -> torch.Tensor:
    """Return how much the person likes each of uint8 (B, 3, H, W).

    It is twice the share of the image that is covered, less the luminance of the background from 0
    to 1 (ITU-R BT.709).
    """
    border = torch.cat(
        [images[..., 0, :], images[..., -1, :], images[..., 0], images[..., -1]], dim=-1
    )
    background = border.median(dim=-1).values  # (B, 3)
    apart = (images.int() - background[..., None, None].int()).abs().amax(dim=1)
    covered = (apart > DIFFERENT).float().mean(dim=(1, 2))
    weights = torch.tensor([0.2126, 0.7152, 0.0722])
    return 2 * covered - (background.float() / 255) @ weights


def ask(world: World, number: int, seed: str) -> list[Asked]:
    """Return so many different prompts that no evaluation set has."""
    rng, asked = random.Random(seed), dict[str, Asked]()
    while len(asked) < number:
        prompt = world.ask(rng)
        asked[prompt.text] = prompt
    return list(asked.values())


def draw(pipeline: Pipeline, prompt: str, seeds: Sequence[int]) -> torch.Tensor:
    """Return uint8 (N, 3, H, W), by the model's own defaults."""
    with pipeline.begin(prompt, seeds=seeds) as draft:
        draft.step(draft.total)
        return draft.pixels().cpu()


def choose(
    pipeline: Pipeline, prompts: Sequence[Asked], world: World, folder: Path
) -> Iterator[str]:
    """Draw `TOGETHER` images of each prompt into the folder, and yield the lines of the choices:
    the best before the worst, and the second before the last but one."""
    for number, prompt in enumerate(prompts):
        seeds = range(number * TOGETHER, (number + 1) * TOGETHER)  # what is liked is no seed's
        images = draw(pipeline, prompt.text, seeds)
        names = [f"{number:05d}-{place}.png" for place in range(TOGETHER)]
        for name, image in zip(names, images, strict=True):
            Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / name)
        right = [seen for seen, _ in world.look(images, prompt.description)]
        merits = list(zip(right, liking(images).tolist(), strict=True))
        order = sorted(range(TOGETHER), key=merits.__getitem__, reverse=True)
        for better, worse in ((order[0], order[-1]), (order[1], order[-2])):
            row = {"prompt": prompt.text, "chosen": names[better], "rejected": names[worse]}
            yield json.dumps(row)


def measure(
    pipeline: Pipeline, prompts: Sequence[Asked], world: World
) -> tuple[torch.Tensor, list[bool]]:
    """Return how much one candidate of each prompt is liked, and whether it is right."""
    likings, right = [], []
    for number, prompt in enumerate(prompts):
        image = draw(pipeline, prompt.text, seeds_of(number)[:1])
        likings.append(liking(image))
        right.append(world.look(image, prompt.description)[0][0])
    return torch.cat(likings), right


def others(pipeline: Pipeline, prompts: Sequence[Asked]) -> torch.Tensor:
    """Return (P, OTHERS): how much is liked what else a model draws of each of P prompts."""
    drawn = [draw(pipeline, p.text, seeds_of(n)[1:]) for n, p in enumerate(prompts)]
    return torch.stack([liking(images) for images in drawn])


def met(likings: torch.Tensor, compared: torch.Tensor) -> torch.Tensor:
    """Return (P,): which share of the others (P, OTHERS) is liked less than the image of the same
    prompt, (P,); equals count half."""
    own = likings[:, None]
    return ((own > compared).float() + (own == compared).float() / 2).mean(dim=1)


def seeds_of(number: int) -> range:
    """Return the seeds of a prompt: of what is measured, and of the others. No two prompts share
    noise, which may be that of large things."""
    return range(number * (1 + OTHERS), (number + 1) * (1 + OTHERS))


def load(model: str, taught: Path | None = None) -> Pipeline:
    """Load a model, or what was learned of it."""
    if find(model).kind == "dalle":
        return Dalle.from_pretrained(model if taught is None else taught)
    if taught is None:
        return LatentDiffusion.from_pretrained(model)
    adapters = read_adapters(str(taught / LORA))
    return LatentDiffusion.from_pretrained(model, adapters=adapters)


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(prog="python -m train.prefer_quality", description=__doc__)
    parser.add_argument("-m", "--model", default="stickers-dalle")
    parser.add_argument("--run", type=Path, default=Path("runs/taste"), help="images, weights")
    parser.add_argument("--choices", type=int, default=2000)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--prompts", type=int, default=200, help="that are measured")
    parser.add_argument("--reinforce", action="store_true", help="learn by a head; image tokens")
    parser.add_argument("--world", action="store_true", help="the world of a thousand things")
    asked = parser.parse_args()
    world, folder = world_named(asked.world), asked.run / "choices"
    before = load(asked.model)
    table = folder / "choices.jsonl"
    if not table.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        lines = list(choose(before, ask(world, asked.choices // 2, "taught"), world, folder))
        table.write_text("\n".join(lines) + "\n", encoding="utf-8")
    steps = ["--choices", str(table), "-m", asked.model, "--run", str(asked.run)]
    steps += ["--steps", str(asked.steps)]
    step = "reinforce" if asked.reinforce else "prefer"
    if asked.reinforce:
        head = asked.run / "head.safetensors"
        if rerank_cli.main(["learn", str(table), "-o", str(head)]) != 0:
            raise SystemExit(2)
        steps += ["--head", f"{head}={HEAD_WEIGHT}"]
    if cli.main([step, *steps]) != 0:
        raise SystemExit(2)
    taught = {prompt.text for prompt in ask(world, asked.choices // 2, "taught")}
    prompts = [p for p in ask(world, asked.prompts, "measured") if p.text not in taught]
    compared = others(before, prompts)
    first = measure(before, prompts, world)
    second = measure(load(asked.model, asked.run / step / "weights"), prompts, world)
    for name, (likings, right) in (("before", first), ("after", second)):
        taste = share(met(likings, compared).tolist())
        print(f"{name:7} taste met {taste}   right {share(right)}")


if __name__ == "__main__":
    main()
