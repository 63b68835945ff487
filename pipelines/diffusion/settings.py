"""The settings that latent diffusion takes. Loads no torch."""

from typing import Annotated, TypedDict

from pipelines.diffusion import names, prompt_weights, samplers
from pipelines.settings import EditingSettings, Setting, SizedSettings


def sampler_names() -> dict[str, str]:
    """Return what may be written for a sampler: our names and those of AUTOMATIC1111's web UI."""
    ours = {name: name for name in samplers.SAMPLERS}
    return ours | {sampler.a1111: name for name, sampler in samplers.SAMPLERS.items()}


def schedule_names() -> dict[str, str]:
    """Return what may be written for a schedule."""
    ours = {name: name for name in samplers.SCHEDULES}
    return ours | {schedule.a1111: name for name, schedule in samplers.SCHEDULES.items()}


def read_sampler(written: str) -> str | None:
    """Return our name of a sampler, with the schedule behind a space if the text names it too."""
    found = names.find_sampler(written)
    return None if found is None else " ".join(filter(None, found))


def syntax_names() -> dict[str, str]:
    """Return the ways to read brackets."""
    return {name: name for name in prompt_weights.SYNTAXES}


class DrawingSettings(SizedSettings, total=False):
    """What `LatentDiffusion.begin` takes."""

    sampler: Annotated[
        str | None,
        Setting(
            "how noise becomes an image",
            "Sampler",
            aliases=("sampler_name", "sampler_index"),
            names=sampler_names,
            find=read_sampler,
        ),
    ]
    schedule: Annotated[
        str | None,
        Setting(
            "how the steps are spaced",
            "Schedule type",
            aliases=("scheduler", "schedule_type"),
            names=schedule_names,
            find=names.find_schedule,
        ),
    ]
    base_seed: Annotated[
        int | None,
        Setting(
            "the seed of an image to stay near: the noise of candidates is between its noise and "
            "their own",
            "Variation of seed",
            low=0,
            high=2**63 - 1,
        ),
    ]
    variation: Annotated[
        float | None,
        Setting(
            "how far candidates are from --base-seed: 0: not at all, 1: as far as from any; by "
            "default 0.2",
            "Variation seed strength",
            aliases=("subseed_strength", "variation_strength"),
            low=0,
            high=1,
        ),
    ]
    clip_skip: Annotated[
        int | None,
        Setting(
            "from which layer of the text encoders to read, counted from the end; 1: the usual one",
            "Clip skip",
            aliases=("CLIP_stop_at_last_layers", "clip_stop_at_last_layers"),
            low=1,
            high=12,
        ),
    ]
    prompt_syntax: Annotated[
        str | None,
        Setting(
            "how brackets in prompts are read, by default as a1111, where they are weights",
            names=syntax_names,
        ),
    ]


def upscalers() -> dict[str, str]:
    """Return what may enlarge images between two passes, also as AUTOMATIC1111's web UI names it.

    Its None is Lanczos, and of its ways to enlarge latents one is here.
    """
    ways = ("antialiased", "bicubic", "bicubic antialiased", "nearest", "nearest-exact")
    theirs = {"none": "lanczos", **{f"latent ({way})": "latent" for way in ways}}
    return {name: name for name in ("latent", "lanczos", "model")} | theirs


class SecondPassSettings(TypedDict, total=False):
    """How images are drawn again, larger: what AUTOMATIC1111's web UI calls hires fix."""

    hires: Annotated[
        float | None,
        Setting(
            "draw images a second time, so many times larger, from what the first pass made",
            "Hires upscale",
            aliases=("hr_scale", "hires_upscale"),
            low=1,
            high=8,
        ),
    ]
    hires_strength: Annotated[
        float | None,
        Setting(
            "how much the second pass draws anew; by default 0.5",
            "Denoising strength",
            low=0,
            high=1,
        ),
    ]
    hires_steps: Annotated[
        int | None,
        Setting(
            "steps of the second pass, all of which are taken; by default as many as of the first",
            "Hires steps",
            aliases=("hr_second_pass_steps",),
            low=1,
            high=1000,
        ),
    ]
    hires_upscaler: Annotated[
        str | None,
        Setting(
            "what enlarges between the passes: model is --upscale-model or the model's own "
            "upsampler, and the default where there is one; else latent",
            "Hires upscaler",
            aliases=("hr_upscaler",),
            names=upscalers,
        ),
    ]


class LatentEditingSettings(EditingSettings, total=False):
    """How an image that there is becomes the beginning of others, in latent space."""

    mask_guidance: Annotated[
        float | None,
        Setting(
            "how strongly what is drawn under a mask is led to fit what is around it; noisy steps "
            "then take three times as long, and more memory; by default as the model advises, "
            "else, and with --extend, 0",
            "Mask guidance",
            low=0,
            high=20,
        ),
    ]


class DiffusionSettings(DrawingSettings, LatentEditingSettings, SecondPassSettings, total=False):
    """All of it: also what an image begins from, and files that change the model as it loads."""

    lora: Annotated[
        str | None,
        Setting(
            "a LoRA file that changes the model, with its weight: FILE.safetensors:0.8",
            local=True,
            loads=True,
            many=True,
        ),
    ]
    lora_dir: Annotated[
        str | None,
        Setting(
            "a folder with the LoRA files that prompts name, as in <lora:NAME:0.8>, and --lora",
            local=True,
            loads=True,
            metavar="FOLDER",
        ),
    ]
    vae: Annotated[
        str | None,
        Setting(
            "a file or folder with another VAE for the model",
            "VAE",
            metavar="PATH",
            local=True,
            loads=True,
        ),
    ]
    embedding: Annotated[
        str | None,
        Setting(
            "a file with a word that was learned by textual inversion",
            local=True,
            loads=True,
            many=True,
        ),
    ]
