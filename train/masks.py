"""The network that finds things by name: it learns on scenes, whose masks are known.

Every name of a batch is looked for in every image of it: what stands there by any of its words, and
what does not. Both worlds teach it, each with scenes and words of its own (`Lesson`).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch.nn import functional

from pipelines.checkpoints.loading import save_network
from pipelines.segmentation.network import MaskConfig, MaskNetwork
from train.loop import Task
from train.sheets import tile

BACKGROUND = -1  # in maps of things
DETERMINERS = ("the {}", "the {}", "a {}", "{}", "{}", "this {}", "that {}", "all {}", "my {}")
MEASURED = 50  # scenes at once
Remake = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Name:
    """Words, and the numbers of all things that they mean; none, if nothing in this world."""

    text: str
    things: frozenset[int]


@dataclass(frozen=True)
class Lesson:
    """What a world teaches with: scenes as images and as maps of things, and names."""

    draw: Callable[[random.Random, int, bool], Sequence[Any]]  # so many scenes, held out or not
    render: Callable[[Sequence[Any]], torch.Tensor]  # uint8 (B, 3, side, side)
    things: Callable[[Sequence[Any]], torch.Tensor]  # int64 (B, side, side), or BACKGROUND
    name: Callable[[int, random.Random], Name]  # of a thing, in some word for it
    other: Callable[[random.Random], Name]  # anything, whether it is there or not
    number: int  # of things


@dataclass(frozen=True)
class MasksRecipe:
    """The network, and what it sees."""

    network: MaskConfig = field(default_factory=MaskConfig)
    names: int = 36  # in a batch
    other_share: float = 0.3  # of these, which need not be there
    background_share: float = 0.06  # of the others
    noise: float = 8.0  # of 255, the most: decoders' images are not as clean as drawings
    shift: float = 6.0  # of 255, of a channel, the most
    again_share: float = 0.4  # of the images were made again by an autoencoder, where there is one
    dice_weight: float = 0.5


@dataclass(frozen=True)
class MasksBatch:
    """Images, what is looked for in all of them, and where it is."""

    images: torch.Tensor  # (B, 3, side, side) float32 in [0, 1]
    names: tuple[str, ...]  # N
    masks: torch.Tensor  # (B, N, side, side) bool


class MasksTask(Task):
    """Trains the network that finds things."""

    def __init__(
        self, lesson: Lesson, recipe: MasksRecipe | None = None, remakes: Sequence[Remake] = ()
    ) -> None:
        """`remakes` make uint8 images (B, 3, side, side) again, as autoencoders do."""
        super().__init__()
        self.lesson, self.remakes = lesson, remakes
        self.recipe = MasksRecipe() if recipe is None else recipe
        self.finder = MaskNetwork(self.recipe.network)

    def batch(self, rng: random.Random, size: int, device: torch.device) -> MasksBatch:
        """Return `size` images and the names that are looked for in them."""
        scenes = self.lesson.draw(rng, size, False)
        things = self.lesson.things(scenes)
        names = [self._name(things[number % size], rng) for number in range(self.recipe.names)]
        images = self._remade(self.lesson.render(scenes), rng)
        images = _as_decoded(images.float() / 255, self.recipe, rng)
        masks = masks_of(things, names, self.lesson.number)
        return MasksBatch(images.to(device), tuple(n.text for n in names), masks.to(device))

    def forward(self, batch: MasksBatch, generator: torch.Generator) -> dict[str, torch.Tensor]:
        logits = self.finder(batch.images, batch.names).float()
        there = batch.masks.any(3).any(2)  # (B, N)
        wanted = batch.masks.float()
        entropy = functional.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
        entropy = entropy.mean((2, 3))
        chances = logits[there].sigmoid()  # (P, side, side)
        shared = 2 * (chances * wanted[there]).sum((1, 2)) + 1
        dice = 1 - (shared / (chances.sum((1, 2)) + wanted[there].sum((1, 2)) + 1)).mean()
        found, absent = entropy[there].mean(), entropy[~there].mean()
        with torch.no_grad():
            agreed = intersection_over_union(logits[there] > 0, batch.masks[there]).mean()
        return {
            "loss": found + absent + self.recipe.dice_weight * dice,
            "there": found,
            "absent": absent,
            "dice": dice,
            "iou": agreed,
        }

    @torch.no_grad()
    def _remade(self, images: torch.Tensor, rng: random.Random) -> torch.Tensor:
        """Return the images, some of them as autoencoders make them: what is edited was drawn."""
        count = round(len(images) * self.recipe.again_share) if self.remakes else 0
        if count == 0:
            return images
        return torch.cat([rng.choice(self.remakes)(images[:count]), images[count:]])

    def _name(self, things: torch.Tensor, rng: random.Random) -> Name:
        """Return what is looked for, most often of what an image shows."""
        if rng.random() < self.recipe.other_share:
            return self.lesson.other(rng)
        present = sorted({*things.unique().tolist()} - {BACKGROUND})
        background = not present or rng.random() < self.recipe.background_share
        return self.lesson.name(BACKGROUND if background else rng.choice(present), rng)

    def sheet(self) -> Image.Image:
        """Show images, what is found by a name that is there, and what is to be found."""
        device = next(self.parameters()).device
        batch = self.batch(random.Random(1), 12, device)
        first = batch.masks.any(3).any(2).float().argmax(1)  # (B,)
        rows = torch.arange(len(first), device=device)
        with torch.no_grad():
            found = self.finder(batch.images, batch.names)[rows, first] > 0
        shown = [
            batch.images,
            *(m[:, None].expand(-1, 3, -1, -1) for m in (found, batch.masks[rows, first])),
        ]
        pixels = torch.cat([(each.float() * 255).byte().cpu() for each in shown])
        names = [batch.names[i] for i in first.tolist()]
        return tile(pixels, len(first), captions=[*names, *names, *names])

    def save(self, folder: Path) -> None:
        """Write config.json and model.safetensors, in half precision."""
        half = MaskNetwork(self.finder.config)
        half.load_state_dict(self.finder.state_dict())
        save_network(half.half(), self.finder.config, folder)


def masks_of(things: torch.Tensor, names: Sequence[Name], number: int) -> torch.Tensor:
    """Return where names are, bool (B, N, side, side), in maps of things (B, side, side)."""
    meant = torch.zeros(number + 1, len(names), dtype=torch.bool)  # BACKGROUND is the last row
    for column, name in enumerate(names):
        meant[sorted(name.things), column] = True
    return meant[things].permute(0, 3, 1, 2)


def _as_decoded(images: torch.Tensor, recipe: MasksRecipe, rng: random.Random) -> torch.Tensor:
    """Return images (B, 3, H, W) less clean: softer, noisy, and of other colours by a little."""
    generator = torch.Generator().manual_seed(rng.getrandbits(63))
    amounts = torch.rand((3, len(images), 1, 1, 1), generator=generator)
    padded = functional.pad(images, (1, 1, 1, 1), mode="replicate")
    images = torch.lerp(images, functional.avg_pool2d(padded, 3, 1), amounts[0])
    noise = torch.randn(images.shape, generator=generator) * amounts[1] * (recipe.noise / 255)
    shift = torch.randn((len(images), 3, 1, 1), generator=generator) * amounts[2]
    return (images + noise + shift * (recipe.shift / 255)).clamp(0, 1)


def intersection_over_union(found: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Return how well masks (B, h, w) agree, (B,) from 0 to 1; 1 where both are empty."""
    both, either = (found & wanted).sum((1, 2)), (found | wanted).sum((1, 2))
    return torch.where(either == 0, 1.0, both / either.clamp(min=1))


