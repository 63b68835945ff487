"""What is known about each model before its weights are loaded. Importing this loads no torch."""

import hashlib
import json
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pipelines.public import PUBLIC
from pipelines.samplers import sampler_of_scheduler

DEFAULT_MODEL = "stickers"
CHECKPOINTS = Path(__file__).parent / "checkpoints"
HUB_NAME = re.compile(r"([\w.-]+/[\w.-]+)(?:@([\w./-]+))?")
PULLED = "pulled.json"  # beside fetched files: where they are from, and their hashes
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
ANY_SETTINGS = ("negative_prompt", "width", "height", "steps", "guidance")
SAMPLING_SETTINGS = ("guidance", "temperature", "token_top_k", "token_top_p")
IMAGE_PROMPT_SETTINGS = ("init_image", "keep_rows")
DALLE_SETTINGS = ("negative_prompt", *SAMPLING_SETTINGS, *IMAGE_PROMPT_SETTINGS)
# Keys that make a loader run code from the folder, or fetch code for it.
CODE_KEYS = frozenset(
    {
        "auto_map",
        "trust_remote_code",
        "custom_pipeline",
        "custom_pipelines",
        "_attn_implementation",
        "_attn_implementation_internal",
        "attn_implementation",
    }
)


# Licences, as the hub names them, that forbid commercial use.
NON_COMMERCIAL = frozenset(
    f"cc-by-{terms}-{version}"
    for terms in ("nc", "nc-sa", "nc-nd")
    for version in ("2.0", "3.0", "4.0")
) | {"flux-1-dev-non-commercial-license", "sai-nc-community"}


class WeightsError(Exception):
    """A model folder is missing, incomplete, malformed or does not fit together. One line."""


@dataclass(frozen=True)
class Lora:
    """A file of changes to a model's weights, and how strongly they are applied."""

    path: Path
    weight: float = 1.0


@dataclass(frozen=True)
class Additions:
    """Files that change a model while it loads."""

    loras: tuple[Lora, ...] = ()
    vae: Path | None = None  # in place of the model's own
    embeddings: tuple[Path, ...] = ()  # words learned by textual inversion

    @property
    def paths(self) -> tuple[Path, ...]:
        """All files, in the order in which they are applied."""
        vae = () if self.vae is None else (self.vae,)
        return (*(lora.path for lora in self.loras), *vae, *self.embeddings)

    @property
    def texts(self) -> dict[str, Any]:
        """The settings that name these files; `read_additions` reads them."""
        loras = ",".join(f"{lora.path}:{lora.weight:g}" for lora in self.loras)
        embeddings = ",".join(map(str, self.embeddings))
        return {
            "lora": loras if self.loras else None,
            "vae": None if self.vae is None else str(self.vae),
            "embedding": embeddings if self.embeddings else None,
        }


NONE_ADDED = Additions()


@dataclass(frozen=True)
class Spec:
    """Facts about one model: what it takes, what it does when it is not told, what it can draw.

    `defaults` hold the size of its pictures too, whether or not that is one of its settings.
    `context` counts text tokens with those that begin and end a prompt. Width and height are
    multiples of `size_multiple` from there to `max_size`, in pixels. `folder` holds the weights, or
    is a single file with all of them.
    """

    name: str
    folder: Path
    kind: str  # "latent_diffusion" | "dalle" | "diffusers", any other pipeline of that library
    settings: tuple[str, ...]
    defaults: Mapping[str, Any]
    context: int
    size_multiple: int
    max_size: int
    licence: str
    draws: str
    long_prompts: bool = False  # whether what is beyond the context is read in further chunks
    layout: Path | None = None  # where the configs of a single file are
    additions: Additions = NONE_ADDED
    prediction_type: str | None = None  # what a single file says instead of its layout's scheduler

    @property
    def configs(self) -> Path:
        """The diffusers folder with the JSON files that say how the networks are built."""
        return self.folder if self.layout is None else self.layout

    @property
    def address(self) -> str:
        """What `find` finds this model by: its name if that is known, else its folder, which may be
        called like a known model."""
        known = SPECS.get(self.name)
        if known is not None and known.folder == self.folder:
            return self.name
        return str(self.folder.resolve())

    @property
    def forbids_commerce(self) -> bool:
        """Whether the licence of the weights is known to forbid commercial use."""
        return self.licence.lower() in NON_COMMERCIAL

    @property
    def vocabulary(self) -> Path | None:
        """The list of words that the model was trained on, where the folder has one."""
        path = self.folder / "vocabulary.json"
        return path if path.is_file() else None


