"""The upsampler of the world: from the 64 pixels that the decoders make to 256.

As DALL·E 2's, it learns on pairs of a small image and the true large one (Ramesh et al., arXiv
2204.06125, §2.3). The drawings are vectors, so the large ones are sharp; the small ones are what
the decoders of both paths make of them, since that is what will be enlarged.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from PIL import Image
from torch.nn import functional

from pipelines.checkpoints.loading import save_network
from pipelines.dalle.dvae import DiscreteVae
from pipelines.upscale.compact import CompactUpsampler
from pipelines.upscale.layouts import CompactConfig
from train.loop import Task
from train.world.dvae import draw_images
from train.world.renderer import CELL, render

CROP = 32  # pixels of the small image


@dataclass(frozen=True)
class UpsamplerRecipe:
    """The network, and what it sees."""

    network: CompactConfig = field(default_factory=CompactConfig)
    packed_share: float = 0.5  # of the scenes
    decoded: tuple[float, float] = (0.45, 0.35)  # by the VAE, by the discrete VAE; the rest plain
    crops: int = 2  # of each scene
    edge_weight: float = 0.5


@dataclass(frozen=True)
class UpsamplerBatch:
    small: torch.Tensor  # (B, 3, CROP, CROP) float32 in [0, 1]
    large: torch.Tensor  # (B, 3, scale × CROP, scale × CROP) float32 in [0, 1]


class UpsamplerTask(Task):
    """Trains the upsampler on what both decoders make; they stay as they are."""

    def __init__(self, recipe: UpsamplerRecipe, vae: AutoencoderKL, dvae: DiscreteVae) -> None:
        super().__init__()
        self.recipe = recipe
        self.frozen = (vae.eval(), dvae.eval())  # a tuple hides them from parameters()
        self.upsampler = CompactUpsampler(recipe.network)

    def batch(self, rng: random.Random, size: int, device: torch.device) -> UpsamplerBatch:
        """Return `size` pairs of crops."""
        scenes = draw_images(rng, -(-size // self.recipe.crops), self.recipe.packed_share)
        scale = self.recipe.network.scale
        large = render(scenes, CELL * scale)
        small = self.decode(large, rng)
        pairs = [_crop(small, large, number % len(scenes), rng) for number in range(size)]
        return UpsamplerBatch(
            torch.stack([pair[0] for pair in pairs]).to(device),
            torch.stack([pair[1] for pair in pairs]).to(device).float() / 255,
        )

    @torch.no_grad()
    def decode(self, large: torch.Tensor, rng: random.Random) -> torch.Tensor:
        """Return (B, 3, h, w) float32 in [0, 1]: uint8 images made small, as decoders show them."""
        vae, dvae = self.frozen[0].to(large.device), self.frozen[1].to(large.device)
        small = functional.avg_pool2d(large.float() / 255, self.recipe.network.scale)
        choice = rng.choices(
            (0, 1, 2), (*self.recipe.decoded, 1 - sum(self.recipe.decoded)), k=len(small)
        )
        by_vae, by_dvae = ([n for n, c in enumerate(choice) if c == kind] for kind in (0, 1))
        if by_vae:
            latents = vae.encode(small[by_vae] * 2 - 1, return_dict=False)[0].mode()
            decoded = vae.decode(latents, return_dict=False)[0]
            small[by_vae] = (decoded / 2 + 0.5).clamp(0, 1).float()
        if by_dvae:
            codes = dvae.encode((small[by_dvae] * 255).round().to(torch.uint8))
            small[by_dvae] = dvae.decode(codes).float()
        return (small * 255).round() / 255  # decoders' images are saved in bytes

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
        large = render(draw_images(rng, 4, packed_share=0.5), CELL * self.recipe.network.scale)
        small = self.decode(large, random.Random(3))
        made = self.upsampler(small.to(next(self.parameters()).device)).clamp(0, 1)
        plain = functional.interpolate(small, scale_factor=self.recipe.network.scale)
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
