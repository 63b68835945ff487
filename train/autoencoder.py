"""The autoencoder: 64 × 64 px images to 8 × 8 latents and back (`diffusers.AutoencoderKL`).

Loss: mean absolute and squared error, the absolute error of horizontal and vertical differences
(keeps edges), and a Kullback–Leibler term (Rombach et al., arXiv 2112.10752, §3.1) strong enough
that the decoder forgives small errors of the latents: those that the diffusion network will make.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from PIL import Image

from pipelines.decoding import solve_latent_rgb, write_latent_rgb
from train.loop import Task
from train.sheets import tile
from train.stickers.renderer import SIZE, render
from train.stickers.scene import draw_scene, pack_scene


@dataclass(frozen=True)
class AutoencoderConfig:
    widths: tuple[int, ...] = (16, 32, 64, 128)
    layers_per_block: int = 1
    latent_channels: int = 8
    norm_groups: int = 8
    edge_weight: float = 1.0
    square_weight: float = 4.0
    kl_weight: float = 5e-4  # times the mean over latent elements, in nats
    snap: bool = True
    packed_share: float = 0.5  # images full of things: more to learn from each


def build(config: AutoencoderConfig) -> AutoencoderKL:
    """Return the network with fresh weights."""
    levels = len(config.widths)
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=config.widths,
        layers_per_block=config.layers_per_block,
        latent_channels=config.latent_channels,
        norm_num_groups=config.norm_groups,
        sample_size=SIZE,
        mid_block_add_attention=False,  # purely local: a thing looks the same wherever it stands
    )


class AutoencoderTask(Task):
    """Trains an autoencoder on images alone."""

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        self.config = config
        self.vae = build(config).to(memory_format=torch.channels_last)

    def batch(self, rng: random.Random, size: int, device: torch.device) -> torch.Tensor:
        """(size, 3, 64, 64) uint8."""
        scenes = [
            pack_scene(rng, snap=self.config.snap)
            if rng.random() < self.config.packed_share
            else draw_scene(rng, snap=self.config.snap)
            for _ in range(size)
        ]
        return render(scenes, device=device)

    def encode(self, x: torch.Tensor) -> DiagonalGaussianDistribution:
        """Return the posterior of images (B, 3, H, W) in [−1, 1]."""
        return self.vae.encode(x).latent_dist

    def forward(self, batch: torch.Tensor, generator: torch.Generator) -> dict[str, torch.Tensor]:
        x = to_range(batch)
        posterior = self.encode(x)
        noise = torch.randn(posterior.mean.shape, generator=generator).to(x.device)
        y = self.vae.decode(posterior.mean + posterior.std * noise).sample
        absolute = (y - x).abs().mean()
        edges = sum((difference(y, axis) - difference(x, axis)).abs().mean() for axis in (2, 3))
        kl = posterior.kl().mean() / noise[0].numel()
        square = ((y - x) ** 2).mean()
        config = self.config
        loss = absolute + config.edge_weight * edges + config.square_weight * square
        return {
            "loss": loss + config.kl_weight * kl,
            "absolute": absolute,
            "edges": edges,
            "kl": kl,
            "psnr": -10 * (square / 4).log10(),
        }

    def sheet(self) -> Image.Image:
        """Pairs: a scene, and below it what came back."""
        x = self.batch(random.Random(1), 24, self.vae.device)
        y = self.vae.decode(self.vae.encode(to_range(x)).latent_dist.mean).sample
        rows = [
            row for pair in zip(x.split(12), to_bytes(y).split(12), strict=True) for row in pair
        ]
        return tile(torch.cat(rows), columns=12)

    def save(self, folder: Path) -> None:
        """Save the VAE as diffusers writes it, with its measured scaling factor and preview map."""
        images = self.batch(random.Random(2), 256, self.vae.device)
        latents = torch.cat(
            [self.vae.encode(to_range(part)).latent_dist.mean for part in images.split(32)]
        )
        scaling = 1 / latents.std().item()
        self.vae.register_to_config(scaling_factor=scaling)
        self.vae.save_pretrained(folder)
        write_latent_rgb(solve_latent_rgb(latents * scaling, images / 255), folder)


def to_range(images: torch.Tensor) -> torch.Tensor:
    """uint8 to [−1, 1], channels last in memory."""
    return (images.float() / 127.5 - 1).contiguous(memory_format=torch.channels_last)


def to_bytes(x: torch.Tensor) -> torch.Tensor:
    """[−1, 1] to uint8."""
    return ((x.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


def difference(x: torch.Tensor, axis: int) -> torch.Tensor:
    """Each pixel minus its neighbour along `axis`."""
    length = x.shape[axis] - 1
    return x.narrow(axis, 1, length) - x.narrow(axis, 0, length)
