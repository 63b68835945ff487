"""Where a named model lies, and the facts that are stored beside its weights.

Loads no torch, knows no family and never touches the network.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

from typing_extensions import TypedDict

from pipelines.checkpoints.configs import read_config, read_pulled
from pipelines.checkpoints.errors import WeightsError
from pipelines.checkpoints.known_models import PUBLIC
from pipelines.checkpoints.specs import (
    CHECKPOINTS,
    HUB_NAME,
    SHIPPED,
    Spec,
    hub_folder,
    path_of,
    split_revision,
)
from pipelines.runtime.terminal import did_you_mean

FACTS = "salon.json"  # what JSON files of diffusers have no place for: see `Spec`
UPSAMPLER = "upsampler"  # a folder beside the networks
SHARING = ("dalle", "unclip")  # kinds whose parts may lie in other folders
RERANKERS = CHECKPOINTS.parents[1] / "rerank" / "checkpoints"
MAX_ENTRIES = 100_000


class Facts(TypedDict, total=False):
    """What may stand there."""

    defaults: dict[str, float | int | str]
    context: int
    max_size: int
    licence: str
    draws: str
    long_prompts: bool
    mask_defaults: dict[str, float | int]  # of settings under a mask
    upsampler: str  # its folder, seen from the model's
    shared: dict[str, str]  # where those of its parts are that ship with another model, likewise


@dataclass(frozen=True)
class Place:
    """A folder or a single file that holds a model, what it is called, and its hub repository."""

    name: str
    path: Path
    repository: str | None = None


def locate(name: str) -> Place:
    """Find what ships, a folder, a file, or `org/name` in the hub's cache.

    `org/name@revision` is a branch, tag or commit of it. Raises WeightsError with the choices if
    there is no such thing.
    """
    if name in SHIPPED:
        return Place(name, SHIPPED[name])
    path = path_of(name)
    if path is not None and path.is_dir():
        check_links(path)
        return Place(path.resolve().name, path)
    if path is not None and path.is_file():
        return Place(path.stem, path)
    if HUB_NAME.fullmatch(name):
        repository, revision = split_revision(name)
        folder = cached_folder(repository, revision)
        if folder is None:
            raise WeightsError(
                f"{name} is no folder and is not in the hub cache {hub_folder(repository).parent}; "
                f"fetch it with: generate --pull {name}"
            )
        check_links(folder)
        return Place(name, folder, repository)
    raise WeightsError(
        f"no model {name[:300]!r}{did_you_mean(name, [*SHIPPED, *PUBLIC])}: it is no folder or "
        f"file, and the known models are {', '.join(SHIPPED)}"
    )


def check_links(folder: Path) -> None:
    """Check that what a model folder holds is in it: its files, and those of its components.

    A folder may itself be a link, and the hub's cache keeps files in a folder of its own. Raises
    WeightsError for a link that leads elsewhere, and for what is neither a file nor a folder, such
    as a pipe, which would be waited for.
    """
    root = folder.resolve()
    inside = [root]
    if root.parent.name == "snapshots":
        inside.append(root.parents[1] / "blobs")
    components = [path for path in folder.iterdir() if path.is_dir() and not path.is_symlink()]
    entries = chain.from_iterable(each.iterdir() for each in (folder, *components))
    for number, path in enumerate(entries):
        if number == MAX_ENTRIES:
            raise WeightsError(f"{folder} holds more than {MAX_ENTRIES} files: it is no model")
        try:
            leads = path.resolve()
        except (OSError, RuntimeError):  # links in a circle
            raise WeightsError(f"{path} is a link that leads nowhere") from None
        if path.is_symlink() and not any(leads.is_relative_to(each) for each in inside):
            raise WeightsError(
                f"{path} is a link that leads out of the model folder, to {leads}: "
                "copy the file to its place"
            )
        if leads.exists() and not leads.is_file() and not leads.is_dir():
            raise WeightsError(f"{path} is neither a file nor a folder")


def class_of(folder: Path) -> str:
    """Return the pipeline class that a folder says it was saved from.

    Raises WeightsError where that is no name, as for a pipeline whose code comes with its weights.
    """
    name = read_config(folder / "model_index.json").get("_class_name")
    if isinstance(name, str):
        return name
    if isinstance(name, list):
        raise WeightsError(
            f"{folder} needs code that comes with its weights ({'.'.join(map(str, name))[:80]}), "
            "which is never run; what can be loaded are pipelines of diffusers, and Dalle"
        )
    raise WeightsError(
        f"{folder}/model_index.json names no pipeline in _class_name; copy or download it again"
    )


def with_facts(spec: Spec, place: Place) -> Spec:
    """Return a spec completed by what stands beside its weights, and what is known of its name.

    Raises WeightsError for facts that are none.
    """
    path = place.path / FACTS
    if path.is_file():
        facts = read_config(path, Facts)
        if unknown := facts.keys() - Facts.__annotations__.keys():
            raise WeightsError(f"{path} has unknown facts: {', '.join(sorted(unknown))}")
        facts["defaults"] = {**spec.defaults, **facts.get("defaults", {})}
        upsampler, shared = facts.pop("upsampler", None), facts.pop("shared", {})
        if shared and spec.kind not in SHARING:
            raise WeightsError(f"{path}: a model of kind {spec.kind} has all parts in its folder")
        own = place.path / UPSAMPLER if (place.path / UPSAMPLER).is_dir() else None
        spec = replace(
            spec,
            upsampler=own if upsampler is None else _beside(place.path, "upsampler", upsampler),
            shared=_shared(place.path, shared),
            **facts,
        )
    elif (place.path / UPSAMPLER).is_dir():
        spec = replace(spec, upsampler=place.path / UPSAMPLER)
    known = None if place.repository is None else PUBLIC.get(place.repository)
    if known is None:
        return spec
    defaults: Mapping[str, object] = spec.defaults or known.defaults  # not every folder says some
    licence = spec.licence
    if known.licence is not None and "licence" not in read_pulled(place.path):
        licence = known.licence
    return replace(spec, draws=known.draws, defaults=defaults, licence=licence)


def shared_parts(folder: Path) -> dict[str, Path]:
    """Return where those parts of a model are that are not in its folder, as its facts say.

    Raises WeightsError for a place that is none.
    """
    path = folder / FACTS
    return _shared(folder, read_config(path, Facts).get("shared", {}) if path.is_file() else {})


def _shared(folder: Path, shared: Mapping[str, str]) -> dict[str, Path]:
    return {name: _beside(folder, name, named) for name, named in shared.items()}


def _beside(folder: Path, fact: str, named: str) -> Path:
    """Return the folder that a fact names: in a model's own, beside it, or of a shipped CLIP.

    Raises WeightsError for any other, and for one that is not there.
    """
    path = (folder / named).resolve()
    near = (folder.resolve().parent, RERANKERS.resolve())
    if not any(map(path.is_relative_to, near)) or not path.is_dir():
        raise WeightsError(f"{folder / FACTS}: {fact} {named[:100]}: there is no such folder")
    return path


def in_hub_cache(repository: str) -> bool:
    """Return whether a repository was fetched, all of it: only then is its branch noted."""
    folder = hub_folder(repository)
    try:
        commit = (folder / "refs" / "main").read_text(encoding="utf-8").strip()
    except OSError:
        return False
    return bool(commit) and (folder / "snapshots" / commit).is_dir()


def cached_folder(repository: str, revision: str | None) -> Path | None:
    """Return the folder of a hub repository that was fetched before, None if it was not."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(repository, revision=revision, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError):
        return None