@torch.inference_mode()
def measure(
    finder: MaskNetwork,
    lesson: Lesson,
    scenes: int = 500,
    seed: int = 7,
    remake: Remake | None = None,
) -> dict[str, float]:
    """Return the mean intersection over union on scenes with what training never saw.

    "there": each thing of a scene by some word for it; "absent": the share of names of nothing in a
    scene of which nothing is found. `remake` makes uint8 images again, as an autoencoder does.
    """
    rng = random.Random(seed)
    there: list[float] = []
    absent: list[float] = []
    for _ in range(0, scenes, MEASURED):
        drawn = lesson.draw(rng, MEASURED, True)
        maps, images = lesson.things(drawn), lesson.render(drawn)
        images = images if remake is None else remake(images)
        for image, things in zip(images, maps, strict=True):
            present = sorted({*things.unique().tolist()} - {BACKGROUND})
            names = [*(lesson.name(thing, rng) for thing in present), lesson.other(rng)]
            wanted = masks_of(things[None], names, lesson.number)[0]
            found = finder(image[None].float() / 255, [n.text for n in names])[0] > 0
            for agreed, mask in zip(intersection_over_union(found, wanted), wanted, strict=True):
                (there if mask.any() else absent).append(float(agreed))
    return {"there": sum(there) / len(there), "absent": sum(absent) / len(absent)}


def shipped_autoencoders() -> dict[str, Remake]:
    """Return what the shipped models make again of images, by what these then went through."""
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    from pipelines.checkpoints.specs import CHECKPOINTS
    from pipelines.dalle.networks import load_dvae
    from train.evaluate import through_codes, through_latents

    vae = AutoencoderKL.from_pretrained(CHECKPOINTS / "stickers" / "vae", torch_dtype=torch.float32)
    dvae = load_dvae(CHECKPOINTS / "stickers-dalle" / "dvae")
    return {"latents": through_latents(vae.eval()), "codes": through_codes(dvae.eval())}


def main_figures(folder: Path, lesson: Lesson, scenes: int) -> str:
    """Return how well the network of a folder finds things, as lines for people: in images as they
    are rendered, and in the same after the shipped autoencoders made them again."""
    from pipelines.segmentation.named import Small

    finder = Small(folder, torch.device("cpu")).network
    lines = [f"mean intersection over union, {scenes} scenes with what training never saw"]
    for title, remake in {"rendering": None, **shipped_autoencoders()}.items():
        found = measure(finder, lesson, scenes, remake=remake)
        there, absent = found["there"], found["absent"]
        lines.append(f"  of {title:<10} what is there {there:.1%}, what is not {absent:.1%}")
    return "\n".join(lines)
