"""The two networks that draw the world: a UNet on latents, and a transformer on codes.

Both read the last hidden states of the one text encoder. The tasks are those of the small world
(`train.diffusion`, `train.dalle`); scenes, captions and the growing pool are the world's.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from PIL import Image
from transformers import CLIPTextModel, CLIPTokenizer

from pipelines.dalle.dvae import DiscreteVae
from pipelines.dalle.masks import Mask
from train.autoencoder import to_range
from train.dalle import DalleBatch, DalleRecipe, DalleTask, fingerprint, tokenize
from train.diffusion import DiffusionBatch, DiffusionConfig, DiffusionTask, draw_latents
from train.diffusion import tokenize as fill_up
from train.pool import Pool
from train.sheets import tile
from train.world.source import SHEET_PROMPTS, source


@dataclass(frozen=True)
class WorldDiffusionConfig(DiffusionConfig):
    pool: int = 200_000


class WorldDiffusionTask(DiffusionTask):
    """Trains the UNet; text encoder and autoencoder stay as they are."""

    def __init__(
        self,
        config: DiffusionConfig,
        vae: AutoencoderKL,
        text_encoder: CLIPTextModel,
        tokenizer: CLIPTokenizer,
        cache: Path | None = None,
        stage: str = "whole",
    ) -> None:
        super().__init__(config, vae, text_encoder, tokenizer, cache)
        self.source = source(stage)
        self.moments: Pool | None = None

    def batch(self, rng: random.Random, size: int, device: torch.device) -> DiffusionBatch:
        """Return latents of scenes, and their captions."""
        vae = self.frozen[0].to(device)
        if self.moments is None:
            maker = fingerprint(vae)
            self.moments = Pool(self.source, self._moments, maker, self.cache, self.config.pool)
        scenes, moments = self.moments.sample(rng, size)
        said = self.source.captions(scenes, rng, self.config.drop_captions)
        tokens = fill_up(self.tokenizer, said)
        latents = draw_latents(moments.float(), vae.config.scaling_factor, rng)
        return DiffusionBatch(latents.to(device), tokens.to(device))

    def _moments(self, images: torch.Tensor) -> torch.Tensor:
        vae = self.frozen[0]
        return vae.encode(to_range(images.to(vae.device))).latent_dist.parameters.half()

    def sheet(self) -> Image.Image:
        """Draw four images of each of a dozen prompts, plain DDIM, guidance 3, seed 0."""
        prompts = [prompt for prompt in SHEET_PROMPTS for _ in range(4)]
        return tile(self.draw(prompts, seed=0), columns=12, captions=prompts)


RECIPE = DalleRecipe(width=192, heads=3, masks=(Mask.ROW, Mask.COLUMN, Mask.FULL) * 2, pool=400_000)


class WorldDalleTask(DalleTask):
    """Trains the transformer; text encoder and discrete VAE stay as they are."""

    def __init__(
        self,
        recipe: DalleRecipe,
        dvae: DiscreteVae,
        text_encoder: CLIPTextModel,
        tokenizer: CLIPTokenizer,
        cache: Path | None = None,
        stage: str = "whole",
    ) -> None:
        super().__init__(recipe, dvae, text_encoder, tokenizer, cache)
        self.source = source(stage)
        self.codes: Pool | None = None

    def batch(self, rng: random.Random, size: int, device: torch.device) -> DalleBatch:
        """Return codes of scenes, and their captions."""
        if self.codes is None:
            dvae = self.frozen[0].to(device)
            maker = fingerprint(dvae)
            self.codes = Pool(self.source, self._codes, maker, self.cache, self.recipe.pool)
        scenes, codes = self.codes.sample(rng, size)
        said = self.source.captions(scenes, rng, self.recipe.drop_captions)
        tokens, present = tokenize(self.tokenizer, said)
        return DalleBatch(codes.long().to(device), tokens.to(device), present.to(device))

    def _codes(self, images: torch.Tensor) -> torch.Tensor:
        dvae = self.frozen[0]
        device = dvae.decoder.input.weight.device
        return dvae.encode(images.to(device)).flatten(1).to(torch.int16)

    def sheet(self) -> Image.Image:
        """Draw four images of each of a dozen prompts, guidance 2, seed 0."""
        prompts = [prompt for prompt in SHEET_PROMPTS for _ in range(4)]
        return tile(self.draw(prompts, seed=0), columns=12, captions=prompts)
