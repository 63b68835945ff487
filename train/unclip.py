"""The way of DALL·E 2: a prior from captions to embeddings, and a decoder that reads both.

Ramesh et al., arXiv 2204.06125, §2. CLIP is the reranker and stays as it is. The decoder is the
UNet that draws by text alone; the embedding comes before the text, which is left out half of the
time, as further tokens. These tokens learn, and the UNet where a world has one of its own for it.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.transformers.prior_transformer import PriorTransformer
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_unclip import UnCLIPScheduler
from PIL import Image
from torch.nn import functional
from transformers import CLIPModel, CLIPTextModel, CLIPTokenizer

from pipelines.unclip.image_tokens import ImageTokens
from train.autoencoder import to_bytes, to_range
from train.clip import pixel_values
from train.dalle import fingerprint, tokenize
from train.diffusion import SCHEDULER, DiffusionConfig, DiffusionTask, draw_latents
from train.loop import Task
from train.pool import Pool, Source
from train.sheets import tile

PRIOR_SCHEDULER = {
    "variance_type": "fixed_small_log",
    "prediction_type": "sample",
    "clip_sample": True,
    "clip_sample_range": 5.0,
}
MEASURED = 1024  # embeddings, for their mean and spread
NEAREST = 4  # scenes that a sheet shows for an embedding


@dataclass(frozen=True)
class PriorConfig:
    """The network, and how often it learns without a caption."""

    layers: int = 5
    heads: int = 3
    head_width: int = 64
    drop_captions: float = 0.1
    pool: int = 400_000


def build_prior(config: PriorConfig, clip: CLIPModel) -> PriorTransformer:
    """Return the network with fresh weights, for CLIP's embeddings."""
    width = clip.config.projection_dim
    return PriorTransformer(
        num_attention_heads=config.heads,
        attention_head_dim=config.head_width,
        num_layers=config.layers,
        embedding_dim=width,
        num_embeddings=clip.config.text_config.max_position_embeddings,
    )


@dataclass(frozen=True)
class PriorBatch:
    embeddings: torch.Tensor  # (B, D) of images
    tokens: torch.Tensor  # (B, L) int64
    present: torch.Tensor  # (B, L) bool


