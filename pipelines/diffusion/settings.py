"""The settings that latent diffusion takes. Loads no torch."""

from typing import Annotated

from pipelines.diffusion import prompt_weights, samplers
from pipelines.settings import EditingSettings, Setting, SizedSettings


def sampler_names() -> dict[str, str]:
    """Return what may be written for a sampler: our names and those of AUTOMATIC1111's web UI."""
    ours = {name: name for name in samplers.SAMPLERS}
    return ours | {sampler.a1111: name for name, sampler in samplers.SAMPLERS.items()}


def schedule_names() -> dict[str, str]:
    """Return what may be written for a schedule."""
    ours = {name: name for name in samplers.SCHEDULES}
    return ours | {schedule.a1111: name for name, schedule in samplers.SCHEDULES.items()}


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
            aliases=("sampler_name",),
            names=sampler_names,
        ),
    ]
    schedule: Annotated[
        str | None,
        Setting(
            "how the steps are spaced",
            "Schedule type",
            aliases=("scheduler",),
            names=schedule_names,
        ),
    ]
    clip_skip: Annotated[
        int | None,
        Setting(
            "from which layer of the text encoders to read, counted from the end; 1: the usual one",
            "Clip skip",
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


class DiffusionSettings(DrawingSettings, EditingSettings, total=False):
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