SPECS: Mapping[str, Spec] = {
    "stickers": Spec(
        name="stickers",
        folder=CHECKPOINTS / "stickers",
        kind="latent_diffusion",
        settings=DIFFUSION_SETTINGS,
        defaults={
            "width": 64,
            "height": 64,
            "steps": 20,
            "guidance": 3.0,
            "sampler": "dpmpp_2m",
            "schedule": "default",
        },
        context=32,
        size_multiple=8,
        max_size=256,
        licence="Apache-2.0; glyphs after Noto Color Emoji, OFL-1.1",
        draws="stickers: emoji things and plain shapes on coloured grounds, 64x64",
    ),
    "stickers-dalle": Spec(
        name="stickers-dalle",
        folder=CHECKPOINTS / "stickers-dalle",
        kind="dalle",
        settings=DALLE_SETTINGS,
        defaults={"width": 64, "height": 64, "guidance": 1.5, "temperature": 0.9},
        context=32,
        size_multiple=8,
        max_size=64,
        licence="Apache-2.0; glyphs after Noto Color Emoji, OFL-1.1",
        draws="the same stickers, image token by image token, 64x64",
    ),
}


def find(name_or_folder: str) -> Spec:
    """The Spec of a known model, of a folder or file, or of `org/name` in the local hub cache.

    `org/name@revision` is a branch, tag or commit of it.

    Raises WeightsError with the choices if there is no such thing, and with the reason if the
    folder is not a model that can be loaded. Never touches the network.
    """
    if name_or_folder in SPECS:
        return SPECS[name_or_folder]
    folder = Path(name_or_folder).expanduser()
    if folder.is_dir():
        return read_spec(folder, name=folder.resolve().name)
    if folder.is_file():
        return read_single_file_spec(folder)
    if HUB_NAME.fullmatch(name_or_folder):
        repository, revision = split_revision(name_or_folder)
        spec = read_spec(_cached_folder(repository, revision), name=name_or_folder)
        known = PUBLIC.get(repository)
        if known is None:
            return spec
        spec = replace(spec, draws=known.draws)
        if spec.kind == "diffusers":  # whose folders do not say how they are best drawn with
            spec = replace(spec, defaults=known.defaults)
        if known.licence is None or "licence" in read_pulled(spec.folder):
            return spec
        return replace(spec, licence=known.licence)
    raise WeightsError(
        f"no model {name_or_folder!r}: it is no folder or file, and the known models are "
        f"{', '.join(SPECS)}"
    )


def split_revision(name: str) -> tuple[str, str | None]:
    """`org/name@revision` as a repository of the hub and a branch, tag or commit of it.

    Raises WeightsError for what is no such name.
    """
    match = HUB_NAME.fullmatch(name)
    if match is None or ".." in name:
        raise WeightsError(f"{name!r} is no name on the hub: write org/name or org/name@revision")
    return match[1], match[2]


def read_additions(lora: str | None, vae: str | None, embedding: str | None) -> Additions:
    """The files that texts name, with commas between; a LoRA's weight follows a colon, or is 1.

    Raises ValueError for a weight that is no number, and WeightsError for a file that is not there.
    """
    return Additions(
        tuple(_read_lora(part) for part in _listed(lora)),
        None if vae is None else _existing(vae),
        tuple(_existing(part) for part in _listed(embedding)),
    )


def _listed(text: str | None) -> list[str]:
    return [] if text is None else [part.strip() for part in text.split(",") if part.strip()]


def _read_lora(text: str) -> Lora:
    path, colon, weight = text.rpartition(":")
    if not colon or Path(text).expanduser().exists():
        return Lora(_existing(text))
    try:
        return Lora(_existing(path), float(weight))
    except ValueError:
        raise ValueError(
            f"lora {text!r}: behind the colon must be a number, as in {path}:0.8"
        ) from None


def _existing(name: str) -> Path:
    path = Path(name).expanduser().resolve()
    if not path.exists():
        raise WeightsError(f"{path} does not exist")
    return path


