"""What a latent diffusion model says of itself, read without torch."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipelines.checkpoints.configs import read_config
from pipelines.checkpoints.errors import WeightsError
from pipelines.checkpoints.specs import Spec, folder_licence, read_context
from pipelines.diffusion.samplers import sampler_of_scheduler

DIFFUSION_SETTINGS = (
    "negative_prompt",
    "width",
    "height",
    "steps",
    "guidance",
    "sampler",
    "schedule",
    "clip_skip",
    "prompt_syntax",
    "lora",
    "vae",
    "embedding",
)


# What is loaded from a diffusers folder, and the classes that it may have been saved from.
COMPONENTS: Mapping[str, tuple[str, ...]] = {
    "tokenizer": ("CLIPTokenizer", "CLIPTokenizerFast"),
    "text_encoder": ("CLIPTextModel",),
    "unet": ("UNet2DConditionModel",),
    "vae": ("AutoencoderKL",),
}


TWO_TEXT_COMPONENTS: Mapping[str, tuple[str, ...]] = {
    **COMPONENTS,
    "tokenizer_2": COMPONENTS["tokenizer"],
    "text_encoder_2": ("CLIPTextModelWithProjection",),
}


PIPELINE_CLASSES = {
    "StableDiffusionPipeline": COMPONENTS,
    "LatentConsistencyModelPipeline": COMPONENTS,
    "StableDiffusionXLPipeline": TWO_TEXT_COMPONENTS,
}


def text_components(folder: Path) -> tuple[str, ...]:
    """The text encoders of a latent diffusion folder, in the order in which the UNet takes them."""
    class_name = str(read_config(folder / "model_index.json").get("_class_name"))
    names = PIPELINE_CLASSES.get(class_name, COMPONENTS)
    return tuple(name for name in ("text_encoder", "text_encoder_2") if name in names)


def read_spec(folder: Path, name: str) -> Spec:
    """The Spec of a Stable Diffusion 1.x, 2.x or XL folder, from its JSON files.

    Raises WeightsError naming the missing part.
    """
    index = read_config(folder / "model_index.json")
    for part, classes in PIPELINE_CLASSES[str(index["_class_name"])].items():
        entry = index.get(part)
        saved = entry[-1] if isinstance(entry, list) and entry else entry
        if saved not in classes:
            raise WeightsError(f"{folder}: {part} is a {saved}; it must be a {classes[0]}")
        if not (folder / part).is_dir():
            raise WeightsError(
                f"{folder} has no {part}/ (a {classes[0]}): the model folder is not complete; "
                "copy or download it again"
            )

    unet = read_config(folder / "unet" / "config.json")
    scheduler = read_config(folder / "scheduler" / "scheduler_config.json")
    vae_factor = _downsampling(read_config(folder / "vae" / "config.json"))
    sample_size = unet.get("sample_size")
    height, width = sample_size if isinstance(sample_size, list) else (sample_size, sample_size)
    if not (isinstance(height, int) and isinstance(width, int)):
        raise WeightsError(f"{folder}/unet/config.json says no sample_size")
    if "beta_start" not in scheduler:
        raise WeightsError(
            f"{folder}/scheduler is a {scheduler.get('_class_name')} without betas; what can be "
            "drawn with are the noise schedules of Stable Diffusion"
        )
    return Spec(
        name=name,
        folder=folder,
        kind="latent_diffusion",
        settings=DIFFUSION_SETTINGS,
        defaults={
            "width": width * vae_factor,
            "height": height * vae_factor,
            "schedule": "default",
            **_drawing_defaults(unet, scheduler),
        },
        context=read_context(folder),
        size_multiple=vae_factor,  # the UNet pads what does not halve evenly
        max_size=max(2048, width * vae_factor, height * vae_factor),
        licence=folder_licence(folder),
        draws=f"what {name} was trained on",
        long_prompts=True,
    )


def read_single_file_spec(path: Path) -> Spec:
    """The Spec of a whole Stable Diffusion model in one safetensors file, from its header.

    Raises WeightsError for a pickle, for a damaged file, and for one of an unknown layout.
    """
    from pipelines.checkpoints import headers
    from pipelines.checkpoints import single_file as original_layout

    if path.suffix != ".safetensors":
        raise WeightsError(
            f"{path} is not a .safetensors file; others are pickles, which can run any code, and "
            "are not opened"
        )
    header = headers.read_header(path)
    layout = original_layout.identify(path, header)
    prediction_type = original_layout.prediction_type(header, headers.read_metadata(path))
    return replace(
        read_spec(layout.configs, name=path.stem),
        folder=path,
        layout=layout.configs,
        prediction_type=prediction_type,
    )


def _drawing_defaults(unet: Mapping[str, Any], scheduler: Mapping[str, Any]) -> dict[str, Any]:
    """Steps, guidance and sampler that suit a model, as far as its configs tell.

    A UNet that takes guidance as an embedding is a latent consistency model. One that predicts the
    noise and starts exactly at the last timestep ("trailing") was distilled to draw in few steps
    without guidance, as SD-Turbo and SDXL-Turbo were.
    """
    sampler = sampler_of_scheduler(str(scheduler.get("_class_name")))
    if unet.get("time_cond_proj_dim") is not None:
        return {"steps": 4, "guidance": 8.5, "sampler": "lcm"}
    is_trailing = scheduler.get("timestep_spacing") == "trailing"
    if is_trailing and scheduler.get("prediction_type", "epsilon") == "epsilon":
        return {"steps": 4, "guidance": 1.0, "sampler": "euler_a" if sampler is None else sampler}
    return {
        "steps": 30,
        "guidance": 5.0 if unet.get("addition_embed_type") == "text_time" else 7.5,
        "sampler": "dpmpp_2m" if sampler is None else sampler,
    }


def _downsampling(config: Mapping[str, Any]) -> int:
    """By how much a network of diffusers' blocks shrinks its input: every block but one halves."""
    return 2 ** (len(config.get("block_out_channels", ())) - 1)
