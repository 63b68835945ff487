"""Fetching models from the Hugging Face hub: the one place that uses the network.

Files land in the hub's own cache, where every other tool finds them. huggingface_hub begins a file
anew when its download was broken off, and does not look at what it got; here downloads go on, and
every file is compared with the hash that the hub has of it. Loads no torch.
"""

import hashlib
import json
import os
import re
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote

from pipelines.checkpoints.configs import PULLED, parse_json
from pipelines.checkpoints.errors import WeightsError
from pipelines.checkpoints.specs import hub_folder, split_revision

SECONDS = 10  # to wait for an answer, or for more of one
ATTEMPTS = 3  # at a file whose download breaks off
PIECE = 2**20  # bytes
MAX_ANSWER = 50 * 2**20  # bytes; a list of a hundred thousand files is shorter
SUFFIXES = (".safetensors", ".json", ".txt", ".model")  # the last two are vocabularies
# A part of a model, the dtype that it is a variant in, and which of its files this is.
WEIGHTS = re.compile(r"(.+?)(?:\.(\w+))?(?:-\d{5}-of-\d{5})?\.safetensors")

Progress = Callable[[int, int], None]  # is called with the bytes fetched, and their total


@dataclass(frozen=True)
class HubFile:
    """A file of a repository; `digest` is a SHA-256 for large ones, Git's own hash for others."""

    name: str
    size: int
    digest: str

    def is_in(self, path: Path) -> bool:
        """Return whether a file on disk has exactly this content."""
        if path.stat().st_size != self.size:
            return False
        with path.open("rb") as content:
            if len(self.digest) == 64:
                return hashlib.file_digest(content, "sha256").hexdigest() == self.digest
            blob = hashlib.sha1(b"blob %d\0" % self.size + content.read())
            return blob.hexdigest() == self.digest


@dataclass(frozen=True)
class Repository:
    """What the hub says of a model at one commit, and which of its files are worth fetching."""

    name: str
    revision: str
    commit: str
    licence: str | None
    files: tuple[HubFile, ...]

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)

    @property
    def folder(self) -> Path:
        """Where its files are, or will be."""
        return hub_folder(self.name) / "snapshots" / self.commit

    def blob(self, file: HubFile) -> Path:
        """Return the path of a file's content in the cache, whatever the file is called."""
        return hub_folder(self.name) / "blobs" / file.digest

    def missing(self) -> int:
        """Return how many bytes have not been fetched yet."""
        return sum(file.size for file in self.files if not self.blob(file).is_file())

    def note_revision(self) -> None:
        """Let the branch or tag that was asked for be found without the network."""
        if self.revision != self.commit:
            path = hub_folder(self.name) / "refs" / self.revision
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(self.commit, encoding="utf-8")


def look_up(name: str, variant: str | None = None) -> Repository:
    """Ask the hub for `org/name` or `org/name@revision`; see `worth_fetching` for `variant`.

    Raises WeightsError if the hub cannot be reached, does not have it, or has nothing that can be
    loaded, and if nothing of it is in the `variant` that is asked for.
    """
    from huggingface_hub import constants

    repository, revision = split_revision(name)
    if constants.HF_HUB_OFFLINE:
        raise WeightsError("HF_HUB_OFFLINE is set, so nothing is fetched: unset it for --pull")
    wanted = "main" if revision is None else revision
    path = f"api/models/{repository}/revision/{quote(wanted, safe='')}?blobs=true"
    with _open(f"{constants.ENDPOINT}/{path}", repository) as answer:
        try:
            said = parse_json(answer.read(MAX_ANSWER))
            entries = [_file(entry) for entry in said["siblings"]]
            commit = str(said["sha"])
            licence = _licence(said.get("cardData") or {})
        except (OSError, HTTPException) as error:
            raise WeightsError(f"{constants.ENDPOINT} gives no whole answer: {error}") from error
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise WeightsError(
                f"{constants.ENDPOINT} does not answer as a hub does: {error!r}"
            ) from error
    if not re.fullmatch("[0-9a-f]{40}", commit):
        raise WeightsError(f"{constants.ENDPOINT} names no commit of {repository}")
    files = tuple(worth_fetching([entry for entry in entries if entry is not None], variant))
    if not any(file.name.endswith(".safetensors") for file in files):
        raise WeightsError(
            f"{repository} has no safetensors; pickles, which run code, are not got: what "
            "python -m pipelines.convert can turn into a model is to be downloaded by hand"
        )
    if variant is not None and variant not in {_part_and_variant(file)[1] for file in files}:
        raise WeightsError(f"{repository} has no files of variant {variant} that are loaded")
    return Repository(repository, wanted, commit, licence, files)


def worth_fetching(files: Sequence[HubFile], variant: str | None = None) -> list[HubFile]:
    """Choose the files to load from a repository: no pickles, and each weight in one dtype only.

    Files such as model.fp16.safetensors are variants of model.safetensors. A part of a diffusers
    folder is fetched as `variant`, if it has that; else as the plain file, if there is one; else in
    all the variants that there are. Beside such a folder, single files hold
    the same weights again, and so do OpenCLIP's beside those of transformers.
    """
    files = [file for file in files if file.name.endswith(SUFFIXES)]
    names = {file.name for file in files}
    if "model.safetensors" in names:
        files = [file for file in files if file.name != "open_clip_model.safetensors"]
    if "model_index.json" in names:
        files = [
            file for file in files if "/" in file.name or not file.name.endswith(".safetensors")
        ]
    wanted = variant if "model_index.json" in names else None
    there: dict[str, set[str | None]] = {}  # the variants of each part
    for file in files:
        part, own = _part_and_variant(file)
        there.setdefault(part, set()).add(own)
    fetched = []
    for file in files:
        part, own = _part_and_variant(file)
        if own == next((each for each in (wanted, None) if each in there[part]), own):
            fetched.append(file)
    return fetched