def _cached_folder(repo_id: str, revision: str | None) -> Path:
    """The folder of a hub repository that was fetched before."""
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(repo_id, revision=revision, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError):
        named = repo_id if revision is None else f"{repo_id}@{revision}"
        raise WeightsError(
            f"{named} is no folder and is not in the hub cache {constants.HF_HUB_CACHE}; "
            f"fetch it with: generate --pull {named}"
        ) from None


def read_config(path: Path) -> dict[str, Any]:
    """The object in a JSON file of a model folder.

    Raises WeightsError if the file is missing, is not a JSON object, or asks to run code.
    """
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise WeightsError(
            f"{path} is missing: the model folder is not complete; copy or download it again"
        ) from None
    except (OSError, ValueError) as error:
        raise WeightsError(f"{path} cannot be read: {error}") from None
    if not isinstance(config, dict):
        raise WeightsError(f"{path} is not a JSON object")
    _refuse_code(config, path)
    return config


def _refuse_code(config: Mapping[str, Any], path: Path) -> None:
    for key, value in config.items():
        if key in CODE_KEYS and value not in (None, False):
            raise WeightsError(
                f"{path} sets {key!r}, which would run code that came with the weights; "
                "only plain diffusers and transformers models are loaded"
            )
        if isinstance(value, dict):
            _refuse_code(value, path)


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
DALLE_CLASS = "Dalle"


def text_components(folder: Path) -> tuple[str, ...]:
    """The text encoders of a latent diffusion folder, in the order in which the UNet takes them."""
    class_name = str(read_config(folder / "model_index.json").get("_class_name"))
    names = PIPELINE_CLASSES.get(class_name, COMPONENTS)
    return tuple(name for name in ("text_encoder", "text_encoder_2") if name in names)


def read_single_file_spec(path: Path) -> Spec:
    """The Spec of a whole Stable Diffusion model in one safetensors file, from its header.

    Raises WeightsError for a pickle, for a damaged file, and for one of an unknown layout.
    """
    from pipelines import headers, original_layout  # which use this module

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


def read_spec(folder: Path, name: str) -> Spec:
    """The Spec of a Stable Diffusion 1.x, 2.x or XL folder, or one of ours, from its JSON files.

    Raises WeightsError naming the missing part, or the class that is not supported.
    """
    index = read_config(folder / "model_index.json")
    class_name = index.get("_class_name")
    if class_name == DALLE_CLASS:
        return _read_dalle_spec(folder, name)
    if class_name not in PIPELINE_CLASSES:
        return _read_any_spec(folder, name, class_name)
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
        licence=_licence(folder),
        draws=f"what {name} was trained on",
        long_prompts=True,
    )


def _licence(folder: Path) -> str:
    """What the hub said when a folder was fetched."""
    unknown = "not known here; see where the folder came from"
    return str(read_pulled(folder).get("licence", unknown))


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


def _read_any_spec(folder: Path, name: str, class_name: object) -> Spec:
    """The Spec of a folder for another pipeline of diffusers, which knows its own defaults."""
    if not isinstance(class_name, str) or not class_name.endswith("Pipeline"):
        raise WeightsError(
            f"{folder} holds a {class_name}; what can be loaded are pipelines of diffusers, and "
            f"{DALLE_CLASS}"
        )
    return Spec(
        name=name,
        folder=folder,
        kind="diffusers",
        settings=ANY_SETTINGS,
        defaults={},
        context=0,
        size_multiple=16,
        max_size=4096,
        licence=_licence(folder),
        draws=f"what {name} was trained on",
    )


