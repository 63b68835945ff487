"""What each network of the stickers learns by: its task, made of what a run or Salon has already.

Each function loads only what its own training needs.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from train.configs import Config
from train.loop import Schedule, Task

if TYPE_CHECKING:
    import torch

    from train.dalle import DalleTask
    from train.diffusion import DiffusionTask


def autoencoder(config: Config, run: Path) -> Task:
    """Return the training of the autoencoder of latent diffusion."""
    from train.autoencoder import AutoencoderTask

    return AutoencoderTask(config.autoencoder)


def clip(config: Config, run: Path) -> Task:
    """Return the training of CLIP, or its text tower alone."""
    from transformers import CLIPTokenizer

    from train.clip import ClipTask
    from train.clip_words import load_words_task
    from train.stickers.drawn import load

    if config.clip.taught:
        _trained(run, "clip/weights")
        return load_words_task(config.clip, run)
    tokenizer = CLIPTokenizer.from_pretrained(_trained(run, "tokenizer"))
    drawn = load(sorted(run.glob("drawn-*.safetensors")))
    return ClipTask(config.clip, tokenizer, drawn, _decoders(config, run))


def _decoders(config: Config, run: Path) -> list[Callable[[torch.Tensor], torch.Tensor]]:
    """Return what makes images again, of the run's autoencoders, where CLIP learns from that."""
    if config.clip.again_share == 0:
        return []
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    from pipelines.dalle.networks import load_dvae
    from train.evaluate import through_codes, through_latents

    vae = AutoencoderKL.from_pretrained(_trained(run, "autoencoder/weights")).eval()
    dvae = load_dvae(_trained(run, "dvae/weights")).eval()
    return [through_latents(vae), through_codes(dvae)]


def diffusion(config: Config, run: Path) -> DiffusionTask:
    """Return the training of the UNet."""
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from transformers import CLIPModel, CLIPTokenizer

    from train.diffusion import DiffusionTask

    vae = AutoencoderKL.from_pretrained(_trained(run, "autoencoder/weights"))
    clip = CLIPModel.from_pretrained(_trained(run, "clip/weights"))
    tokenizer = CLIPTokenizer.from_pretrained(_trained(run, "tokenizer"))
    cache = run / "latents.safetensors"
    return DiffusionTask(config.diffusion, vae, clip.text_model, tokenizer, cache)


def dvae(config: Config, run: Path) -> Task:
    """Return the training of the discrete VAE."""
    from train.dvae import DvaeTask

    return DvaeTask(config.dvae)


def dalle(config: Config, run: Path) -> DalleTask:
    """Return the training of the transformer."""
    from transformers import CLIPModel, CLIPTokenizer

    from pipelines.dalle.networks import load_dvae
    from train.dalle import DalleTask

    dvae = load_dvae(_trained(run, "dvae/weights"))
    clip = CLIPModel.from_pretrained(_trained(run, "clip/weights"))
    tokenizer = CLIPTokenizer.from_pretrained(_trained(run, "tokenizer"))
    return DalleTask(config.dalle, dvae, clip.text_model, tokenizer, run / "codes.safetensors")


def masks(config: Config, run: Path) -> Task:
    """Return the training of what finds things by name."""
    from train.masks import MasksTask, shipped_autoencoders
    from train.stickers.masks import LESSON

    return MasksTask(LESSON, config.masks, list(shipped_autoencoders().values()))


def prior(config: Config, run: Path) -> Task:
    """Return the training of the prior."""
    from transformers import CLIPModel, CLIPTokenizer

    from train.shipping import CLIP
    from train.stickers.source import source
    from train.unclip import PriorTask

    clip, tokenizer = CLIPModel.from_pretrained(CLIP), CLIPTokenizer.from_pretrained(CLIP)
    learnt = source(config.unclip_free)
    return PriorTask(config.prior, learnt, clip, tokenizer, run / "embeddings")


def unclip_decoder(config: Config, run: Path) -> Task:
    """Return the training of the tokens of image embeddings."""
    import torch
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
    from transformers import CLIPModel, CLIPTextModel, CLIPTokenizer

    from pipelines.families import DEFAULT_MODEL, find
    from train.shipping import CLIP
    from train.stickers.source import source
    from train.unclip import UnclipDecoderTask

    model = find(DEFAULT_MODEL).folder
    return UnclipDecoderTask(
        config.unclip_decoder,
        source(config.unclip_free),
        AutoencoderKL.from_pretrained(model / "vae", torch_dtype=torch.float32),
        CLIPModel.from_pretrained(CLIP),
        CLIPTextModel.from_pretrained(model / "text_encoder"),
        CLIPTokenizer.from_pretrained(model / "tokenizer"),
        UNet2DConditionModel.from_pretrained(model / "unet", torch_dtype=torch.float32),
        run / "pairs",
    )


def upsampler(config: Config, run: Path) -> Task:
    """Return the training of what enlarges the images of both decoders."""
    from train.masks import shipped_autoencoders
    from train.stickers.renderer import render
    from train.stickers.scene import draw_scene
    from train.upsampler import Large, UpsamplerTask

    source = Large(
        lambda rng, number: [draw_scene(rng) for _ in range(number)],
        lambda scenes, size: render(scenes, size=size),
    )
    return UpsamplerTask(config.upsampler, source, list(shipped_autoencoders().values()))


def _trained(run: Path, part: str) -> Path:
    folder = run / part
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is missing: run salon-train {part.split('/')[0]} first")
    return folder


TASKS: dict[str, tuple[Callable[[Config], Schedule], Callable[[Config, Path], Task]]] = {
    "autoencoder": (lambda config: config.autoencoder_schedule, autoencoder),
    "clip": (lambda config: config.clip_schedule, clip),
    "diffusion": (lambda config: config.diffusion_schedule, diffusion),
    "dvae": (lambda config: config.dvae_schedule, dvae),
    "dalle": (lambda config: config.dalle_schedule, dalle),
    "masks": (lambda config: config.masks_schedule, masks),
    "prior": (lambda config: config.prior_schedule, prior),
    "unclip-decoder": (lambda config: config.unclip_decoder_schedule, unclip_decoder),
    "upsampler": (lambda config: config.upsampler_schedule, upsampler),
}
