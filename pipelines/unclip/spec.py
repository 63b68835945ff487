"""The Spec of a model that draws from image embeddings, read from its files without torch."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Gt, Len, Lt
from typing_extensions import TypedDict

from pipelines.checkpoints.configs import read_config
from pipelines.checkpoints.errors import WeightsError
from pipelines.checkpoints.headers import Tensor, read_headers, weights_files
from pipelines.checkpoints.memory import Header, weights_in
from pipelines.checkpoints.places import Place, class_of, shared_parts, with_facts
from pipelines.checkpoints.specs import Spec, folder_licence
from pipelines.settings import settings_of
from pipelines.unclip.settings import ImagePromptSettings, UnclipSettings

SETTINGS = tuple(settings_of(UnclipSettings))
_OF_IMAGES = frozenset(settings_of(ImagePromptSettings))
OWN_CLASS = "Unclip"
# How the keys of each tower begin in a file that has both.
WHOLE_CLIP = {
    "text_encoder": ("text_model.", "text_projection."),
    "image_encoder": ("vision_model.", "visual_projection."),
}
CONTEXT = 77  # of all public models

# Where the parts of a model are, by what they are for: the folders that each layout has.
_TEXT = {"tokenizer": "tokenizer", "text_encoder": "text_encoder"}
_IMAGES = {"image_encoder": "image_encoder", "image_processor": "image_processor"}
_OLD_IMAGES = {"image_encoder": "image_encoder", "image_processor": "feature_extractor"}
_PRIOR = {"prior": "prior", "prior_scheduler": "prior_scheduler"}
_CLIP = dict.fromkeys(("tokenizer", *WHOLE_CLIP, "image_processor"), "clip")
_KARLO = {
    **_TEXT,
    "text_proj": "text_proj",
    "unet": "decoder",
    "scheduler": "decoder_scheduler",
    "super_res_first": "super_res_first",
    "super_res_last": "super_res_last",
    "super_res_scheduler": "super_res_scheduler",
}
_STABLE = {
    "image_normalizer": "image_normalizer",
    "image_noising_scheduler": "image_noising_scheduler",
    "decoder_tokenizer": "tokenizer",
    "decoder_text_encoder": "text_encoder",
    "unet": "unet",
    "scheduler": "scheduler",
    "vae": "vae",
}
_KANDINSKY = {"unet": "unet", "scheduler": "scheduler", "vae": "movq"}
_KANDINSKY_PRIOR = {"prior": "prior", "prior_scheduler": "scheduler", **_TEXT, **_IMAGES}


@dataclass(frozen=True)
class Layout:
    """How a kind of folder is laid out, and what its authors draw with.

    `parts` says for each part what its subfolder is called. Without a prior of its own, a model
    takes that of another folder.
    """

    parts: Mapping[str, str]
    defaults: Mapping[str, Any] = field(default_factory=dict)
    size_multiple: int = 8
    absent: frozenset[str] = frozenset()  # settings


_FIXED_SIZE = frozenset({"width", "height"})
_TOGETHER = frozenset({"image_guidance"})  # what cannot draw by text alone follows both at once
_KARLO_DEFAULTS = {"steps": 25, "guidance": 8.0}
_STABLE_DEFAULTS = {"steps": 20, "guidance": 10.0}
_KANDINSKY_DEFAULTS = {"steps": 100, "guidance": 4.0, "width": 512, "height": 512}
_TEXT_DEFAULTS = {
    "prior_steps": 25,
    "prior_guidance": 4.0,
    "prior_draws": 1,
    "decoder_text": True,
}
LAYOUTS: Mapping[str, Layout] = {
    OWN_CLASS: Layout(
        {
            **_CLIP,
            **_PRIOR,
            "image_tokens": "image_tokens",
            "decoder_tokenizer": "tokenizer",
            "decoder_text_encoder": "text_encoder",
            "unet": "unet",
            "scheduler": "scheduler",
            "vae": "vae",
        },
        {"steps": 20, "guidance": 3.0, "image_guidance": 1.0, "prior_draws": 2},  # article, §2.2
        absent=frozenset({"prior"}),
    ),
    "UnCLIPPipeline": Layout(
        {**_KARLO, **_PRIOR},
        _KARLO_DEFAULTS,
        absent=_TOGETHER | _FIXED_SIZE | _OF_IMAGES | {"prior"},
    ),
    "UnCLIPImageVariationPipeline": Layout(
        {**_KARLO, **_OLD_IMAGES}, _KARLO_DEFAULTS, absent=_TOGETHER | _FIXED_SIZE
    ),
    "KandinskyPipeline": Layout(
        {
            **_KANDINSKY,
            "decoder_tokenizer": "tokenizer",
            "decoder_text_encoder": "text_encoder",
        },
        _KANDINSKY_DEFAULTS,
        size_multiple=64,
        absent=_TOGETHER,
    ),
    "KandinskyV22Pipeline": Layout(
        _KANDINSKY, _KANDINSKY_DEFAULTS, size_multiple=64, absent=_TOGETHER | {"decoder_text"}
    ),
    "StableUnCLIPPipeline": Layout(
        {
            **_STABLE,
            **_PRIOR,
            "tokenizer": "prior_tokenizer",
            "text_encoder": "prior_text_encoder",
        },
        _STABLE_DEFAULTS,
        absent=_TOGETHER | _OF_IMAGES | {"prior"},
    ),
    "StableUnCLIPImg2ImgPipeline": Layout(
        {**_STABLE, **_OLD_IMAGES}, _STABLE_DEFAULTS, absent=_TOGETHER
    ),
}
# What the prior of a model without one is taken from.
PRIOR_LAYOUTS: Mapping[str, Mapping[str, str]] = {
    "KandinskyPriorPipeline": _KANDINSKY_PRIOR,
    "KandinskyV22PriorPipeline": _KANDINSKY_PRIOR,
    "UnCLIPPipeline": {**_TEXT, **_PRIOR},
    OWN_CLASS: {**_CLIP, **_PRIOR},
}
# How often a scheduler has the UNet evaluated beside once a step; others are not drawn with.
SCHEDULERS: Mapping[str, int] = {
    "UnCLIPScheduler": 0,
    "DDPMScheduler": 0,
    "DDIMScheduler": 0,
    "DPMSolverMultistepScheduler": 0,
    "EulerDiscreteScheduler": 0,
    "EulerAncestralDiscreteScheduler": 0,
    "PNDMScheduler": 1,
}
STOCHASTIC = frozenset({"UnCLIPScheduler", "DDPMScheduler", "EulerAncestralDiscreteScheduler"})
SUPER_RES_STEPS = 7
INVERTIBLE = "DDIMScheduler"  # which an image can be led back through
_CONFIGURED = ("tokenizer", "scheduler", "processor")  # what parts without weights end with
_OF_TRANSFORMERS = ("text_encoder", "image_encoder")


Pixels = Annotated[int, Gt(0), Lt(10_000)]


class UnetConfig(TypedDict, total=False):
    """What the facts are read from, in config.json of a decoder."""

    sample_size: Pixels | None


class VaeConfig(TypedDict, total=False):
    """And in that of a VAE or MoVQ."""

    block_out_channels: Annotated[list[int], Len(1, 16)]


class SchedulerConfig(TypedDict, total=False):
    """And in scheduler_config.json."""

    _class_name: str


def read_spec(place: Place) -> Spec:
    """Return the Spec of a folder in one of `LAYOUTS`. Raises WeightsError for what is missing."""
    folder = place.path
    layout = LAYOUTS[class_of(folder)]
    places = own_places(folder)
    for part, path in places.items():
        if not path.is_dir():
            raise WeightsError(
                f"{folder} has no {layout.parts[part]}/: the model folder is not complete; copy or "
                "download it again"
            )
    check_scheduler(places["scheduler"])
    spec = Spec(
        name=place.name,
        folder=folder,
        kind="unclip",
        settings=tuple(name for name in SETTINGS if name not in layout.absent),
        defaults={**_TEXT_DEFAULTS, **_sizes(places, layout), **layout.defaults},
        context=read_context(places),
        size_multiple=layout.size_multiple,
        max_size=4096,
        licence=folder_licence(folder),
        draws=f"what {place.name} was trained on",
        lacks_prior="prior" not in layout.parts and inner_prior(folder) is None,
    )
    return with_facts(spec, place)


def own_places(folder: Path) -> dict[str, Path]:
    """Return the folders of a model's own parts; some may be shared with a model beside it."""
    shared = shared_parts(folder)
    parts = LAYOUTS[class_of(folder)].parts
    return {part: shared.get(name, folder / name) for part, name in parts.items()}