class PriorTask(Task):
    """Trains the prior to tell an image's embedding from a caption and from noise."""

    blocks = (BasicTransformerBlock,)
    alphas_cumprod: torch.Tensor

    def __init__(
        self,
        config: PriorConfig,
        source: Source,
        clip: CLIPModel,
        tokenizer: CLIPTokenizer,
        cache: Path | None,
    ) -> None:
        super().__init__()
        self.config, self.source = config, source
        self.tokenizer, self.cache = tokenizer, cache
        self.frozen = (clip.eval(),)  # a tuple hides it from parameters()
        self.prior = build_prior(config, clip)
        for fixed in (self.prior.clip_mean, self.prior.clip_std):
            fixed.requires_grad_(False)
        alphas = UnCLIPScheduler.from_config(PRIOR_SCHEDULER).alphas_cumprod
        self.register_buffer("alphas_cumprod", alphas, persistent=False)
        self.pool: Pool | None = None

    def batch(self, rng: random.Random, size: int, device: torch.device) -> PriorBatch:
        """Return embeddings of scenes, and captions of them."""
        scenes, embeddings = self._pool(device).sample(rng, size)
        said = self.source.captions(scenes, rng, self.config.drop_captions)
        tokens, present = tokenize(self.tokenizer, said)
        return PriorBatch(embeddings.float().to(device), tokens.to(device), present.to(device))

    def forward(self, batch: PriorBatch, generator: torch.Generator) -> dict[str, torch.Tensor]:
        x = (batch.embeddings - self.prior.clip_mean) / self.prior.clip_std
        steps = torch.randint(len(self.alphas_cumprod), (len(x),), generator=generator)
        noise = torch.randn(x.shape, generator=generator).to(x.device)
        alpha_bar = self.alphas_cumprod[steps.to(x.device)][:, None]
        x_t = alpha_bar.sqrt() * x + (1 - alpha_bar).sqrt() * noise
        text, hidden = self.read(batch.tokens)
        present = batch.present
        told = self.prior(x_t, steps.to(x.device), text, hidden, present, return_dict=False)[0]
        made = self.prior.post_process_latents(told.float())
        return {
            "loss": functional.mse_loss(told.float(), x),  # equation 2 of the article
            "cosine": functional.cosine_similarity(made, batch.embeddings).mean(),
        }

    @torch.no_grad()
    def read(self, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the embeddings (B, D) of texts and the states (B, L, D) of their tokens."""
        clip = self.frozen[0].to(tokens.device)
        states = clip.text_model(tokens)
        hidden, project = states.last_hidden_state, clip.text_projection
        wide = hidden if hidden.shape[-1] == project.out_features else project(hidden)
        return project(states.pooler_output), wide

    @torch.no_grad()
    def draw(
        self, prompts: list[str], seed: int, guidance: float = 4.0, steps: int = 25
    ) -> torch.Tensor:
        """Return an embedding (N, D) for each prompt."""
        device = self.alphas_cumprod.device
        scheduler = UnCLIPScheduler.from_config(PRIOR_SCHEDULER)
        scheduler.set_timesteps(steps)
        tokens, present = tokenize(self.tokenizer, [""] * len(prompts) + prompts)
        text, hidden = self.read(tokens.to(device))
        generator = torch.Generator().manual_seed(seed)
        x = torch.randn(len(prompts), text.shape[1], generator=generator).to(device)
        times = scheduler.timesteps
        for i, t in enumerate(times):
            told = self.prior(
                torch.cat([x, x]), t.to(device), text, hidden, present.to(device)
            ).predicted_image_embedding
            free, led = told.chunk(2)
            following = times[i + 1] if i + 1 < len(times) else None
            x = scheduler.step(
                free + guidance * (led - free), t, x, following, generator
            ).prev_sample
        return self.prior.post_process_latents(x)

    @torch.no_grad()
    def sheet(self) -> Image.Image:
        """Show the scenes of the pool whose embeddings are nearest to those of a dozen prompts."""
        prompts = list(self.source.prompts)
        pool = self._pool(self.alphas_cumprod.device)
        there = functional.normalize(torch.cat(pool.parts).float(), dim=1)
        drawn = functional.normalize(self.draw(prompts, seed=0).cpu(), dim=1)
        places = (drawn @ there.T).topk(NEAREST).indices.flatten().tolist()
        captions = [prompt for prompt in prompts for _ in range(NEAREST)]
        nearest = self.source.render([pool.scenes[i] for i in places])
        return tile(nearest, columns=12, captions=captions)

    def save(self, folder: Path) -> None:
        """Write the prior and its scheduler."""
        self.prior.save_pretrained(folder / "prior")
        UnCLIPScheduler.from_config(PRIOR_SCHEDULER).save_config(folder / "prior_scheduler")

    def _pool(self, device: torch.device) -> Pool:
        """Return the embeddings; the first of them say mean and spread, once for all."""
        if self.pool is None:
            clip = self.frozen[0].to(device)
            maker = fingerprint(clip.vision_model)
            size = self.config.pool
            self.pool = Pool(self.source, self._embedded, maker, self.cache, size)
        if not self.prior.clip_std.any():
            first = torch.cat(self.pool.parts)[:MEASURED].float()
            with torch.no_grad():
                self.prior.clip_mean.copy_(first.mean(0, keepdim=True))
                self.prior.clip_std.copy_(first.std(0, keepdim=True))
        return self.pool

    def _embedded(self, images: torch.Tensor) -> torch.Tensor:
        clip = self.frozen[0]
        pixels = pixel_values(images.to(clip.device))
        return clip.get_image_features(pixels).pooler_output.half()


@dataclass(frozen=True)
class DecoderConfig(DiffusionConfig):
    """How often the decoder sees an embedding, and a text beside it."""

    drop_captions: float = 0.5
    drop_embeddings: float = 0.1
    pool: int = 200_000
    unet_learns: bool = True


@dataclass(frozen=True)
class DecoderBatch:
    latents: torch.Tensor  # (B, C, h, w), scaled
    tokens: torch.Tensor  # (B, L) int64
    embeddings: torch.Tensor  # (B, D), zeros where they are left out


class UnclipDecoderTask(DiffusionTask):
    """Trains the decoder to draw what an embedding shows; CLIP and the autoencoder stay."""

    def __init__(
        self,
        config: DecoderConfig,
        source: Source,
        vae: AutoencoderKL,
        clip: CLIPModel,
        text_encoder: CLIPTextModel,
        tokenizer: CLIPTokenizer,
        unet: UNet2DConditionModel,
        cache: Path | None,
    ) -> None:
        """`text_encoder` is the one that the UNet listens to, which need not be CLIP's."""
        super().__init__(config, vae, text_encoder, tokenizer, cache)
        self.own, self.source, self.clip = config, source, (clip.eval(),)
        self.unet = unet.requires_grad_(config.unet_learns)
        self.image_tokens = ImageTokens(clip.config.projection_dim, unet.config.cross_attention_dim)
        self.pairs: Pool | None = None

    def batch(self, rng: random.Random, size: int, device: torch.device) -> DecoderBatch:  # type: ignore[override]
        """Return latents of scenes, with captions and embeddings, each now and then left out."""
        scenes, moments, embeddings = self._sample(rng, size, device)
        said = self.source.captions(scenes, rng, self.config.drop_captions)
        tokens, _ = tokenize(self.tokenizer, said)
        latents = draw_latents(moments, self.frozen[0].config.scaling_factor, rng)
        kept = [[float(rng.random() >= self.own.drop_embeddings)] for _ in range(size)]
        embeddings = embeddings * torch.tensor(kept)
        return DecoderBatch(latents.to(device), tokens.to(device), embeddings.to(device))

    def forward(  # type: ignore[override]
        self, batch: DecoderBatch, generator: torch.Generator
    ) -> dict[str, torch.Tensor]:
        x = batch.latents
        steps = self.draw_times(len(x), generator).to(x.device)
        noise = torch.randn(x.shape, generator=generator).to(x.device)
        alpha_bar = self.alphas_cumprod[steps]
        alpha, sigma = (value.sqrt().view(-1, 1, 1, 1) for value in (alpha_bar, 1 - alpha_bar))
        v = self.predict(alpha * x + sigma * noise, steps, batch.tokens, batch.embeddings)
        return {"loss": functional.mse_loss(v.float(), alpha * noise - sigma * x)}

    def predict(
        self, x: torch.Tensor, t: torch.Tensor, tokens: torch.Tensor, embeddings: torch.Tensor
    ) -> torch.Tensor:
        """Return v (B, C, h, w)."""
        hidden = torch.cat([self.image_tokens(embeddings), self.encode(tokens)], dim=1)
        return self.unet(x, t, hidden, return_dict=False)[0]

    @torch.no_grad()
    def sheet(self) -> Image.Image:
        """Show a dozen scenes, and below each three variations of it."""
        rng, device = random.Random(1), self.alphas_cumprod.device
        scenes, _, embeddings = self._sample(rng, 12, device)
        rows = [self.source.render(scenes)]
        rows += [self.vary(embeddings.to(device), seed=seed).cpu() for seed in range(3)]
        return tile(torch.cat(rows), columns=12)

    @torch.no_grad()
    def vary(
        self, embeddings: torch.Tensor, seed: int, guidance: float = 3.0, steps: int = 20
    ) -> torch.Tensor:
        """Return an image, uint8 (N, 3, H, W), of each embedding (N, D), plain DDIM, no text."""
        device, N = embeddings.device, len(embeddings)
        vae = self.frozen[0].to(device)
        scheduler = DDIMScheduler.from_config(SCHEDULER)
        scheduler.set_timesteps(steps)
        tokens, _ = tokenize(self.tokenizer, [""] * 2 * N)
        told = torch.cat([torch.zeros_like(embeddings), embeddings])
        shape = (N, vae.config.latent_channels, 8, 8)
        x = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(device)
        for t in scheduler.timesteps:
            free, led = self.predict(torch.cat([x, x]), t, tokens.to(device), told).chunk(2)
            x = scheduler.step(free + guidance * (led - free), t, x).prev_sample
        return to_bytes(vae.decode(x / vae.config.scaling_factor).sample)

    def save(self, folder: Path) -> None:
        """Write what makes tokens of embeddings, and the UNet if it has learned."""
        self.image_tokens.save_pretrained(folder / "image_tokens")
        if self.own.unet_learns:
            self.unet.save_pretrained(folder / "unet")

    def _sample(
        self, rng: random.Random, size: int, device: torch.device
    ) -> tuple[list[Any], torch.Tensor, torch.Tensor]:
        """Return scenes, the moments of their latents (B, 2C, h, w), and embeddings (B, D)."""
        vae, clip = self.frozen[0].to(device), self.clip[0].to(device)
        if self.pairs is None:
            maker = f"{fingerprint(vae)} {fingerprint(clip.vision_model)}"
            self.pairs = Pool(self.source, self._pair, maker, self.cache, self.config.pool)
        scenes, made = self.pairs.sample(rng, size)
        width = clip.config.projection_dim
        moments, embeddings = made.float().split([made.shape[1] - width, width], dim=1)
        return scenes, moments.view(size, 2 * vae.config.latent_channels, 8, 8), embeddings

    def _pair(self, images: torch.Tensor) -> torch.Tensor:
        """Return moments and embeddings of images as rows (B, …), in half precision."""
        vae, clip = self.frozen[0], self.clip[0]
        there = images.to(vae.device)
        moments = vae.encode(to_range(there)).latent_dist.parameters
        embeddings = clip.get_image_features(pixel_values(there)).pooler_output
        return torch.cat([moments.flatten(1), embeddings], dim=1).half()
