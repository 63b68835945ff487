"""Facts about the CLIP models that can judge. Imports no torch."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

CHECKPOINTS = Path(__file__).parent / "checkpoints"


class WeightsError(Exception):
    """A model folder is missing, incomplete, malformed or mismatched; the message is one line."""


@dataclass(frozen=True)
class Spec:
    """What is known of a model before it is loaded."""

    name: str
    folder: Path
    licence: str | None = None  # of the weights; None: not known to us
    judges: str | None = None  # what its scores can be trusted for, in one line


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
    """The Spec of a known name, of a folder on disk, or of `org/name` in the local hub cache.

    Never reaches for the network. Raises WeightsError with the choices, or with the command that
    fetches the model.
    """
    name = str(name_or_folder)
    if name in SPECS:
        spec = SPECS[name]
        if not spec.folder.is_dir():
            raise WeightsError(
                f"the weights of {name} are not in {spec.folder}: install the package again"
            )
        return spec
    folder = Path(name).expanduser()
    if folder.is_dir():
        return Spec(name=folder.resolve().name, folder=folder)
    if len(folder.parts) == 2 and not folder.is_absolute():
        return Spec(name=name, folder=_in_hub_cache(name))
    raise WeightsError(f"no model or folder {name!r}: choose from {', '.join(SPECS)}, or a folder")


def files_hash(folder: Path) -> str:
    """The first 10 hex digits of the sha256 over the names and sha256s of a folder's weight files.

    It tells whether two scores came from the same weights.
    """
    total = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        total.update(f"{path.name} {digest}\n".encode())
    return total.hexdigest()[:10]


def _in_hub_cache(repository: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(repository, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError) as error:
        raise WeightsError(
            f"no folder {repository!r}, and no such model in the local hub cache: "
            f"fetch it with `generate --pull {repository}`, or choose from {', '.join(SPECS)}"
        ) from error
