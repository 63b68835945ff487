"""The facts about each model that are known before its weights are loaded. Loads no torch."""

import math
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from pipelines.checkpoints import lora_folder
from pipelines.checkpoints.configs import read_config, read_pulled
from pipelines.checkpoints.errors import WeightsError
from pipelines.checkpoints.headers import check_suffix

CHECKPOINTS = Path(__file__).parent
# What ships with Salon; the first is what draws if no model is named.
SHIPPED = {name: CHECKPOINTS / name for name in ("stickers", "stickers-dalle", "stickers-unclip")}


HUB_NAME = re.compile(r"([\w.-]+/[\w.-]+)(?:@([\w./-]+))?")


NO_FILES: Mapping[str, Path] = MappingProxyType({})
MAX_NAMES = 100  # of files or models, in one setting
MAX_COMMAS = 8  # in the name of a file
MAX_PATH = 4096  # bytes, as Linux has it


# Licences, as the hub names them, that forbid commercial use.
NON_COMMERCIAL = frozenset(
    f"cc-by-{terms}-{version}"
    for terms in ("nc", "nc-sa", "nc-nd")
    for version in ("2.0", "3.0", "4.0")
) | {"flux-1-dev-non-commercial-license", "sai-nc-community"}

OWN_WORDS = "embeddings"  # the folder in a model's for words learned by textual inversion

Kind = Literal["latent_diffusion", "dalle", "unclip", "diffusers"]


@dataclass(frozen=True)
class Lora:
    """A file of changes to a model's weights, and how strongly they are applied."""

    path: Path
    weight: float = 1.0
    name: str | None = None  # what it is called in a folder of such files, where it was found


