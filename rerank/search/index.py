"""Search in a folder of images: their features on disk, made once and kept up to date.

Two files in `.rerank/` inside the folder, or elsewhere: features.safetensors holds the features
(N, D), files.jsonl the path, size and time of change of each row, in its order.
"""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from pipelines.checkpoints.hashes import files_hash
from rerank.extras import load_extra
from rerank.images import list_images
from rerank.model.preprocessing import ImageLike
from rerank.reranker import Reranker

FOLDER = ".rerank"
FEATURES, FILES = "features.safetensors", "files.jsonl"


@dataclass(frozen=True)
class Entry:
    """An image as it was when it was read: its path inside the folder, bytes, time of change."""

    file: str
    size: int
    changed: int  # nanoseconds


@dataclass(frozen=True)
class Found:
    """An image that a search found; `stale` if it was changed or removed since it was read."""

    path: Path
    score: float
    stale: bool


@dataclass(frozen=True)
class Update:
    """What an update did, by numbers of images; `failed` is path → why it could not be read."""

    kept: int
    added: int
    removed: int
    failed: dict[Path, str] = field(default_factory=dict)


class Index:
    """The images of a folder and of those inside it, ready to be searched.

    index, update = Index.build("images")
    for found in index.search("a red fox", k=5):
        print(found.score, found.path)
    """

    def __init__(
        self, reranker: Reranker, folder: Path, entries: list[Entry], features: torch.Tensor
    ) -> None:
        self.reranker = reranker
        self.folder = folder
        self.entries = entries
        self.features = features  # (N, D) fp32 on the CPU

    @classmethod
    def build(
        cls,
        folder: str | Path,
        reranker: Reranker | None = None,
        *,
        where: str | Path | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> tuple["Index", Update]:
        """Read the images of a folder that are new or changed, forget those that are gone, and
        save, in `where` or `.rerank/` inside the folder.

        An index of other weights is made anew. Raises ValueError for a folder without images.
        """
        folder = Path(folder)
        reranker = Reranker.load() if reranker is None else reranker
        place = folder / FOLDER if where is None else Path(where)
        known: dict[Entry, torch.Tensor] = {}
        if (place / FILES).is_file() and _model_of(place) == files_hash(reranker.folder):
            old = cls.open(folder, reranker, where=where)
            known = dict(zip(old.entries, old.features, strict=True))
        present = {_entry(path, folder): path for path in list_images(folder, deep=True)}
        fresh = [entry for entry in present if entry not in known]
        encoded = reranker.encode(
            (present[entry] for entry in fresh), progress=progress, skip_bad=True
        )
        failed = {present[fresh[index]]: why for index, why in encoded.failed.items()}
        rows = {
            entry: row
            for entry, row in zip(fresh, encoded.features.cpu(), strict=True)
            if row.isfinite().all()
        }
        rows |= {entry: row for entry, row in known.items() if entry in present}
        entries = sorted(rows, key=lambda entry: entry.file)
        width = encoded.features.shape[1]
        features = torch.stack([rows[e] for e in entries]) if entries else torch.empty(0, width)
        index = cls(reranker, folder, entries, features)
        index._save(place)
        gone = {entry.file for entry in known} - {entry.file for entry in present}
        kept = len(known.keys() & present.keys())
        return index, Update(kept, len(entries) - kept, len(gone), failed)

    @classmethod
    def open(
        cls,
        folder: str | Path,
        reranker: Reranker | None = None,
        *,
        where: str | Path | None = None,
    ) -> "Index":
        """Read what `build` saved. Raises ValueError when there is no index or a damaged one, or
        when it was made with other weights."""
        folder = Path(folder)
        place = folder / FOLDER if where is None else Path(where)
        if not (place / FILES).is_file():
            raise ValueError(f"{place}: no index; make one with `rerank index {folder}`")
        reranker = Reranker.load() if reranker is None else reranker
        if _model_of(place) != files_hash(reranker.folder):
            raise ValueError(
                f"{place}: was made with other weights than {reranker.name}'s; "
                f"`rerank index {folder}` makes it again"
            )
        try:
            lines = (place / FILES).read_text(encoding="utf-8").splitlines()
            entries = [Entry(**json.loads(line)) for line in lines]
            with safe_open(place / FEATURES, framework="pt") as opened:
                features = opened.get_tensor("features")
        except (OSError, ValueError, TypeError, SafetensorError) as error:
            raise ValueError(f"{place}: damaged ({error}); delete it and index again") from error
        if len(features) != len(entries):
            raise ValueError(f"{place}: damaged; delete it and index again")
        return cls(reranker, folder, entries, features)

    def search(self, query: "str | ImageLike", k: int = 10) -> list[Found]:
        """Return the k images most like a text, or like an image (PIL, array, tensor or a Path).

        A str is a text; a Path names an image. Exact, by faiss. Raises MissingExtraError without
        it, ValueError when k < 1, BadImageError.
        """
        if k < 1:
            raise ValueError(f"k is {k}; at least 1 image must be asked for")
        faiss = load_extra("faiss", "faiss-cpu", "search")
        if isinstance(query, str):
            wanted = self.reranker.text_features([query])
        else:
            wanted = self.reranker.image_features([query])
        if not self.entries:
            return []
        exact = faiss.IndexFlatIP(self.features.shape[1])
        exact.add(self.features.numpy())
        scores, rows = exact.search(wanted.cpu().numpy(), min(k, len(self.entries)))
        return [
            Found(self.folder / self.entries[row].file, float(score), self._is_stale(row))
            for score, row in zip(scores[0], rows[0], strict=True)
        ]

    def stale(self) -> list[Path]:
        """Return the images that were changed or removed since they were read, and the new ones."""
        known = set(self.entries)
        present = {_entry(path, self.folder) for path in list_images(self.folder, deep=True)}
        return sorted({self.folder / entry.file for entry in known ^ present})

    def _is_stale(self, row: int) -> bool:
        entry = self.entries[row]
        path = self.folder / entry.file
        return not path.is_file() or _entry(path, self.folder) != entry

    def _save(self, place: Path) -> None:
        """Both files, each whole or not at all; the list last, since it says that all is there."""
        place.mkdir(parents=True, exist_ok=True)
        (place / FILES).unlink(missing_ok=True)
        facts = {"model": files_hash(self.reranker.folder)}
        save_file({"features": self.features.contiguous()}, place / f"{FEATURES}.new", facts)
        os.replace(place / f"{FEATURES}.new", place / FEATURES)
        lines = [json.dumps(entry.__dict__, ensure_ascii=False) for entry in self.entries]
        text = "".join(f"{line}\n" for line in lines)
        (place / f"{FILES}.new").write_text(text, encoding="utf-8", errors="surrogateescape")
        os.replace(place / f"{FILES}.new", place / FILES)


def _entry(path: Path, folder: Path) -> Entry:
    state = path.stat()
    return Entry(str(path.relative_to(folder)), state.st_size, state.st_mtime_ns)


def _model_of(place: Path) -> str | None:
    """Return the files_hash of the weights that an index was made with; None where it cannot be
    read."""
    try:
        with safe_open(place / FEATURES, framework="pt") as opened:
            return (opened.metadata() or {}).get("model")
    except (OSError, SafetensorError):
        return None
