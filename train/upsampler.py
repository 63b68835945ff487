"""The upsampler: from the 64 pixels that the decoders make to 256.

As DALL·E 2's, it learns on pairs of a small image and the true large one (Ramesh et al., arXiv
2204.06125, §2.3). Scenes can be rendered at any size, so the large ones are sharp; the small ones
are what the decoders of both paths make of them, since that is what will be enlarged.
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
from pipelines.upscale.compact import CompactUpsampler
from pipelines.upscale.layouts import CompactConfig
from train.loop import Task
from train.masks import Remake

SMALL = 64  # pixels a side of what the decoders make
CROP = 32  # pixels a side of a part of it that is learned from


@dataclass(frozen=True)
class UpsamplerRecipe:
    """The network, and what it sees."""

    network: CompactConfig = field(default_factory=CompactConfig)
    decoded: float = 0.8  # the share of small images that a decoder has made, each as often
    crops: int = 2  # of each scene
    edge_weight: float = 0.5


@dataclass(frozen=True)
class Large:
    """Scenes, and images of them at any size."""

    draw: Callable[[random.Random, int], Sequence[Any]]  # so many scenes
    render: Callable[[Sequence[Any], int], torch.Tensor]  # to uint8 (B, 3, size, size)


@dataclass(frozen=True)
class UpsamplerBatch:
    small: torch.Tensor  # (B, 3, CROP, CROP) float32 in [0, 1]
    large: torch.Tensor  # (B, 3, scale × CROP, scale × CROP) float32 in [0, 1]


class UpsamplerTask(Task):
    """Trains the upsampler on what the decoders make of scenes; `remakes` say what that is."""

    def __init__(self, recipe: UpsamplerRecipe, source: Large, remakes: Sequence[Remake]) -> None:
        super().__init__()
        self.recipe, self.source, self.remakes = recipe, source, tuple(remakes)
        self.upsampler = CompactUpsampler(recipe.network)

    def batch(self, rng: random.Random, size: int, device: torch.device) -> UpsamplerBatch:
        """Return `size` pairs of crops."""
        scenes = self.source.draw(rng, -(-size // self.recipe.crops))
        large = self.source.render(scenes, SMALL * self.recipe.network.scale)
        small = self.decode(large, rng)
        pairs = [_crop(small, large, number % len(scenes), rng) for number in range(size)]
        return UpsamplerBatch(
            torch.stack([pair[0] for pair in pairs]).to(device),
            torch.stack([pair[1] for pair in pairs]).to(device).float() / 255,
        )

    @torch.no_grad()
    def decode(self, large: torch.Tensor, rng: random.Random) -> torch.Tensor:
        """Return (B, 3, h, w) float32 in [0, 1]: uint8 images made small, as decoders show them."""
        plain = functional.avg_pool2d(large.float(), self.recipe.network.scale)
        small = plain.round().to(torch.uint8)
        ways = [
            None if rng.random() >= self.recipe.decoded else rng.randrange(len(self.remakes))
            for _ in small
        ]
        for number, remake in enumerate(self.remakes):
            if own := [place for place, way in enumerate(ways) if way == number]:
                small[own] = remake(small[own])
        return small.float() / 255

    def forward(self, batch: UpsamplerBatch, generator: torch.Generator) -> dict[str, torch.Tensor]:
        made = self.upsampler(batch.small).float()
        distance = (made - batch.large).abs().mean()
        edges = _edge_distance(made, batch.large)
        error = functional.mse_loss(made.clamp(0, 1), batch.large)
        return {
            "loss": distance + self.recipe.edge_weight * edges,
            "distance": distance,
            "edges": edges,
            "psnr": -10 * torch.log10(error),
        }

    def sheet(self) -> Image.Image:
        """Show what the decoders make, plainly enlarged, then the upsampler's, then the truth."""
        rng = random.Random(1)
        scale = self.recipe.network.scale
        large = self.source.render(self.source.draw(rng, 4), SMALL * scale)
        small = self.decode(large, random.Random(3))
        made = self.upsampler(small.to(next(self.parameters()).device)).clamp(0, 1)
        plain = functional.interpolate(small, scale_factor=scale)
        rows = [(each.cpu() * 255).round().to(torch.uint8) for each in (plain, made)]
        return _tiled([*rows, large])

    def save(self, folder: Path) -> None:
        """Write config.json and model.safetensors."""
        save_network(self.upsampler, self.upsampler.config, folder)


def _crop(
    small: torch.Tensor, large: torch.Tensor, number: int, rng: random.Random
) -> tuple[torch.Tensor, torch.Tensor]:
    scale = large.shape[-1] // small.shape[-1]
    y, x = (rng.randrange(small.shape[-1] - CROP + 1) for _ in range(2))
    there = large[number, :, scale * y : scale * (y + CROP), scale * x : scale * (x + CROP)]
    return small[number, :, y : y + CROP, x : x + CROP], there


def _edge_distance(made: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Return the mean distance of the differences between neighbours, down and across."""
    parts = [(made.diff(dim=dim) - wanted.diff(dim=dim)).abs().mean() for dim in (2, 3)]
    return torch.stack(parts).sum()


def _tiled(rows: Sequence[torch.Tensor]) -> Image.Image:
    """Return rows of images (N, 3, H, W) uint8 at full size."""
    lines = [torch.cat(list(row), dim=2) for row in rows]
    return Image.fromarray(torch.cat(lines, dim=1).permute(1, 2, 0).numpy())