@dataclass(frozen=True)
class Adapters:
    """Files that change a model while it loads."""

    loras: tuple[Lora, ...] = ()
    vae: Path | None = None  # in place of the model's own
    embeddings: tuple[Path, ...] = ()  # words learned by textual inversion
    prior: Path | None = None  # the folder of one, for a model without

    @property
    def paths(self) -> tuple[Path, ...]:
        """All files, in the order in which they are applied."""
        others = [path for path in (self.vae, *self.embeddings, self.prior) if path is not None]
        return (*(lora.path for lora in self.loras), *others)

    @property
    def texts(self) -> dict[str, Any]:
        """The settings that name these files; `read_adapters` reads them."""
        loras = ",".join(
            f"{lora.path if lora.name is None else lora.name}:{lora.weight:g}"
            for lora in self.loras
        )
        embeddings = ",".join(map(str, self.embeddings))
        return {
            "lora": loras if self.loras else None,
            "vae": None if self.vae is None else str(self.vae),
            "embedding": embeddings if self.embeddings else None,
            "prior": None if self.prior is None else str(self.prior),
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
    upsampler: Path | None = None  # the folder of what enlarges its images, unless that is unasked
    shared: Mapping[str, Path] = field(default_factory=dict)  # parts that are not in its own folder
    mask_defaults: Mapping[str, Any] = field(default_factory=dict)  # of settings under a mask
    lacks_prior: bool = False  # so that a text alone is not enough: see `Adapters.prior`

    def part(self, name: str) -> Path:
        """Return the folder of one part, which another model may have, too."""
        return self.shared.get(name, self.folder / name)

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


def read_adapters(
    lora: str | None = None,
    vae: str | None = None,
    embedding: str | None = None,
    prior: str | None = None,
    known_loras: Mapping[str, Path] = NO_FILES,
) -> Adapters:
    """Parse the files of comma-separated texts; a LoRA's weight follows a colon and is 1 by
    default.

    A folder stands for the one file of weights in it, but for a VAE's. A LoRA may be called by its
    name in `known_loras`. Raises ValueError for a weight that is no finite number, and WeightsError
    for a file that is not there.
    """
    return Adapters(
        tuple(_read_lora(part, known_loras) for part in split_names(lora or "")),
        None if vae is None else _existing(vae),
        tuple(_file_of(part) for part in split_names(embedding or "")),
        None if prior is None else _existing(prior),
    )


def own_adapters(folder: Path) -> Adapters:
    """Return the files that a model's folder has for its model: learned words, in `embeddings`."""
    return Adapters(embeddings=tuple(sorted((folder / OWN_WORDS).glob("*.safetensors"))))


def with_adapters(spec: Spec, adapters: Adapters) -> Spec:
    """Return the Spec with those of the adapters that its model takes, beside its own words."""
    names = {"loras": "lora", "vae": "vae", "embeddings": "embedding", "prior": "prior"}
    left_out = {name for name, setting in names.items() if setting not in spec.settings}
    kept = {name: getattr(adapters, name) for name in names if name not in left_out}
    words = dict.fromkeys((*spec.adapters.embeddings, *kept.pop("embeddings", ())))
    made = Adapters(**kept, embeddings=tuple(words))
    return spec if made == spec.adapters else replace(spec, adapters=made)


def split_names(text: str) -> list[str]:
    """Split a comma-separated list of files and models; a name of something there may itself hold
    commas. Raises ValueError for a list that is too long."""
    parts = text.split(",")
    if len(parts) > MAX_NAMES:
        raise ValueError(f"{len(parts)} names of files or models: at most {MAX_NAMES} at once")
    names: list[str] = []
    while parts:
        most = min(len(parts), MAX_COMMAS)
        joined = (",".join(parts[:count]).strip() for count in range(most, 1, -1))
        taken = next((name for name in joined if _is_there(name)), parts[0].strip())
        del parts[: taken.count(",") + 1]
        if taken:
            names.append(taken)
    return names


def _is_there(name: str) -> bool:
    path, _, weight = name.rpartition(":")
    paths = (name, path) if path and "," not in weight else (name,)
    return any(path_of(each) is not None for each in paths)


def path_of(name: str) -> Path | None:
    """Return where a file or folder is that people name; None if there is none, whatever the name.

    Names may be too long, hold zero bytes, or begin with ~ and no user.
    """
    if not 0 < len(name) <= MAX_PATH:
        return None
    try:
        path = Path(name).expanduser()
        return path if path.exists() else None
    except (OSError, ValueError, RuntimeError):
        return None


def _read_lora(text: str, known: Mapping[str, Path]) -> Lora:
    path, colon, number = text.rpartition(":")
    if not colon or path_of(text) is not None:
        return _lora_of(text, 1.0, known)
    try:
        weight = float(number)
    except ValueError:
        weight = math.nan
    if not math.isfinite(weight):
        raise ValueError(f"lora {text!r}: behind the colon must be a number, as in {path}:0.8")
    return _lora_of(path, weight, known)


def _lora_of(name: str, weight: float, known: Mapping[str, Path]) -> Lora:
    path = path_of(name)
    if not known and path is None:
        raise WeightsError(
            f"{name[:300]} does not exist; where it is a name in a folder of LoRA files, say "
            "--lora-dir FOLDER"
        )
    if not known:
        return Lora(_file_of(name), weight)
    try:
        own = lora_folder.find(known, name)
    except WeightsError:
        if path is None:
            raise
        return Lora(_file_of(name), weight)
    return Lora(known[own], weight, own)


def _file_of(name: str) -> Path:
    """Return a file, or the one file of weights in a folder."""
    path = _existing(name)
    if not path.is_dir():
        return path
    files = sorted(path.glob("*.safetensors"))
    if len(files) != 1:
        raise WeightsError(
            f"{path} is a folder with {len(files)} .safetensors files: name one of them"
        )
    return files[0]


def _existing(name: str) -> Path:
    path = path_of(name)
    if path is None:
        raise WeightsError(f"{name[:300]} does not exist")
    if path.is_file():
        check_suffix(path)
    return path.resolve()


def folder_licence(folder: Path) -> str:
    """Return the licence that the hub stated when a folder was fetched."""
    unknown = "not known here; see where the folder came from"
    return str(read_pulled(folder).get("licence", unknown))


def read_context(folder: Path) -> int:
    """Read the longest prompt in tokens that both the tokenizer and the text encoder accept."""
    positions = read_config(folder / "text_encoder" / "config.json").get("max_position_embeddings")
    tokens = read_config(folder / "tokenizer" / "tokenizer_config.json").get("model_max_length")
    numbers = [length for length in (positions, tokens) if isinstance(length, (int, float))]
    lengths = [length for length in numbers if 2 < length < math.inf]
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
