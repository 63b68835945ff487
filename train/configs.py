"""The sizes that we train: `small` in hours on two CPU cores, `large` in minutes on one GPU."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from pipelines.upscale.layouts import CompactConfig
from train.autoencoder import AutoencoderConfig
from train.clip import ClipConfig
from train.dalle import DalleRecipe
from train.diffusion import DiffusionConfig
from train.dvae import DvaeRecipe
from train.loop import Schedule
from train.masks import MasksRecipe
from train.unclip import DecoderConfig, PriorConfig
from train.upsampler import UpsamplerRecipe

MASKS_SCHEDULE = Schedule(
    32, 3e-3, warmup_steps=60, ema_decay=0.99, mixed_precision="bf16", minutes=28
)
PRIOR = PriorConfig(layers=4, heads=4, head_width=32, pool=60_000)
PRIOR_SCHEDULE = Schedule(
    128, 2e-3, warmup_steps=60, ema_decay=0.998, mixed_precision="bf16", minutes=20
)
# The UNet is that of `stickers`, so that its file serves both.
DECODER = DecoderConfig(pool=60_000, unet_learns=False)
DECODER_SCHEDULE = Schedule(
    32, 2e-3, warmup_steps=60, ema_decay=0.998, mixed_precision="bf16", minutes=60
)
# Fifty drawings need less than the million parameters of public ones, and it runs on a CPU.
UPSAMPLER = UpsamplerRecipe(CompactConfig(features=40, layers=10), crops=4)
UPSAMPLER_SCHEDULE = Schedule(
    32, 2e-3, warmup_steps=60, ema_decay=0.998, mixed_precision="bf16", minutes=45
)


@dataclass(frozen=True)
class Config:
    """Everything about one training of the whole toolkit; minutes are budgets, not promises."""

    autoencoder: AutoencoderConfig
    autoencoder_schedule: Schedule
    clip: ClipConfig
    clip_schedule: Schedule
    diffusion: DiffusionConfig
    diffusion_schedule: Schedule
    dvae: DvaeRecipe
    dvae_schedule: Schedule
    dalle: DalleRecipe
    dalle_schedule: Schedule
    masks: MasksRecipe = field(default_factory=MasksRecipe)
    masks_schedule: Schedule = MASKS_SCHEDULE
    prior: PriorConfig = PRIOR
    prior_schedule: Schedule = PRIOR_SCHEDULE
    unclip_decoder: DecoderConfig = DECODER
    unclip_decoder_schedule: Schedule = DECODER_SCHEDULE
    unclip_free: float = 0.5  # of the captions are in free wordings
    upsampler: UpsamplerRecipe = UPSAMPLER
    upsampler_schedule: Schedule = UPSAMPLER_SCHEDULE


CONFIGS: dict[str, Config] = {
    "small": Config(
        autoencoder=AutoencoderConfig(),
        autoencoder_schedule=Schedule(24, 5e-3, warmup_steps=60, ema_decay=0.998, minutes=18),
        clip=ClipConfig(),
        clip_schedule=Schedule(48, 2e-3, warmup_steps=60, ema_decay=0.998, minutes=60),
        diffusion=DiffusionConfig(),
        diffusion_schedule=Schedule(
            16, 2e-3, warmup_steps=100, ema_decay=0.999, accumulation=2, minutes=90
        ),
        dvae=DvaeRecipe(),
        dvae_schedule=Schedule(16, 3e-3, warmup_steps=60, ema_decay=0.998, minutes=30),
        dalle=DalleRecipe(),
        dalle_schedule=Schedule(16, 2e-3, warmup_steps=100, ema_decay=0.999, minutes=75),
    ),
    # The same networks, so that the shipped files stay small; far more images.
    "large": Config(
        autoencoder=AutoencoderConfig(packed_share=0.3),
        autoencoder_schedule=Schedule(
            256, 5e-3, warmup_steps=100, mixed_precision="bf16", minutes=6
        ),
        clip=ClipConfig(changed_captions=4),
        clip_schedule=Schedule(512, 2e-3, warmup_steps=100, mixed_precision="bf16", minutes=6),
        diffusion=DiffusionConfig(pool=400_000),
        diffusion_schedule=Schedule(
            512, 2e-3, warmup_steps=100, ema_decay=0.9995, mixed_precision="bf16", minutes=12
        ),
        dvae=DvaeRecipe(packed_share=0.3),
        dvae_schedule=Schedule(256, 3e-3, warmup_steps=100, mixed_precision="bf16", minutes=6),
        dalle=DalleRecipe(pool=400_000),
        dalle_schedule=Schedule(
            512, 2e-3, warmup_steps=100, ema_decay=0.9995, mixed_precision="bf16", minutes=12
        ),
    ),
    # Goes on from the shipped weights (`salon-train start`) with free wordings.
    "free": Config(
        autoencoder=AutoencoderConfig(),
        autoencoder_schedule=Schedule(24, 1e-3, ema_decay=0.998, minutes=18),
        clip=ClipConfig(free=0.85, taught=True),
        clip_schedule=Schedule(
            64, 2e-3, warmup_steps=60, ema_decay=0.995, mixed_precision="bf16", minutes=45
        ),
        diffusion=DiffusionConfig(pool=30_000, free=0.7, recited=64, taught=True),
        diffusion_schedule=Schedule(
            32, 6e-4, warmup_steps=30, ema_decay=0.99, mixed_precision="bf16", minutes=13
        ),
        dvae=DvaeRecipe(),
        dvae_schedule=Schedule(16, 1e-3, ema_decay=0.998, minutes=30),
        dalle=DalleRecipe(pool=30_000, free=0.6),
        dalle_schedule=Schedule(
            48, 1.2e-3, warmup_steps=60, ema_decay=0.99, mixed_precision="bf16", minutes=60
        ),
    ),
}
# Goes on with the UNet of latent diffusion, which listens to the text encoder as it is.
CONFIGS["longer"] = replace(
    CONFIGS["free"],
    diffusion=DiffusionConfig(pool=30_000, free=0.5),
    diffusion_schedule=Schedule(
        32, 1e-3, warmup_steps=60, ema_decay=0.998, mixed_precision="bf16", minutes=90
    ),
)
