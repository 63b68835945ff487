"""The discrete VAE of the world: 64 × 64 pixels to 8 × 8 codes and back."""

from __future__ import annotations

import random

import torch

from pipelines.dalle.dvae import DvaeConfig, TowerConfig
from train.dvae import DvaeRecipe, DvaeTask
from train.world.renderer import render
from train.world.scene import Scene, draw_scene, pack_scene
from train.world.vocabulary import FIRST, NOUN_NUMBERS

RECIPE = DvaeRecipe(
    network=DvaeConfig(
        vocabulary=2048,
        size=64,
        code_width=128,
        first_kernel=1,
        encoder=TowerConfig(widths=(224,), kernel=1, patch=8),
        decoder=TowerConfig(widths=(256,), patch=8),
    ),
    first_pictures=2000,
)
EVERYTHING = 0.4  # of the scenes have things that people seldom ask for, too


class WorldDvaeTask(DvaeTask):
    """Trains a discrete VAE on scenes of the world."""

    def __init__(self, recipe: DvaeRecipe = RECIPE) -> None:
        super().__init__(recipe)

    def batch(self, rng: random.Random, size: int, device: torch.device) -> torch.Tensor:
        """Return (size, 3, 64, 64) uint8."""
        return render(draw_images(rng, size, self.recipe.packed_share)).to(device)


def draw_images(rng: random.Random, size: int, packed_share: float) -> list[Scene]:
    """Return `size` scenes, some of them nearly covered with things."""
    scenes = []
    for _ in range(size):
        nouns = NOUN_NUMBERS if rng.random() < EVERYTHING else FIRST
        draw = pack_scene if rng.random() < packed_share else draw_scene
        scenes.append(draw(rng, nouns))
    return scenes