def all_places(spec: Spec) -> dict[str, Path]:
    """Return the folders of all parts, those of a prior elsewhere included.

    Raises WeightsError for a prior that is none.
    """
    places = own_places(spec.folder)
    if "prior" in places:
        return places
    folder = spec.adapters.prior or inner_prior(spec.folder)
    if folder is None:
        return places
    kind = class_of(folder)
    if kind not in PRIOR_LAYOUTS:
        raise WeightsError(
            f"{folder} holds a {kind}, which has no prior; those of {', '.join(PRIOR_LAYOUTS)} have"
        )
    shared = shared_parts(folder)
    others = {part: shared.get(name, folder / name) for part, name in PRIOR_LAYOUTS[kind].items()}
    return others | places


def inner_prior(folder: Path) -> Path | None:
    """Return the folder of a prior that lies in that of a model without one."""
    inside = folder / "prior"
    return inside if (inside / "model_index.json").is_file() else None


def check_scheduler(folder: Path) -> str:
    """Return the class of a scheduler. Raises WeightsError for one that is not drawn with."""
    config = read_config(folder / "scheduler_config.json", SchedulerConfig)
    name = config.get("_class_name")
    if name not in SCHEDULERS:
        raise WeightsError(
            f"{folder} is a {name}; what is drawn with are {', '.join(sorted(SCHEDULERS))}"
        )
    return str(name)


