"""What the judge is worth: its verdicts on rendered scenes, whole and corrupted."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch.nn import functional

from train.stickers.facts import CHANGES, Description, change, describe, possible_changes
from train.stickers.judge import find, verdict
from train.stickers.renderer import render
from train.stickers.scene import CELLS, Placed, Scene, draw_scene
from train.stickers.vocabulary import GROUND_BY_NAME, THINGS, category

BLURS = (0.5, 0.7, 1.0, 1.5)  # px
NOISES = (5, 10, 15)  # of 255
COLOUR_SHIFT = 0.05


@dataclass(frozen=True)
class Rate:
    """How often something was so: `hits` of `number`."""

    hits: int
    number: int

    @property
    def share(self) -> float:
        """`hits`/`number`, not a number where there were none."""
        return self.hits / self.number if self.number > 0 else float("nan")

    def __str__(self) -> str:
        return f"{self.share:7.1%}  ({self.hits} of {self.number})"


@dataclass(frozen=True)
class Trial:
    """Scenes with true descriptions, held-out combinations among them."""

    scenes: list[Scene]
    told: list[Description]
    pictures: torch.Tensor  # (B, 3, 64, 64) uint8

    def accepted(self, pictures: torch.Tensor) -> Rate:
        """Count how many of `pictures` are right by the descriptions of the trial."""
        pairs = zip(find(pictures), self.told, strict=True)
        return count([verdict(sight, told).right for sight, told in pairs])


def draw_trial(number: int, seed: int = 0, *, snap: bool = True) -> Trial:
    """Return `number` scenes of the world."""
    rng = random.Random(seed)
    scenes = [draw_scene(rng, snap=snap, held_out=True) for _ in range(number)]
    return Trial(scenes, [describe(scene, rng) for scene in scenes], render(scenes))


def count(truths: Sequence[bool]) -> Rate:
    return Rate(sum(truths), len(truths))


def refused_changes(trial: Trial, seed: int = 1) -> dict[str, Rate]:
    """Count how many captions with one fact changed are refused, by the kind of fact.

    Each caption is tried with every change that it admits.
    """
    rng = random.Random(seed)
    refused: dict[str, list[bool]] = {fact: [] for fact in CHANGES}
    for sight, told in zip(find(trial.pictures), trial.told, strict=True):
        for fact in possible_changes(told):
            changed = change(told, fact, rng, held_out=True)
            assert changed is not None  # held-out combinations are allowed here
            refused[fact].append(not verdict(sight, changed).right)
    return {fact: count(truths) for fact, truths in refused.items()}


def refused_pictures(trial: Trial, seed: int = 1) -> dict[str, Rate]:
    """Count how many corrupted images are refused, by what was done to them."""
    rng, generator = random.Random(seed), torch.Generator().manual_seed(seed)
    spoilt = {
        "blurred by 3 px": blur(trial.pictures, 3.0),
        "half covered": cover_halves(trial, rng),
        "another of its category": render([replace_thing(scene, rng) for scene in trial.scenes]),
        "noise": noise_like(trial.pictures, generator),
    }
    accepted = {name: trial.accepted(pictures) for name, pictures in spoilt.items()}
    return {name: Rate(rate.number - rate.hits, rate.number) for name, rate in accepted.items()}


def accepted_flaws(trial: Trial, seed: int = 1) -> dict[str, Rate]:
    """Count how many images are still right with the flaws of a lossy decoder."""
    generator = torch.Generator().manual_seed(seed)
    flawed: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
        **{f"blurred by {sigma} px": partial(blur, sigma=sigma) for sigma in BLURS},
        **{
            f"noise of {sigma}/255": partial(noisy, sigma=sigma, generator=generator)
            for sigma in NOISES
        },
        f"colours off by up to {COLOUR_SHIFT:.0%}": partial(shift_colours, generator=generator),
    }
    return {name: trial.accepted(spoil(trial.pictures)) for name, spoil in flawed.items()}


def blur(pictures: torch.Tensor, sigma: float) -> torch.Tensor:
    """Convolve (B, 3, H, H) uint8 with a Gaussian of `sigma` px; the border is repeated."""
    reach = int(4 * sigma) + 1
    x = torch.arange(-reach, reach + 1)
    kernel = (-x.square() / (2 * sigma**2)).exp()
    kernel /= kernel.sum()
    planes = functional.pad(pictures.float(), (reach,) * 4, mode="replicate").flatten(0, 1)[:, None]
    for shape in ((1, 1, -1, 1), (1, 1, 1, -1)):
        planes = functional.conv2d(planes, kernel.view(shape))
    return _to_uint8(planes.view(pictures.shape))


def noisy(pictures: torch.Tensor, sigma: float, generator: torch.Generator) -> torch.Tensor:
    """Add normal noise of `sigma` of 255 to every value."""
    return _to_uint8(pictures + sigma * torch.randn(pictures.shape, generator=generator))


def shift_colours(pictures: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Multiply each channel of each image by a number near 1."""
    factors = torch.rand(len(pictures), 3, 1, 1, generator=generator) * 2 - 1
    return _to_uint8(pictures * (1 + COLOUR_SHIFT * factors))


def noise_like(pictures: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """As many images of uniform noise."""
    return torch.randint(256, pictures.shape, generator=generator, dtype=torch.uint8)


def cover_halves(trial: Trial, rng: random.Random) -> torch.Tensor:
    """Return the images of `trial`, one half of every sprite covered with the background."""
    pictures = trial.pictures.clone()
    cell = pictures.shape[-1] // CELLS
    for picture, scene in zip(pictures, trial.scenes, strict=True):
        ground = torch.tensor(GROUND_BY_NAME[scene.ground].rgb, dtype=torch.uint8)
        for sprite in scene.sprites:
            side = sprite.side * cell
            left, top = round(sprite.x * cell), round(sprite.y * cell)
            wide, high = rng.choice(((side // 2, side), (side, side // 2)))
            left += rng.choice((0, side - wide))
            top += rng.choice((0, side - high))
            picture[:, top : top + high, left : left + wide] = ground[:, None, None]
    return pictures


def replace_thing(scene: Scene, rng: random.Random) -> Scene:
    """`scene` with one sprite turned into another thing of the same category; what it may have in
    common with a shape is the form or the colour."""
    index = rng.randrange(len(scene.sprites))
    old = scene.sprites[index].thing
    others = [
        thing
        for thing in THINGS
        if thing != old
        and category(thing) == category(old)
        and (old.colour is None or old.name == thing.name or old.colour == thing.colour)
    ]
    sprites: list[Placed] = list(scene.sprites)
    sprites[index] = replace(sprites[index], thing=rng.choice(others))
    return replace(scene, sprites=tuple(sprites))


def main_figures(number: int = 1000) -> str:
    """Return all that is asked of the judge, on `number` scenes, as lines for people."""
    trial, free = draw_trial(number), draw_trial(number, seed=2, snap=False)
    sections = {
        "true captions, accepted": {
            "things on the grid": trial.accepted(trial.pictures),
            "things at any pixel": free.accepted(free.pictures),
        },
        "one fact changed, refused": refused_changes(trial),
        "spoilt pictures, refused": refused_pictures(trial),
        "pictures with small flaws, accepted": accepted_flaws(trial),
    }
    return "\n".join(
        line for title, rates in sections.items() for line in (title, *rate_lines(rates))
    )


def rate_lines(rates: dict[str, Rate]) -> list[str]:
    return [f"  {name:<28}{rate}" for name, rate in rates.items()]


def _to_uint8(values: torch.Tensor) -> torch.Tensor:
    return values.round().clamp(0, 255).to(torch.uint8)
