"""The denoiser: a UNet on 8 × 8 latents, conditioned on the CLIP text encoder, which is frozen or
learns too.

v-prediction (Salimans & Ho, arXiv 2202.00512, appendix D) at logit-normal times (Esser et al.,
arXiv 2403.03206, §3.1), captions dropped now and then for classifier-free guidance (Ho & Salimans,
arXiv 2207.12598). What stands where is decided between steps 400 and 800 of 1000: there the caption
lowers the error most, and there most of the training goes. Latents are made in bulk ahead and kept
in memory; captions and noise are new each time that a latent is used.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from PIL import Image
from safetensors.torch import load_file, save_file
from torch.nn import functional
from transformers import CLIPTextModel, CLIPTokenizer

from train.autoencoder import to_bytes, to_range
from train.loop import Task
from train.sheets import tile
from train.stickers.captions import phrase
from train.stickers.facts import describe
from train.stickers.reading import Recital, Recitation
from train.stickers.renderer import render
from train.stickers.scene import Scene, draw_scene
from train.stickers.wording import Wording

# The stock pipeline rewrites what it deems outdated: say each of these settings.
SCHEDULER = {
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.02,
    "num_train_timesteps": 1000,
    "prediction_type": "v_prediction",
    "steps_offset": 1,
    "clip_sample": False,
    "set_alpha_to_one": False,
}
ENCODED_TOGETHER = 16  # images: what still fits the cache of a CPU core
SHEET_PROMPTS = (
    "a panda",
    "three apples",
    "a cat and a rocket",
    "a red circle",
    "a panda to the left of a red balloon",
    "a small house in the top right corner",
    "a blue star and a green triangle",
    "a large sunflower on a light blue background",
    "five strawberries on white",
    "a robot above a car",
    "an octopus on a pink background",
    "a frog, a crown and a yellow square",
)


@dataclass(frozen=True)
class DiffusionConfig:
    widths: tuple[int, ...] = (128,)
    layers_per_block: int = 1
    transformer_layers: int = 2
    head_width: int = 32
    norm_groups: int = 16
    drop_captions: float = 0.1
    time_mean: float = 0.4  # of the logit of the time, 0 clean to 1 noise
    time_deviation: float = 1.0
    pool: int = 60_000  # scenes with latents made ahead
    snap: bool = True
    free: float = 0.0  # of the captions are in free wordings
    recited: int = 0  # captions without an image in a batch; the text encoder learns from them, too
    reading_weight: float = 0.05
    taught: bool = False  # the UNet stays, and its text encoder learns to say it all in free words


def build(config: DiffusionConfig, latent_channels: int, text_width: int) -> UNet2DConditionModel:
    """Return the network with fresh weights; every level has cross-attention."""
    levels = len(config.widths)
    return UNet2DConditionModel(
        sample_size=8,
        in_channels=latent_channels,
        out_channels=latent_channels,
        down_block_types=("CrossAttnDownBlock2D",) * levels,
        up_block_types=("CrossAttnUpBlock2D",) * levels,
        block_out_channels=config.widths,
        layers_per_block=config.layers_per_block,
        transformer_layers_per_block=config.transformer_layers,
        attention_head_dim=tuple(width // config.head_width for width in config.widths),
        cross_attention_dim=text_width,
        norm_num_groups=config.norm_groups,
        use_linear_projection=True,
    )


@dataclass(frozen=True)
class DiffusionBatch:
    latents: torch.Tensor  # (B, C, h, w), scaled
    tokens: torch.Tensor  # (B, L) int64
    recited: Recitation | None = None
    plain: torch.Tensor | None = None  # (B, L) int64: the same in the words of the own grammar


class DiffusionTask(Task):
    """Trains the UNet, and if it recites the text encoder; the autoencoder stays as it is.

    A text encoder that is `taught` learns alone: whatever the wording, the UNet must say of a noisy
    latent what it said with the old text encoder of plain words that tell the same. That target has
    no noise of its own, so that far fewer images are needed, and what the UNet can do it keeps.
    """

    blocks = (ResnetBlock2D, BasicTransformerBlock)
    alphas_cumprod: torch.Tensor

    def __init__(
        self,
        config: DiffusionConfig,
        vae: AutoencoderKL,
        text_encoder: CLIPTextModel,
        tokenizer: CLIPTokenizer,
        cache: Path | None = None,
    ) -> None:
        super().__init__()
        self.config, self.tokenizer, self.cache = config, tokenizer, cache
        self.frozen = (vae.eval(), text_encoder.eval())  # a tuple hides them from parameters()
        width = text_encoder.config.hidden_size
        self.unet = build(config, vae.config.latent_channels, width)
        self.recital: Recital | None = None
        if config.recited:
            self.text_encoder = text_encoder  # in sight, so that it learns
            self.recital = Recital(width, tokenizer, config.recited)
        self.wording = Wording(config.free) if config.free else None
        self.teacher: CLIPTextModel | None = None
        if config.taught:
            self.teacher = CLIPTextModel(text_encoder.config).requires_grad_(False)
            self.unet.requires_grad_(False)
        alphas = DDIMScheduler.from_config(SCHEDULER).alphas_cumprod
        self.register_buffer("alphas_cumprod", alphas, persistent=False)
        self.pool: LatentPool | None = None

    def batch(self, rng: random.Random, size: int, device: torch.device) -> DiffusionBatch:
        if self.pool is None:
            vae = self.frozen[0].to(device)
            self.pool = LatentPool(vae, self.config.pool, self.config.snap, self.cache)
        indices = draw_indices(self.pool.scenes, size, rng, even=self.config.free == 0)
        say = phrase if self.wording is None else self.wording.say
        told = [
            None
            if rng.random() < self.config.drop_captions
            else describe(self.pool.scenes[index], rng)
            for index in indices
        ]
        tokens = tokenize(self.tokenizer, ["" if each is None else say(each, rng) for each in told])
        plain = None
        if self.teacher is not None:
            texts = ["" if each is None else phrase(each, rng) for each in told]
            plain = tokenize(self.tokenizer, texts).to(device)
        latents = self.pool.sample(indices, rng)
        recited = None if self.recital is None else self.recital.draw(rng).to(device)
        return DiffusionBatch(latents.to(device), tokens.to(device), recited, plain)

    def forward(self, batch: DiffusionBatch, generator: torch.Generator) -> dict[str, torch.Tensor]:
        x = batch.latents
        steps = self.draw_times(len(x), generator).to(x.device)
        noise = torch.randn(x.shape, generator=generator).to(x.device)
        alpha_bar = self.alphas_cumprod[steps]
        alpha, sigma = (value.sqrt().view(-1, 1, 1, 1) for value in (alpha_bar, 1 - alpha_bar))
        noisy, wanted = alpha * x + sigma * noise, alpha * noise - sigma * x
        if self.teacher is not None and batch.plain is not None:
            with torch.no_grad():
                text = self.teacher(batch.plain).last_hidden_state
                wanted = self.unet(noisy, steps, text, return_dict=False)[0].float()
        v = self.unet(noisy, steps, self.encode(batch.tokens), return_dict=False)[0]
        loss = functional.mse_loss(v.float(), wanted)
        if self.recital is None or batch.recited is None:
            return {"loss": loss}
        read = self.recital(self.text_encoder, batch.recited, self.fraction)
        return {"loss": loss + self.config.reading_weight * read["reading"], "noise": loss, **read}

    def draw_times(self, number: int, generator: torch.Generator) -> torch.Tensor:
        """Return (number,) int64 training steps, logit-normal."""
        config, steps = self.config, len(self.alphas_cumprod)
        return logit_normal(number, steps, config.time_mean, config.time_deviation, generator)

    def encode(self, tokens: torch.Tensor) -> torch.Tensor:
        """(B, L) to the text encoder's last hidden states (B, L, D)."""
        text_encoder = self.frozen[1].to(tokens.device)
        with torch.set_grad_enabled(self.recital is not None and torch.is_grad_enabled()):
            return text_encoder(tokens).last_hidden_state

    def sheet(self) -> Image.Image:
        """Four images of each of a dozen prompts, plain DDIM, guidance 3, seed 0."""
        prompts = [prompt for prompt in SHEET_PROMPTS for _ in range(4)]
        return tile(self.draw(prompts, seed=0), columns=12, captions=prompts)

    def draw(
        self, prompts: list[str], seed: int, guidance: float = 3.0, steps: int = 20
    ) -> torch.Tensor:
        """(N, 3, H, W) uint8."""
        device = self.alphas_cumprod.device
        vae = self.frozen[0].to(device)
        scheduler = DDIMScheduler.from_config(SCHEDULER)
        scheduler.set_timesteps(steps)
        text = self.encode(tokenize(self.tokenizer, prompts + [""] * len(prompts)).to(device))
        generator = torch.Generator().manual_seed(seed)
        shape = (len(prompts), vae.config.latent_channels, 8, 8)
        x = torch.randn(shape, generator=generator).to(device)
        for t in scheduler.timesteps:
            v, free = self.unet(torch.cat([x, x]), t, text, return_dict=False)[0].chunk(2)
            x = scheduler.step(free + guidance * (v - free), t, x).prev_sample
        return to_bytes(vae.decode(x / vae.config.scaling_factor).sample)

    def save(self, folder: Path) -> None:
        """Return the UNet, and with it the text encoder that it was trained to listen to."""
        self.unet.save_pretrained(folder / "unet")
        save_text_encoder(self.frozen[1], folder / "text_encoder")