def _read_dalle_spec(folder: Path, name: str) -> Spec:
    """The Spec of a folder of the DALL·E path, from its JSON.

    What a converted checkpoint is drawn with where its authors advise it, its licence and what it
    draws are in model_index.json.
    """
    index = read_config(folder / "model_index.json")
    dvae = read_config(folder / "dvae" / "config.json")
    transformer = read_config(folder / "transformer" / "config.json")
    size, grid, context = dvae.get("size"), transformer.get("grid"), transformer.get("text_length")
    if transformer.get("cross_attention_width") is not None:
        context = read_config(folder / "text_encoder" / "config.json").get("length")
    if not (isinstance(size, int) and isinstance(grid, int) and isinstance(context, int)):
        raise WeightsError(
            f"{folder}: dvae says no size, transformer no grid or text_length, or text_encoder no "
            "length"
        )
    absent = set() if dvae.get("has_encoder", True) else set(IMAGE_PROMPT_SETTINGS)
    if transformer.get("null_prefix"):  # guidance compares with that
        absent.add("negative_prompt")
    return Spec(
        name=name,
        folder=folder,
        kind="dalle",
        settings=tuple(name for name in DALLE_SETTINGS if name not in absent),
        defaults={
            "width": size,
            "height": size,
            "guidance": 1.0,
            "temperature": 1.0,
            **_own_defaults(index, folder),
        },
        context=context,
        size_multiple=max(1, size // max(1, grid)),
        max_size=size,
        licence=str(index.get("licence", _licence(folder))),
        draws=str(index.get("draws", f"what {name} was trained on")),
    )


def _own_defaults(index: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """The sampling defaults in model_index.json. Raises WeightsError for what is none."""
    defaults = index.get("defaults", {})
    numbers = isinstance(defaults, dict) and all(
        name in SAMPLING_SETTINGS and isinstance(value, int | float)
        for name, value in defaults.items()
    )
    if not numbers:
        raise WeightsError(
            f"{folder}/model_index.json: defaults must be numbers of {', '.join(SAMPLING_SETTINGS)}"
        )
    return dict(defaults)


def read_context(folder: Path) -> int:
    """The longest prompt in tokens: what both the tokenizer and the text encoder take."""
    positions = read_config(folder / "text_encoder" / "config.json").get("max_position_embeddings")
    tokens = read_config(folder / "tokenizer" / "tokenizer_config.json").get("model_max_length")
    lengths = [length for length in (positions, tokens) if isinstance(length, (int, float))]
    return int(min(lengths, default=77))


def _downsampling(config: Mapping[str, Any]) -> int:
    """By how much a network of diffusers' blocks shrinks its input: every block but one halves."""
    return 2 ** (len(config.get("block_out_channels", ())) - 1)


def spec_hash(spec: Spec) -> str:
    """Ten hex digits that tell the weights of a model, with its additions, from all others."""
    own = files_hash(spec.folder)
    if spec.additions == NONE_ADDED:
        return own
    weights = [lora.weight for lora in spec.additions.loras]
    hashes = [files_hash(path) for path in spec.additions.paths]
    return hashlib.sha256(json.dumps([own, weights, hashes]).encode()).hexdigest()[:10]


def files_hash(folder: Path) -> str:
    """The first 10 hex digits of the SHA-256 over a folder's safetensors files and their names.

    Of a single file they are those of its own SHA-256, which other tools write into pictures too.
    It tells whether two pictures came from the same weights. Safety checkers do not count: they
    draw nothing. Raises WeightsError for a file that is not any more what was fetched.
    """
    if folder.is_file():
        with folder.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()[:10]
    paths = sorted(
        (path.relative_to(folder).as_posix(), path)
        for path in folder.rglob("*.safetensors")
        if "safety_checker" not in path.relative_to(folder).parts
    )
    fetched = read_pulled(folder).get("files", {})
    total = hashlib.sha256()
    for relative, path in paths:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        expected = fetched.get(relative, {}).get("sha256", digest)
        if digest != expected:
            raise WeightsError(
                f"{path} is damaged: its sha256 is {digest}, that of what was fetched was "
                f"{expected}; fetch it again with generate --pull"
            )
        total.update(f"{relative} {digest}\n".encode())
    return total.hexdigest()[:10]


def warn_of_licence(spec: Spec) -> None:
    """Say, while a model is loaded, that its licence forbids commercial use."""
    if spec.forbids_commerce:
        warnings.warn(
            f"the licence of {spec.name}, {spec.licence}, forbids commercial use", stacklevel=3
        )


def in_hub_cache(repository: str) -> bool:
    """Whether a repository was fetched, all of it: only then is its branch noted."""
    folder = hub_folder(repository)
    try:
        commit = (folder / "refs" / "main").read_text(encoding="utf-8").strip()
    except OSError:
        return False
    return bool(commit) and (folder / "snapshots" / commit).is_dir()


def hub_folder(repository: str) -> Path:
    """Where the hub's cache keeps a repository, if it does."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE) / f"models--{repository.replace('/', '--')}"


def read_pulled(folder: Path) -> dict[str, Any]:
    """What `generate --pull` recorded of the files in a folder; {} if they are from elsewhere."""
    path = folder / PULLED
    return read_config(path) if path.is_file() else {}
