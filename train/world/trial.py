"""What the world's judge is worth: its verdicts on scenes, on captions with one fact changed, and
on what decoders make of the scenes."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from train.stickers.trial import BLURS, Rate, blur, count, rate_lines
from train.world.facts import CHANGES, Told, change, possible_changes
from train.world.judge import Sight, find, verdict
from train.world.measure import draw_told
from train.world.renderer import render
from train.world.scene import Scene
from train.world.vocabulary import NOUN_NUMBERS

Decoder = Callable[[torch.Tensor], torch.Tensor]  # uint8 images to what comes back
DECODED = 32  # together


def accepted(sights: Sequence[Sight], told: Sequence[Told]) -> Rate:
    """Return how many captions the judge finds true."""
    return count([verdict(sight, each).right for sight, each in zip(sights, told, strict=True)])


def refused_changes(
    sights: Sequence[Sight], told: Sequence[Told], seed: int = 1
) -> dict[str, Rate]:
    """Return how many captions with one fact changed are refused, by the kind of fact."""
    rng = random.Random(seed)
    refused: dict[str, list[bool]] = {fact: [] for fact in CHANGES}
    for sight, each in zip(sights, told, strict=True):
        for fact in possible_changes(each):
            refused[fact].append(not verdict(sight, change(each, rng, fact)).right)
    return {fact: count(truths) for fact, truths in refused.items()}


def by_kind(
    sights: Sequence[Sight], scenes: Sequence[Scene], told: Sequence[Told]
) -> dict[str, Rate]:
    """Return how many captions the judge finds true, by the kind of scene."""
    right: dict[str, list[bool]] = {}
    for sight, scene, each in zip(sights, scenes, told, strict=True):
        right.setdefault(scene.kind, []).append(verdict(sight, each).right)
    return {kind: count(truths) for kind, truths in sorted(right.items())}


def decoders(run: Path) -> dict[str, Decoder]:
    """Return what a run's decoders make of images: those that are there."""
    from train.evaluate import through_codes, through_latents

    found: dict[str, Decoder] = {}
    if (run / "autoencoder" / "weights").is_dir():
        from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

        vae = AutoencoderKL.from_pretrained(run / "autoencoder" / "weights")
        found["through latents"] = through_latents(vae.eval())
    if (run / "dvae" / "weights").is_dir():
        from pipelines.dalle.networks import load_dvae

        found["through codes"] = through_codes(load_dvae(run / "dvae" / "weights"))
    return found


def main_figures(number: int = 300, run: Path | None = None) -> str:
    """Return all that is asked of the judge, on `number` scenes, as lines for people."""
    scenes, told = draw_told(number)
    images = render(scenes)
    sights = find(images)
    flawed = {f"blurred by {sigma} px": find(blur(images, sigma)) for sigma in BLURS}
    with torch.inference_mode():
        for name, decode in ({} if run is None else decoders(run)).items():
            parts = [decode(part) for part in images.split(DECODED)]
            flawed[name] = find(torch.cat(parts))
    rare, rare_told = draw_told(number, NOUN_NUMBERS, seed=1)
    sections = {
        "true captions, accepted": {
            "things asked for most": accepted(sights, told),
            **by_kind(sights, scenes, told),
            "any of all things": accepted(find(render(rare)), rare_told),
        },
        "one fact changed, refused": refused_changes(sights, told),
        "images with flaws, accepted": {
            name: accepted(each, told) for name, each in flawed.items()
        },
    }
    return "\n".join(
        line for title, rates in sections.items() for line in (title, *rate_lines(rates))
    )