def logit_normal(
    number: int, steps: int, mean: float, deviation: float, generator: torch.Generator
) -> torch.Tensor:
    """Return (number,) int64 of so many training steps; the logits of their times are normal."""
    times = torch.sigmoid(mean + deviation * torch.randn(number, generator=generator))
    return (times * steps).long()


def save_text_encoder(text_encoder: CLIPTextModel, folder: Path) -> None:
    """CLIP's text tower, with the keys that every version of transformers reads, and the dtype that
    keeps its version 5 from computing in whatever precision the file has."""
    folder.mkdir(parents=True, exist_ok=True)
    config = text_encoder.config.to_diff_dict() | {
        "architectures": ["CLIPTextModel"],
        "dtype": "float32",
        "model_type": "clip_text_model",
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    state = {f"text_model.{name}": value for name, value in text_encoder.state_dict().items()}
    save_file(state, folder / "model.safetensors", {"format": "pt"})


# How often each kind of scene is drawn from a pool where networks go on to learn what they do
# worst: to count, and to put two things where they belong.
HARD_KINDS = {
    "single": 0.12,
    "coloured shape": 0.08,
    "count": 0.28,
    "pair": 0.14,
    "relation": 0.18,
    "two shapes": 0.14,
    "three": 0.06,
}


def draw_indices(
    scenes: Sequence[Scene], size: int, rng: random.Random, *, even: bool
) -> list[int]:
    """Return `size` places in `scenes`: all alike, or of kinds as in `HARD_KINDS`."""
    if even:
        return [rng.randrange(len(scenes)) for _ in range(size)]
    kinds = rng.choices(tuple(HARD_KINDS), tuple(HARD_KINDS.values()), k=size)
    return [_of_kind(scenes, kind, rng) for kind in kinds]


def _of_kind(scenes: Sequence[Scene], kind: str, rng: random.Random) -> int:
    while True:
        index = rng.randrange(len(scenes))
        if scenes[index].kind == kind:
            return index


class LatentPool:
    """Scenes with their posterior moments, encoded once and kept in the file `cache`."""

    def __init__(self, vae: AutoencoderKL, size: int, snap: bool, cache: Path | None) -> None:
        rng = random.Random(f"pool:{size}:{snap}")
        self.scenes: list[Scene] = [draw_scene(rng, snap=snap) for _ in range(size)]
        self.scaling = vae.config.scaling_factor
        if cache is not None and cache.is_file():
            self.moments = load_file(cache)["moments"]  # (size, 2C, h, w) fp16
        else:
            self.moments = self._encode(vae)
            if cache is not None:
                save_file({"moments": self.moments}, cache)
        if len(self.moments) != size:
            raise ValueError(f"{cache} holds {len(self.moments)} latents, not {size}: remove it")

    @torch.inference_mode()
    def _encode(self, vae: AutoencoderKL) -> torch.Tensor:
        parts = []
        for start in range(0, len(self.scenes), ENCODED_TOGETHER):
            images = render(self.scenes[start : start + ENCODED_TOGETHER], device=vae.device)
            parts.append(vae.encode(to_range(images)).latent_dist.parameters.half().cpu())
        return torch.cat(parts).contiguous()

    def sample(self, indices: list[int], rng: random.Random) -> torch.Tensor:
        """Return a draw from each posterior, scaled."""
        return draw_latents(self.moments[indices].float(), self.scaling, rng)


def draw_latents(moments: torch.Tensor, scaling: float, rng: random.Random) -> torch.Tensor:
    """Return a draw (B, C, h, w) from posteriors with moments (B, 2C, h, w), scaled."""
    mean, log_variance = moments.chunk(2, dim=1)
    generator = torch.Generator().manual_seed(rng.getrandbits(63))
    noise = torch.randn(mean.shape, generator=generator)
    return (mean + (0.5 * log_variance).exp() * noise) * scaling


def tokenize(tokenizer: CLIPTokenizer, captions: list[str]) -> torch.Tensor:
    """(B, context) int64, padded to the whole context as pipelines do."""
    return tokenizer(captions, padding="max_length", truncation=True, return_tensors="pt")[
        "input_ids"
    ]