def read_context(places: Mapping[str, Path]) -> int:
    """Read how many tokens of a prompt are read."""
    folder = places.get("tokenizer", places.get("decoder_tokenizer"))
    if folder is None or not (folder / "tokenizer_config.json").is_file():
        return CONTEXT
    length = read_config(folder / "tokenizer_config.json").get("model_max_length")
    return length if isinstance(length, int) and 2 < length <= CONTEXT else CONTEXT


def evaluations(spec: Spec, settings: Mapping[str, Any]) -> tuple[int, int, bool]:
    """Return how often networks are evaluated for an image, and whether the decoder draws noise.

    That is before its decoding, and in all.
    """
    places = own_places(spec.folder)
    scheduler = check_scheduler(places["scheduler"])
    before = int(settings["prior_steps"])
    if settings.get("image_prompt") is not None:
        before = 0 if settings.get("toward") is None else int(settings["steps"]) - 1
    enlarging = SUPER_RES_STEPS if "super_res_first" in places else 0
    decoding = int(settings["steps"]) + SCHEDULERS[scheduler]
    if settings.get("toward") is not None:
        scheduler, decoding = INVERTIBLE, int(settings["steps"])
    return before, before + decoding + enlarging, scheduler in STOCHASTIC


def _sizes(places: Mapping[str, Path], layout: Layout) -> dict[str, int]:
    """Return the size of images as the networks' configs say it."""
    last = places.get("super_res_last", places["unet"])
    config = read_config(last / "config.json", UnetConfig)
    side = config.get("sample_size")
    if side is None:
        return {}
    if "vae" in places:
        channels = read_config(places["vae"] / "config.json", VaeConfig).get("block_out_channels")
        side *= 2 ** (len(channels or [0]) - 1)
    return {"width": side, "height": side}


def tensors(spec: Spec) -> dict[str, Header]:
    """Return what the files say of each part's weights."""
    headers: dict[str, Header] = {}
    for part, path in all_places(spec).items():
        if not part.endswith(_CONFIGURED):
            headers[part] = weights_in(header_of(part, path)[1])
    return headers


def header_of(part: str, folder: Path) -> tuple[list[Path], dict[str, Tensor]]:
    """Return the files with the weights of a part, and what they say of them.

    Where the folder holds a whole CLIP, that is one of its towers.
    """
    stem = "model" if part.endswith(_OF_TRANSFORMERS) else "diffusion_pytorch_model"
    files = weights_files(folder, stem, stem)
    header = read_headers(files)
    if part in WHOLE_CLIP and is_clip(read_config(folder / "config.json")):
        own = WHOLE_CLIP[part]
        header = {key: tensor for key, tensor in header.items() if key.startswith(own)}
    return files, header


def is_clip(config: Mapping[str, Any]) -> bool:
    """Whether a config.json is that of both towers together."""
    return config.get("model_type") == "clip"