def pull(repository: Repository, progress: Progress) -> Path:
    """Fetch the missing files of a repository, record what they are, and return their folder.

    Files that are here but damaged are fetched again. A download that was broken off goes on.
    Raises WeightsError when one breaks off again and again, or is not what the hub says it is;
    OSError when it cannot be written.
    """
    done = 0

    def tell(count: int) -> None:
        progress(done + count, repository.size)

    recorded = {}
    for file in repository.files:
        blob = repository.blob(file)
        if not (blob.is_file() and file.is_in(blob)):
            _fetch(repository, file, blob, tell)
        done += file.size
        tell(0)
        _link(blob, repository.folder / file.name)
        with blob.open("rb") as content:
            digest = hashlib.file_digest(content, "sha256").hexdigest()
        recorded[file.name] = {"size": file.size, "sha256": digest}
    record: dict[str, Any] = {
        "repository": repository.name,
        "commit": repository.commit,
        "files": recorded,
    }
    if repository.licence is not None:
        record["licence"] = repository.licence
    text = json.dumps(record, indent=2) + "\n"
    (repository.folder / PULLED).write_text(text, encoding="utf-8")
    repository.note_revision()
    return repository.folder


def _licence(card: Mapping[str, Any]) -> str | None:
    """Return the hub's name of a licence; licences that it has no identifier for have a name of
    their own."""
    word, name = card.get("license"), card.get("license_name")
    return str(name) if word == "other" and name else word


def _part_and_variant(file: HubFile) -> tuple[str, str | None]:
    """Return which part of a model a weights file belongs to, and in which variant; other files are
    a part of their own."""
    match = WEIGHTS.fullmatch(file.name)
    return (file.name, None) if match is None else (match[1], match[2])


def _file(entry: Mapping[str, Any]) -> HubFile | None:
    """Read one entry of the hub's list; None for one without a size."""
    name, lfs = str(entry["rfilename"]), entry.get("lfs")
    if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
        raise ValueError(f"a file is called {name!r}")
    digest = str(lfs["sha256"] if lfs else entry.get("blobId"))
    if not re.fullmatch("[0-9a-f]{40}|[0-9a-f]{64}", digest) or entry.get("size") is None:
        return None
    return HubFile(name, int(entry["size"]), digest)


def _fetch(repository: Repository, file: HubFile, blob: Path, tell: Callable[[int], None]) -> None:
    from huggingface_hub import constants

    place = f"resolve/{repository.commit}/{quote(file.name)}"
    url = f"{constants.ENDPOINT}/{repository.name}/{place}"
    blob.parent.mkdir(parents=True, exist_ok=True)
    part = blob.with_name(f"{blob.name}.incomplete")
    for attempt in range(ATTEMPTS):
        try:
            _append(url, repository.name, part, file.size, tell)
            break
        except (TimeoutError, ConnectionError, HTTPException) as error:
            if attempt == ATTEMPTS - 1:
                raise WeightsError(
                    f"{url} breaks off: {error}; the same command goes on from "
                    f"{part.stat().st_size} of {file.size} bytes"
                ) from error
    if not file.is_in(part):
        size = part.stat().st_size
        part.unlink()
        raise WeightsError(
            f"{url} is not what the hub says: {size} bytes came, not the {file.size} with the hash "
            f"{file.digest}; try again"
        )
    os.replace(part, blob)


def _append(url: str, name: str, part: Path, size: int, tell: Callable[[int], None]) -> None:
    """Write what is missing of a file behind what is there."""
    there = part.stat().st_size if part.is_file() else 0
    if part.is_file() and there >= size:
        return
    with _open(url, name, start=there) as answer:
        goes_on = answer.status == 206
        with part.open("ab" if goes_on else "wb") as file:
            while piece := answer.read(min(PIECE, size - file.tell())):
                file.write(piece)
                tell(file.tell())
            file.flush()
            os.fsync(file.fileno())
    if part.stat().st_size < size:
        raise ConnectionError(f"{part.stat().st_size} of {size} bytes came")


def _open(url: str, name: str, start: int = 0) -> HTTPResponse:
    """Request a file from byte `start` on; raises WeightsError with the reason if that fails."""
    from huggingface_hub import constants, get_token

    request = urllib.request.Request(url, headers={"User-Agent": "salon"})
    if start:
        request.add_header("Range", f"bytes={start}-")
    if token := get_token():  # not for where the hub redirects to
        request.add_unredirected_header("Authorization", f"Bearer {token}")
    try:
        answer: HTTPResponse = urllib.request.urlopen(request, timeout=SECONDS)
        return answer
    except urllib.error.HTTPError as error:
        if error.code in (401, 403):
            reason = "is not there, or its owner wants to know you: log in with hf auth login"
        elif error.code == 404:
            reason = "is not there"
        else:
            reason = f"cannot be had: {error.code} {error.reason}"
        raise WeightsError(f"{name} {reason} ({constants.ENDPOINT})") from error
    except urllib.error.URLError as error:
        if start and isinstance(error.reason, (TimeoutError, ConnectionError)):
            raise error.reason from error
        raise WeightsError(
            f"{constants.ENDPOINT} cannot be reached: {error.reason}; what was fetched before is "
            f"in {constants.HF_HUB_CACHE}"
        ) from error
    except (OSError, HTTPException, ValueError) as error:
        raise WeightsError(f"{constants.ENDPOINT} gives no answer: {error}") from error


def _link(blob: Path, path: Path) -> None:
    """Link a blob under its name in the repository."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        path.unlink(missing_ok=True)
        path.symlink_to(os.path.relpath(blob, path.parent))
