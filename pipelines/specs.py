"""What is known about each model before its weights are loaded. Importing this loads no torch."""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.samplers import sampler_of_scheduler

DEFAULT_MODEL = "stickers"
CHECKPOINTS = Path(__file__).parent / "checkpoints"
DIFFUSION_SETTINGS = (
    "negative_prompt",
    "width",
    "height",
    "steps",
    "guidance",
    "sampler",
    "schedule",
)
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


class WeightsError(Exception):
    """A model folder is missing, incomplete, malformed or does not fit together. One line."""


@dataclass(frozen=True)
class Spec:
    """Facts about one model: what it takes, what it does when it is not told, what it can draw.

    `defaults` hold the size of its pictures too, whether or not that is one of its settings.
    `context` counts text tokens with those that begin and end a prompt. Width and height are
    multiples of `size_multiple` from there to `max_size`, in pixels.
    """

    name: str
    folder: Path
    kind: str  # "latent_diffusion" | "dalle"
    settings: tuple[str, ...]
    defaults: Mapping[str, Any]
    context: int
    size_multiple: int
    max_size: int
    licence: str
    draws: str

    @property
    def address(self) -> str:
        """What `find` finds this model by: its name if that is known, else its folder, which may be
        called like a known model."""
        known = SPECS.get(self.name)
        if known is not None and known.folder == self.folder:
            return self.name
        return str(self.folder.resolve())

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
        defaults={"width": 64, "height": 64, "guidance": 2.0, "temperature": 1.0},
        context=32,
        size_multiple=8,
        max_size=64,
        licence="Apache-2.0; glyphs after Noto Color Emoji, OFL-1.1",
        draws="the same stickers, image token by image token, 64x64",
    ),
}


def find(name_or_folder: str) -> Spec:
    """The Spec of a known model, of a folder on disk, or of `org/name` in the local hub cache.

    Raises WeightsError with the choices if there is no such thing, and with the reason if the
    folder is not a model that can be loaded. Never touches the network.
    """
    if name_or_folder in SPECS:
        return SPECS[name_or_folder]
    folder = Path(name_or_folder).expanduser()
    if folder.is_dir():
        return read_spec(folder, name=folder.resolve().name)
    if re.fullmatch(r"[\w.-]+/[\w.-]+", name_or_folder):
        return read_spec(_cached_folder(name_or_folder), name=name_or_folder)
    raise WeightsError(
        f"no model {name_or_folder!r}: it is no folder, and the known models are {', '.join(SPECS)}"
    )


def _cached_folder(repo_id: str) -> Path:
    """The folder of a hub repository that was fetched before."""
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(repo_id, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError):
        raise WeightsError(
            f"{repo_id} is no folder and is not in the hub cache {constants.HF_HUB_CACHE}; "
            f"fetch it with: hf download {repo_id}"
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
PIPELINE_CLASSES = ("StableDiffusionPipeline", "LatentConsistencyModelPipeline")
DALLE_CLASS = "Dalle"


def read_spec(folder: Path, name: str) -> Spec:
    """The Spec of a Stable Diffusion 1.x or 2.x diffusers folder, or one of ours, from its JSON.

    Raises WeightsError naming the missing part, or the class that is not supported.
    """
    index = read_config(folder / "model_index.json")
    if index.get("_class_name") == DALLE_CLASS:
        return _read_dalle_spec(folder, name)
    if index.get("_class_name") not in PIPELINE_CLASSES:
        raise WeightsError(
            f"{folder} holds a {index.get('_class_name')}; "
            f"what can be loaded is {', '.join((*PIPELINE_CLASSES, DALLE_CLASS))}"
        )
    for part, classes in COMPONENTS.items():
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
    sampler = sampler_of_scheduler(str(scheduler.get("_class_name")))
    return Spec(
        name=name,
        folder=folder,
        kind="latent_diffusion",
        settings=DIFFUSION_SETTINGS,
        defaults={
            "width": width * vae_factor,
            "height": height * vae_factor,
            "steps": 30,
            "guidance": 7.5,
            "sampler": "dpmpp_2m" if sampler is None else sampler,
            "schedule": "default",
        },
        context=read_context(folder),
        size_multiple=vae_factor,  # the UNet pads what does not halve evenly
        max_size=max(2048, width * vae_factor, height * vae_factor),
        licence="not known here; see where the folder came from",
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
    encodes = dvae.get("has_encoder", True)
    settings = tuple(s for s in DALLE_SETTINGS if encodes or s not in IMAGE_PROMPT_SETTINGS)
    return Spec(
        name=name,
        folder=folder,
        kind="dalle",
        settings=settings,
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
        licence=str(index.get("licence", "not known here; see where the folder came from")),
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


def files_hash(folder: Path) -> str:
    """The first 10 hex digits of the SHA-256 over a folder's safetensors files and their names.

    It tells whether two pictures came from the same weights. Safety checkers do not count: they
    draw nothing.
    """
    paths = sorted(
        (path.relative_to(folder).as_posix(), path)
        for path in folder.rglob("*.safetensors")
        if "safety_checker" not in path.relative_to(folder).parts
    )
    total = hashlib.sha256()
    for relative, path in paths:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        total.update(f"{relative} {digest}\n".encode())
    return total.hexdigest()[:10]
