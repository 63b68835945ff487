"""The autoencoder of the world: 64 × 64 pixels to 8 × 8 latents and back."""

from __future__ import annotations

import random
from pathlib import Path

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution

from train.autoencoder import AutoencoderConfig, AutoencoderTask
from train.world.dvae import draw_images
from train.world.renderer import render

CONFIG = AutoencoderConfig(widths=(24, 48, 96, 128), latent_channels=16)


class WorldAutoencoderTask(AutoencoderTask):
    """Trains an autoencoder on scenes of the world."""

    def __init__(self, config: AutoencoderConfig = CONFIG) -> None:
        super().__init__(config)

    def batch(self, rng: random.Random, size: int, device: torch.device) -> torch.Tensor:
        """Return (size, 3, 64, 64) uint8."""
        return render(draw_images(rng, size, packed_share=0.8)).to(device)


class WorldDecoderTask(WorldAutoencoderTask):
    """Trains the decoder of a trained autoencoder further. The latents stay as they are, and with
    them everything that learned to draw them."""

    def __init__(self, trained: Path, config: AutoencoderConfig = CONFIG) -> None:
        super().__init__(config)
        vae = AutoencoderKL.from_pretrained(trained)
        self.vae.load_state_dict(vae.state_dict())
        self.scaling: float = vae.config.scaling_factor

    def encode(self, x: torch.Tensor) -> DiagonalGaussianDistribution:
        """Return the posterior of images, which no gradient reaches."""
        with torch.no_grad():
            return self.vae.encode(x).latent_dist

    def save(self, folder: Path) -> None:
        """Write the VAE with the scaling that its latents have always had."""
        super().save(folder)
        self.vae.register_to_config(scaling_factor=self.scaling)
        self.vae.save_pretrained(folder)
