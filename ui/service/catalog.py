"""What of this machine can be chosen by name: models, LoRAs and VAEs. Visitors name no paths."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from gen import finding
from gen.errors import InputError
from gen.memory import free_on_host
from gen.models import DEFAULT_MODEL, Spec, WeightsError, find, shipped, weights_size
from gen.settings.request import Request

SUFFIX = ".safetensors"


class UnknownModelError(InputError):
    """Not one of the models that are served."""


@dataclass(frozen=True)
class Catalog:
    """The models that are served beside those that ship, and files that change models, by name.

    `named` come first, and the first of them draws when no model is asked for.
    """

    named: Mapping[str, Spec] = field(default_factory=dict)
    found: Mapping[str, Spec] = field(default_factory=dict)
    loras: Mapping[str, Path] = field(default_factory=dict)
    vaes: Mapping[str, Path] = field(default_factory=dict)
    mask_models: Sequence[Path] = ()  # folders of networks that find masks

    @property
    def models(self) -> dict[str, Spec]:
        """All models whose weights are there, by name."""
        ours = {name: spec for name, spec in shipped().items() if spec.folder.is_dir()}
        return {**self.named, **ours, **self.found}

    @property
    def default(self) -> str:
        """The name of the model that draws when none is asked for."""
        return next(iter(self.named), DEFAULT_MODEL)

    def find(self, name: str) -> Spec:
        """Return the Spec of a model; no folder of the server's disk is one for visitors."""
        known = {**shipped(), **self.models}
        if name not in known:
            raise UnknownModelError(
                f"no model {name[:80]!r} is served here: choose from {', '.join(self.models)}"
            )
        return known[name]

    def specs(self, names: Sequence[str]) -> list[Spec]:
        """Return what is known of the chosen models; nothing chosen is the default."""
        known = {**shipped(), **self.models}
        return [known[name] for name in names if name in known] or [known[self.default]]

    def name_of(self, address: str) -> str:
        """Return what a model is called here that an image says was at an address."""
        by_address = {spec.address: name for name, spec in self.models.items()}
        return by_address.get(address, address)

    def with_files(self, request: Request) -> Request:
        """Return a request whose LoRAs and VAE are files in place of names, and whose mask is found
        by the networks that are served. Raises InputError."""
        changed: dict[str, str] = {}
        if request.lora is not None:
            parts = [part.strip() for part in request.lora.split(",") if part.strip()]
            changed["lora"] = ",".join(self._lora(part) for part in parts)
        if request.vae is not None:
            changed["vae"] = str(_of(self.vaes, request.vae, "VAE"))
        if self.mask_models and finding.is_asked(request):
            changed["mask_model"] = ",".join(map(str, self.mask_models))
        return request.replace(**changed) if changed else request  # type: ignore[arg-type]

    def _lora(self, text: str) -> str:
        name, colon, weight = text.rpartition(":")
        if not colon:
            return str(_of(self.loras, text, "LoRA"))
        return f"{_of(self.loras, name, 'LoRA')}:{weight}"


def read_catalog(
    models: Sequence[str] = (),
    folders: Sequence[Path] = (),
    lora_folders: Sequence[Path] = (),
    vaes: Sequence[Path] = (),
    loras: Sequence[Path] = (),
    mask_models: Sequence[Path] = (),
) -> Catalog:
    """Look for models and files that change models.

    `models` are asked for by name, and have to be there: raises WeightsError for one that is not.
    In `folders` and the hub's cache what is no model is passed over. `mask_models` have to be
    networks that find masks.
    """
    finding.lacking(mask_models)
    named = {spec.name: spec for spec in map(find, models)}
    found: dict[str, Spec] = {}
    for path in (path for folder in folders for path in _models_in(folder)):
        with suppress(WeightsError):
            _add(found, find(str(path)))
    for name in _in_hub_cache():
        with suppress(WeightsError):
            _add(found, find(name))
    files = [file for folder in lora_folders for file in _listed(folder) if file.suffix == SUFFIX]
    return Catalog(
        named,
        {name: spec for name, spec in found.items() if name not in named},
        {file.stem: file for file in [*loras, *files]},
        {path.stem: path for path in vaes},
        [path.expanduser().resolve() for path in mask_models],
    )


def described(spec: Spec) -> str:
    """Return in lines a model's name, what it draws, and its size, licence and whether it fits."""
    facts = []
    if (size := weights_size(spec)) is not None:
        room = "✓ fits in memory" if size < free_on_host() else "✗ does not fit into memory"
        facts = [in_bytes(size), *([spec.licence] if len(spec.licence) < 40 else []), room]
    return "\n".join([spec.name, spec.draws, " · ".join(facts)]).rstrip()


def in_bytes(size: int) -> str:
    """Return a size as people say it."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"


def _of(files: Mapping[str, Path], name: str, kind: str) -> Path:
    if name not in files:
        known = ", ".join(files) if files else "none"
        raise InputError(f"{kind.lower()} {name[:80]!r}: not served here; there are {known}")
    return files[name]


def _add(found: dict[str, Spec], spec: Spec) -> None:
    """Add a model, under its folder's name too where another has its name."""
    name = spec.name.replace(",", " ")
    if name in found or name in shipped():
        name = f"{spec.folder.parent.name}/{name}"
    found.setdefault(name, spec)


def _models_in(folder: Path) -> Iterator[Path]:
    """Yield what looks like a model in a folder, or in a folder of it."""
    if (folder / "model_index.json").is_file():
        yield folder
    for path in _listed(folder):
        if path.suffix == SUFFIX or (path / "model_index.json").is_file():
            yield path


def _listed(folder: Path) -> list[Path]:
    """Return what is in a folder, by name. Raises InputError if it is none."""
    try:
        return sorted(folder.expanduser().resolve().iterdir())
    except OSError as error:
        raise InputError(f"{folder}: not a folder that can be read: {error.strerror}") from error


def _in_hub_cache() -> Iterator[str]:
    """Yield the names of repositories in the hub's cache."""
    from huggingface_hub import constants

    for path in sorted(Path(constants.HF_HUB_CACHE).glob("models--*--*")):
        yield path.name.removeprefix("models--").replace("--", "/", 1)
