"""The discrete VAE of the world: 64 × 64 pixels to 16 × 16 codes and back."""

from __future__ import annotations

import random

import torch

from pipelines.dalle.dvae import DvaeConfig, TowerConfig
from train.dvae import DvaeRecipe, DvaeTask
from train.world.renderer import render
from train.world.scene import Scene, draw_scene, pack_scene
from train.world.vocabulary import FIRST, NOUN_NUMBERS

# With 8 × 8 codes of 8-pixel squares, as in the small world, hardly a drawing of this one is known
# again after decoding (22 dB). With 16 × 16 codes of 4-pixel squares the judge knows 95 of 100
# scenes by their nearest codes alone, before any training.
RECIPE = DvaeRecipe(
    network=DvaeConfig(
        vocabulary=1024,
        size=64,
        code_width=48,
        first_kernel=1,
        encoder=TowerConfig(widths=(96,), kernel=1, patch=4),
        decoder=TowerConfig(widths=(128,), patch=4),
    ),
    first_pictures=400,
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
