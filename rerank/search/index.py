"""Search in a folder of images: their features on disk, made once and kept up to date.

They lie in `.rerank/` inside the folder, or elsewhere; `rerank.search.parts` says in what files.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from pipelines.checkpoints.hashes import files_hash
from rerank.extras import load_extra
from rerank.images import list_images
from rerank.model.preprocessing import ImageLike
from rerank.reranker import Reranker
from rerank.search import parts
from rerank.search.parts import Entry, Row

FOLDER = ".rerank"
PART = 512  # images that are on disk before the next are read: what a kill costs at most


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
        self,
        reranker: Reranker,
        folder: Path,
        entries: list[Entry],
        features: torch.Tensor,
        problems: Sequence[str] = (),
    ) -> None:
        self.reranker = reranker
        self.folder = folder
        self.entries = entries
        self.features = features  # (N, D) fp32 on the CPU
        self.problems = tuple(problems)  # with what is on disk, each in a line

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

        An index of other weights is made anew; one that was killed while it was made goes on.
        Raises ValueError for a folder without images, and while another process makes the same
        index; OSError when the disk is full.
        """
        folder = Path(folder)
        reranker = Reranker.load() if reranker is None else reranker
        place, weights = (
            folder / FOLDER if where is None else Path(where),
            files_hash(reranker.folder),
        )
        paths = list_images(folder, deep=True)  # before anything is made
        with parts.lock(place):
            stored = parts.read(place, weights, reranker.width)
            present, failed = _present(paths, folder)
            known = {file: row for file, row in stored.rows.items() if row[0] in present}
            fresh = [entry for entry in present if entry.file not in known]
            rows = dict(known)
            for start in range(0, len(fresh), PART):
                chunk = fresh[start : start + PART]
                read = _read(reranker, chunk, present, failed, start, progress)
                if read:
                    parts.append(place, weights, read)
                rows |= {row[0].file: row for row in read}
            ordered = [rows[file] for file in sorted(rows)]
            if stored.problems or len(known) < len(stored.rows) or parts.count(place) != 1:
                parts.append(place, weights, ordered, begins=True)
        gone = stored.rows.keys() - {entry.file for entry in present}
        index = cls._of(reranker, folder, ordered, stored.problems)
        return index, Update(len(known), len(rows) - len(known), len(gone), failed)

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
        if not parts.exists(place):
            raise ValueError(f"{place}: no index; make one with `rerank index {folder}`")
        reranker = Reranker.load() if reranker is None else reranker
        weights = files_hash(reranker.folder)
        if not parts.made_with(place, weights):
            raise ValueError(
                f"{place}: was made with other weights than {reranker.name}'s; "
                f"`rerank index {folder}` makes it again"
            )
        stored = parts.read(place, weights, reranker.width)
        if stored.problems and not stored.rows:
            raise ValueError(f"{stored.problems[0]}; `rerank index {folder}` makes it again")
        ordered = [stored.rows[file] for file in sorted(stored.rows)]
        return cls._of(reranker, folder, ordered, stored.problems)

    @classmethod
    def _of(
        cls, reranker: Reranker, folder: Path, rows: Sequence[Row], problems: Sequence[str]
    ) -> "Index":
        features = [row for _, row in rows]
        stacked = torch.stack(features) if features else torch.empty(0, reranker.width)
        return cls(reranker, folder, [entry for entry, _ in rows], stacked, problems)

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
        try:
            paths = list_images(self.folder, deep=True)
        except ValueError:  # all of them are gone
            paths = []
        present, _ = _present(paths, self.folder)
        return sorted({self.folder / entry.file for entry in known ^ present.keys()})

    def _is_stale(self, row: int) -> bool:
        entry = self.entries[row]
        present, _ = _present([self.folder / entry.file], self.folder)
        return entry not in present


def _present(paths: Sequence[Path], folder: Path) -> tuple[dict[Entry, Path], dict[Path, str]]:
    """Return the images as they are now, and why others cannot be looked at."""
    present, failed = {}, {}
    for path in paths:
        try:
            state = path.stat()
        except OSError as error:
            failed[path] = "a link to nowhere" if path.is_symlink() else str(error.strerror)
            continue
        entry = Entry(str(path.relative_to(folder)), state.st_size, state.st_mtime_ns)
        present[entry] = path
    return present, failed


def _read(
    reranker: Reranker,
    entries: Sequence[Entry],
    paths: dict[Entry, Path],
    failed: dict[Path, str],
    before: int,
    progress: Callable[[int], None] | None,
) -> list[Row]:
    """Read images; those that cannot be read go to `failed`. `before` of them are done already."""
    encoded = reranker.encode(
        (paths[entry] for entry in entries),
        progress=None if progress is None else lambda done: progress(before + done),
        skip_bad=True,
    )
    failed |= {paths[entries[index]]: why for index, why in encoded.failed.items()}
    features = encoded.features.cpu()
    sound = features.isfinite().all(1).tolist()
    return [
        row for row, fine in zip(zip(entries, features, strict=True), sound, strict=True) if fine
    ]
