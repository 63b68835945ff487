"""The autoencoder of the world: 64 × 64 pixels to 8 × 8 latents and back."""

from __future__ import annotations

import random

import torch

from train.autoencoder import AutoencoderConfig, AutoencoderTask
from train.world.renderer import render
from train.world.scene import pack_scene

CONFIG = AutoencoderConfig(widths=(24, 48, 96, 128), latent_channels=16)


class WorldAutoencoderTask(AutoencoderTask):
    """Trains an autoencoder on scenes of the world."""

    def __init__(self, config: AutoencoderConfig = CONFIG) -> None:
        super().__init__(config)

    def batch(self, rng: random.Random, size: int, device: torch.device) -> torch.Tensor:
        """Return (size, 3, 64, 64) uint8."""
        return render([pack_scene(rng) for _ in range(size)]).to(device)
