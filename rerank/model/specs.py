"""Facts about the CLIP models that can judge. Imports no torch."""

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path

from rerank.model.known_models import PUBLIC

HUB_NAME = re.compile(r"([\w.-]+/[\w.-]+)(?:@([\w./-]+))?")
PULLED = "pulled.json"  # what `generate --pull` says of the files that it fetched
# Licences, as the hub names them, that forbid commercial use.
NON_COMMERCIAL = frozenset(
    f"cc-by-{terms}-{version}"
    for terms in ("nc", "nc-sa", "nc-nd")
    for version in ("2.0", "3.0", "4.0")
) | {"flux-1-dev-non-commercial-license", "sai-nc-community"}
CHECKPOINTS = Path(__file__).parents[1] / "checkpoints"


class WeightsError(Exception):
    """A model folder is missing, incomplete, malformed or mismatched; the message is one line."""


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
    """The Spec of a known name, of a folder on disk, or of `org/name` in the local hub cache.

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
    folder = Path(name).expanduser()
    if folder.is_dir():
        return Spec(folder.resolve().name, folder, _recorded_licence(folder))
    if match := HUB_NAME.fullmatch(name):
        folder, known = _in_hub_cache(match[1], match[2]), PUBLIC.get(match[1])
        licence = _recorded_licence(folder)
        if known is None:
            return Spec(name, folder, licence)
        licence = known.licence if licence is None else licence
        return Spec(name, folder, licence, known.judges, known.processor)
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


def _recorded_licence(folder: Path) -> str | None:
    """What the hub said when the files of a folder were fetched."""
    try:
        licence = json.loads((folder / PULLED).read_text(encoding="utf-8")).get("licence")
    except (OSError, ValueError, AttributeError):
        return None
    return licence if isinstance(licence, str) else None


def _in_hub_cache(repository: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(repository, revision=revision, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError) as error:
        name = repository if revision is None else f"{repository}@{revision}"
        raise WeightsError(
            f"no folder {name!r}, and no such model in the local hub cache: "
            f"fetch it with `generate --pull {name}`, or choose from {', '.join(SPECS)}"
        ) from error
