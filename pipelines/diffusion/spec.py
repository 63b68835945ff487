"""The Spec of a latent diffusion model, read from its files without torch."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Gt, Len, Lt
from typing_extensions import TypedDict

from pipelines.checkpoints import headers, single_file
from pipelines.checkpoints.configs import read_config
from pipelines.checkpoints.errors import WeightsError
from pipelines.checkpoints.places import Place, class_of, with_facts
from pipelines.checkpoints.single_file import LATENT_CHANNELS
from pipelines.checkpoints.specs import Spec, folder_licence, own_adapters, read_context
from pipelines.diffusion.samplers import sampler_of_scheduler
from pipelines.diffusion.settings import DiffusionSettings
from pipelines.settings import settings_of

DIFFUSION_SETTINGS = tuple(settings_of(DiffusionSettings))


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


# Folders that were saved to change images hold the same networks.
PIPELINE_CLASSES = {
    "StableDiffusionPipeline": COMPONENTS,
    "StableDiffusionImg2ImgPipeline": COMPONENTS,
    "StableDiffusionInpaintPipeline": COMPONENTS,
    "LatentConsistencyModelPipeline": COMPONENTS,
    "LatentConsistencyModelImg2ImgPipeline": COMPONENTS,
    "StableDiffusionXLPipeline": TWO_TEXT_COMPONENTS,
    "StableDiffusionXLImg2ImgPipeline": TWO_TEXT_COMPONENTS,
    "StableDiffusionXLInpaintPipeline": TWO_TEXT_COMPONENTS,
}


Pixels = Annotated[int, Gt(0), Lt(10_000)]


class UnetConfig(TypedDict, total=False):
    """What the facts are read from, in config.json of a UNet."""

    in_channels: int
    sample_size: Pixels | Annotated[list[Pixels], Len(2, 2)] | None
    time_cond_proj_dim: int | None
    addition_embed_type: str | None


class VaeConfig(TypedDict, total=False):
    """And in that of a VAE."""

    block_out_channels: Annotated[list[int], Len(1, 16)]
    latent_channels: int
    force_upcast: bool


class SchedulerConfig(TypedDict, total=False):
    """And in scheduler_config.json."""

    _class_name: str
    beta_start: float
    prediction_type: str
    timestep_spacing: str


def text_components(folder: Path) -> tuple[str, ...]:
    """Return the text encoders of a latent diffusion folder, in the order in which the UNet takes
    them."""
    names = PIPELINE_CLASSES.get(class_of(folder), COMPONENTS)
    return tuple(name for name in ("text_encoder", "text_encoder_2") if name in names)


def needs_float32(unet: Mapping[str, Any], vae: Mapping[str, Any]) -> bool:
    """Return whether a VAE leaves the range of float16, as SDXL's own does and says."""
    return unet.get("addition_embed_type") == "text_time" and bool(vae.get("force_upcast"))


def read_spec(place: Place) -> Spec:
    """Return the Spec of Stable Diffusion 1.x, 2.x or XL in a folder or a single file.

    It is read from the JSON files of a folder, from the header of a safetensors file. Raises
    WeightsError for another kind of model, naming what is missing or wrong, and for a pickle.
    """
    if place.path.is_file():
        return _read_single_file_spec(place)
    return _read_folder_spec(place, {})


def _read_folder_spec(place: Place, said: Mapping[str, Any]) -> Spec:
    """Return the Spec of a diffusers folder; `said` is added to its scheduler's config."""
    folder = place.path
    _check_parts(folder)
    unet = read_config(folder / "unet" / "config.json", UnetConfig)
    scheduler = read_config(folder / "scheduler" / "scheduler_config.json", SchedulerConfig)
    scheduler |= said
    vae = read_config(folder / "vae" / "config.json", VaeConfig)
    vae_factor = _downsampling(vae)
    sample_size = unet.get("sample_size")
    height, width = sample_size if isinstance(sample_size, list) else (sample_size, sample_size)
    if not (isinstance(height, int) and isinstance(width, int)):
        raise WeightsError(f"{folder}/unet/config.json says no sample_size")
    if "beta_start" not in scheduler:
        raise WeightsError(
            f"{folder}/scheduler is a {scheduler.get('_class_name')} without betas; what can be "
            "drawn with are the noise schedules of Stable Diffusion"
        )
    spec = Spec(
        name=place.name,
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
        draws=f"what {place.name} was trained on",
        adapters=own_adapters(folder),
        long_prompts=True,
        inpaints=unet.get("in_channels") == inpainting_channels(vae.get("latent_channels")),
    )
    return with_facts(spec, place)


def _check_parts(folder: Path) -> None:
    """Raise WeightsError unless a folder holds all parts of a model, of classes that we run."""
    index = read_config(folder / "model_index.json")
    class_name = class_of(folder)
    if class_name not in PIPELINE_CLASSES:
        raise WeightsError(f"{folder} holds no latent_diffusion model, but a {class_name}")
    if index.get("requires_aesthetics_score"):
        raise WeightsError(
            f"{folder} is the refiner of SDXL, which changes finished images: give the base model"
        )
    for part, classes in PIPELINE_CLASSES[class_name].items():
        entry = index.get(part)
        saved = entry[-1] if isinstance(entry, list) and entry else entry
        if saved not in classes:
            raise WeightsError(f"{folder}: {part} is a {saved}; it must be a {classes[0]}")
        if not (folder / part).is_dir():
            raise WeightsError(
                f"{folder} has no {part}/ (a {classes[0]}): the model folder is not complete; "
                "copy or download it again"
            )


def inpainting_channels(latent: object) -> int | None:
    """Return how many channels a UNet reads that repaints: the latent's, the mask, and the latent
    of the image around it."""
    return 2 * latent + 1 if isinstance(latent, int) else None


def _read_single_file_spec(place: Place) -> Spec:
    path = place.path
    headers.check_suffix(path)
    header = headers.read_header(path)
    layout = single_file.identify(path, header)
    said = {**layout.scheduler, **single_file.scheduler(header, headers.read_metadata(path))}
    return replace(
        _read_folder_spec(Place(place.name, layout.configs), said),
        folder=path,
        layout=layout.configs,
        scheduler=said,
        inpaints=single_file.unet_channels(header) == inpainting_channels(LATENT_CHANNELS),
    )


def _drawing_defaults(unet: Mapping[str, Any], scheduler: Mapping[str, Any]) -> dict[str, Any]:
    """Choose the steps, guidance and sampler that suit a model, as far as its configs tell.

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
    """Return by how much a network of diffusers' blocks shrinks its input: every block but one
    halves."""
    return 2 ** (len(config.get("block_out_channels", ())) - 1)
