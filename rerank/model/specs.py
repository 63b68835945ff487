"""Facts about the models that score. Imports no torch."""

from dataclasses import dataclass
from pathlib import Path

from pipelines.checkpoints.configs import read_pulled
from pipelines.checkpoints.errors import WeightsError
from pipelines.checkpoints.places import cached_folder, check_links
from pipelines.checkpoints.specs import HUB_NAME, NON_COMMERCIAL, path_of, split_revision
from pipelines.runtime.terminal import did_you_mean
from rerank.model.known_models import PUBLIC

CHECKPOINTS = Path(__file__).parents[1] / "checkpoints"


@dataclass(frozen=True)
class Spec:
    """What is known of a model before it is loaded."""

    name: str
    folder: Path
    licence: str | None = None  # of the weights; None: not known to us
    judges: str | None = None  # what its scores can be trusted for, in one line
    processor: str | None = None  # where tokenizer and preprocessing are, if not in the folder

    @property
    def forbids_commerce(self) -> bool:
        """Whether the licence of the weights is known to forbid commercial use."""
        return self.licence is not None and self.licence.lower() in NON_COMMERCIAL


SPECS = {
    spec.name: spec
    for spec in (
        Spec(
            name="stickers-clip",
            folder=CHECKPOINTS / "stickers-clip",
            licence="Apache-2.0",
            judges="stickers: emoji things and plain shapes, their counts, colours and places",
        ),
    )
}
DEFAULT = "stickers-clip"


def find(name_or_folder: str | Path) -> Spec:
    """Return the Spec of a known name, of a folder on disk, or of `org/name` in the local hub
    cache.

    `org/name@revision` is a branch, tag or commit of it. Never reaches for the network. Raises
    WeightsError with the choices, or with the command that fetches the model.
    """
    name = str(name_or_folder)
    if name in SPECS:
        spec = SPECS[name]
        if not spec.folder.is_dir():
            raise WeightsError(
                f"the weights of {name} are not in {spec.folder}: install the package again"
            )
        return spec
    folder = path_of(name)
    if folder is not None and folder.is_dir():
        check_links(folder)
        return Spec(folder.resolve().name, folder, _recorded_licence(folder))
    if HUB_NAME.fullmatch(name):
        return _fetched(name)
    meant = did_you_mean(name, [*SPECS, *PUBLIC])
    raise WeightsError(
        f"no model or folder {name!r}{meant}: choose from {', '.join(SPECS)}, or a folder"
    )


def _fetched(name: str) -> Spec:
    """Return the Spec of a repository of the hub that was fetched before."""
    repository, revision = split_revision(name)
    folder = cached_folder(repository, revision)
    if folder is None:
        raise WeightsError(
            f"no folder {name!r}, and no such model in the local hub cache: "
            f"fetch it with `generate --pull {name}`, or choose from {', '.join(SPECS)}"
        )
    check_links(folder)
    licence, known = _recorded_licence(folder), PUBLIC.get(repository)
    if known is None:
        return Spec(name, folder, licence)
    licence = known.licence if licence is None else licence
    return Spec(name, folder, licence, known.judges, known.processor)


def _recorded_licence(folder: Path) -> str | None:
    """Return what the hub said when the files of a folder were fetched."""
    licence = read_pulled(folder).get("licence")
    return licence if isinstance(licence, str) else None
