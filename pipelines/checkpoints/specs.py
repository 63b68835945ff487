"""The facts about each model that are known before its weights are loaded. Loads no torch."""

import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pipelines.checkpoints.configs import read_config, read_pulled
from pipelines.checkpoints.errors import WeightsError

CHECKPOINTS = Path(__file__).parent
# What ships with Salon; the first is what draws if no model is named.
SHIPPED = {name: CHECKPOINTS / name for name in ("stickers", "stickers-dalle")}


HUB_NAME = re.compile(r"([\w.-]+/[\w.-]+)(?:@([\w./-]+))?")


# Licences, as the hub names them, that forbid commercial use.
NON_COMMERCIAL = frozenset(
    f"cc-by-{terms}-{version}"
    for terms in ("nc", "nc-sa", "nc-nd")
    for version in ("2.0", "3.0", "4.0")
) | {"flux-1-dev-non-commercial-license", "sai-nc-community"}


Kind = Literal["latent_diffusion", "dalle", "diffusers"]


@dataclass(frozen=True)
class Lora:
    """A file of changes to a model's weights, and how strongly they are applied."""

    path: Path
    weight: float = 1.0


@dataclass(frozen=True)
class Adapters:
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
        """The settings that name these files; `read_adapters` reads them."""
        loras = ",".join(f"{lora.path}:{lora.weight:g}" for lora in self.loras)
        embeddings = ",".join(map(str, self.embeddings))
        return {
            "lora": loras if self.loras else None,
            "vae": None if self.vae is None else str(self.vae),
            "embedding": embeddings if self.embeddings else None,
        }


NO_ADAPTERS = Adapters()


@dataclass(frozen=True)
class Spec:
    """Facts about one model: its settings, their defaults, and what it can draw.

    `defaults` hold the size of its images too, whether or not that is one of its settings.
    `context` counts text tokens with those that begin and end a prompt. Width and height are
    multiples of `size_multiple` from there to `max_size`, in pixels. `folder` holds the weights, or
    is a single file with all of them.
    """

    name: str
    folder: Path
    kind: Kind  # of family; "diffusers" is any other pipeline of that library
    settings: tuple[str, ...]
    defaults: Mapping[str, Any]
    context: int
    size_multiple: int
    max_size: int
    licence: str
    draws: str
    long_prompts: bool = False  # whether what is beyond the context is read in further chunks
    layout: Path | None = None  # where the configs of a single file are
    adapters: Adapters = NO_ADAPTERS
    # What a single file says instead of its layout's scheduler.
    scheduler: Mapping[str, Any] = field(default_factory=dict)
    inpaints: bool = False  # whether the UNet also reads a mask and the image around it

    @property
    def configs(self) -> Path:
        """The diffusers folder with the JSON files that say how the networks are built."""
        return self.folder if self.layout is None else self.layout

    @property
    def address(self) -> str:
        """What `find` finds this model by: its name if that is known, else its folder, which may be
        called like a known model."""
        if SHIPPED.get(self.name) == self.folder:
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


def split_revision(name: str) -> tuple[str, str | None]:
    """Split `org/name@revision` into a repository of the hub and a branch, tag or commit.

    Raises WeightsError for what is no such name.
    """
    match = HUB_NAME.fullmatch(name)
    if match is None or ".." in name:
        raise WeightsError(f"{name!r} is no name on the hub: write org/name or org/name@revision")
    return match[1], match[2]


def read_adapters(lora: str | None, vae: str | None, embedding: str | None) -> Adapters:
    """Parse the files of comma-separated texts; a LoRA's weight follows a colon and is 1 by
    default.

    Raises ValueError for a weight that is no number, and WeightsError for a file that is not there.
    """
    return Adapters(
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


def folder_licence(folder: Path) -> str:
    """Return the licence that the hub stated when a folder was fetched."""
    unknown = "not known here; see where the folder came from"
    return str(read_pulled(folder).get("licence", unknown))


def read_context(folder: Path) -> int:
    """Read the longest prompt in tokens that both the tokenizer and the text encoder accept."""
    positions = read_config(folder / "text_encoder" / "config.json").get("max_position_embeddings")
    tokens = read_config(folder / "tokenizer" / "tokenizer_config.json").get("model_max_length")
    lengths = [length for length in (positions, tokens) if isinstance(length, (int, float))]
    return int(min(lengths, default=77))


def warn_of_licence(spec: Spec) -> None:
    """Warn, when a model is loaded, that its licence forbids commercial use."""
    if spec.forbids_commerce:
        warnings.warn(
            f"the licence of {spec.name}, {spec.licence}, forbids commercial use", stacklevel=3
        )


def hub_folder(repository: str) -> Path:
    """Return the folder of a repository in the hub's cache, if it is there."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE) / f"models--{repository.replace('/', '--')}"
