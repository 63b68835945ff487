"""Search in images by the million: tar and Parquet files and folders, read by one or by many.

The file of a shard's features is named after the shard's state and the weights: what is there is
not read again, so that whatever is killed goes on.
"""

import hashlib
import itertools
import os
import shutil
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from pipelines.checkpoints.hashes import files_hash
from rerank.model.preprocessing import ImageLike
from rerank.reranker import Reranker
from rerank.search import actors, nearest, parts
from rerank.search.features import SUFFIX, Features, encode_shard, open_all, parquet
from rerank.search.index import Found, Update
from rerank.search.shards import Shard, list_shards

NEAREST = "nearest-"  # and which features it was made of


class Collection:
    """Images of many shards, ready to be searched; their features stay on the disk.

    collection, update = Collection.build(["shards/0000.tar", "more"], "features")
    for found in collection.search("a red fox", k=5):
        print(found.score, found.path)
    """

    def __init__(
        self,
        reranker: Reranker,
        place: Path,
        features: Sequence[Features],
        problems: Sequence[str] = (),
    ) -> None:
        self.reranker = reranker
        self.place = place
        self.problems = tuple(problems)  # with what is on disk, each in a line
        self._features = tuple(features)
        self._first = list(itertools.accumulate((f.rows for f in features), initial=0))

    def __len__(self) -> int:
        return sum(each.found for each in self._features)

    @classmethod
    def build(
        cls,
        sources: Sequence[str | Path],
        place: str | Path,
        reranker: Reranker | None = None,
        *,
        column: str | None = None,
        ray: str | None = None,
        workers: int | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> tuple["Collection", Update]:
        """Read the shards that are new or changed, and keep their features in the folder `place`.

        `sources` are tar and Parquet files, and folders of these and of images; `column` is the
        one of Parquet files that has bytes or paths of images. `ray` is the address of a cluster
        whose `workers` read, by default one for each GPU or core. What is there of sources that are
        gone, and of earlier states of these, is removed at the end; of other sources it stays. From
        `nearest.LARGE` images on there is an inverted file for searches as well.
        Raises ValueError for sources that cannot be listed, and while another process writes there;
        MissingExtraError without pyarrow, faiss or Ray; OSError when the disk is full.
        """
        parquet()
        shards = list_shards(
            [Path(source) for source in sources], column
        )  # before anything is made
        reranker = Reranker.load() if reranker is None else reranker
        place, weights = Path(place), files_hash(reranker.folder)
        wanted = {place / _name(shard, weights): shard for shard in shards}
        with parts.lock(place):
            opened, _ = open_all(place, weights)
            there = {each.path: each for each in opened}
            missing = [(shard, path) for path, shard in wanted.items() if path not in there]
            failed: dict[Path, str] = {}
            added = 0
            for found, bad in _encoded(reranker, missing, weights, ray, workers):
                added, failed = added + found, failed | bad
                if progress is not None:
                    progress(added)
            sources_read = {shard.source for shard in shards}
            gone = [
                each
                for each in opened
                if each.path not in wanted
                and (each.source in sources_read or not each.source.exists())
            ]
            for each in gone:
                each.path.unlink()
            collection = cls._of(reranker, place, weights)
            collection._prepare_search()
        kept = sum(each.found for path, each in there.items() if path in wanted)
        return collection, Update(kept, added, sum(each.found for each in gone), failed)

    @classmethod
    def open(cls, place: str | Path, reranker: Reranker | None = None) -> "Collection":
        """Open what `build` kept. Raises ValueError when it was made with other weights."""
        reranker = Reranker.load() if reranker is None else reranker
        place, weights = Path(place), files_hash(reranker.folder)
        collection = cls._of(reranker, place, weights)
        if not collection._features:
            why = collection.problems[0] if collection.problems else f"{place}: no features"
            raise ValueError(
                f"{why} of {reranker.name}; `rerank index … --index {place}` makes them"
            )
        return collection

    @classmethod
    def exists(cls, place: Path) -> bool:
        """Return whether a folder has features of shards."""
        return any(place.glob(f"*{SUFFIX}"))

    @classmethod
    def _of(cls, reranker: Reranker, place: Path, weights: str) -> "Collection":
        return cls(reranker, place, *open_all(place, weights))

    # ---- search

    def search(
        self, query: "str | ImageLike", k: int = 10, *, exhaustive: bool = False
    ) -> list[Found]:
        """Return the k images most like a text, or like an image (PIL, array, tensor or a Path).

        A large collection is looked into where the likeliest are, which misses some; `exhaustive`
        reads all features. `found.path` of an image in a shard is the shard's path and its name
        there, or its row. Raises ValueError when k < 1 or features are damaged, BadImageError,
        MissingExtraError.
        """
        if k < 1:
            raise ValueError(f"k is {k}; at least 1 image must be asked for")
        if isinstance(query, str):
            features = self.reranker.text_features([query])
        else:
            features = self.reranker.image_features([query])
        wanted = features[0].cpu().numpy()
        if self._nearest().is_dir() and not exhaustive:
            best = nearest.search(self._nearest(), wanted, k)
        else:
            best = self._search_all(wanted, k)
        return [self._found(number, score) for number, score in best]

    def _search_all(self, wanted: np.ndarray, k: int) -> list[tuple[int, float]]:
        numbers, scores = np.empty(0, np.int64), np.empty(0, np.float32)
        for own, features in self._blocks():
            numbers, scores = np.append(numbers, own), np.append(scores, features @ wanted)
            order = np.argsort(-scores, kind="stable")[:k]
            numbers, scores = numbers[order], scores[order]
        return list(zip(numbers.tolist(), scores.tolist(), strict=True))

    def _found(self, number: int, score: float) -> Found:
        at = bisect_right(self._first, number) - 1
        features = self._features[at]
        path = features.name(number - self._first[at])
        return Found(path, score, not (features.source.is_file() or path.exists()))

    def _blocks(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield numbers and features of all images, so many at once as memory is meant to hold."""
        waiting: list[tuple[np.ndarray, np.ndarray]] = []
        for first, each in zip(self._first[:-1], self._features, strict=True):
            try:
                rows, features = each.read(self.reranker.width)
            except (ValueError, OSError) as error:
                raise ValueError(
                    f"{each.path}: damaged ({error}); remove it, and `rerank index` makes it again"
                ) from error
            waiting.append((rows + first, features))
            if sum(len(rows) for rows, _ in waiting) >= nearest.BLOCK:
                yield _joined(waiting)
                waiting = []
        if waiting:
            yield _joined(waiting)

    def _nearest(self) -> Path:
        names = "\n".join(each.path.name for each in self._features)
        return self.place / (NEAREST + hashlib.sha256(names.encode()).hexdigest()[:16])

    def _prepare_search(self) -> None:
        """Make the inverted file of a large collection; remove those of other features."""
        folder = self._nearest()
        if len(self) >= nearest.LARGE and not folder.is_dir():
            nearest.build(folder, self._blocks, len(self), self.reranker.width)
        for other in self.place.glob(f"{NEAREST}*"):
            if other != folder:
                shutil.rmtree(other)


def _encoded(
    reranker: Reranker,
    missing: Sequence[tuple[Shard, Path]],
    weights: str,
    ray: str | None,
    workers: int | None,
) -> Iterator[tuple[int, dict[Path, str]]]:
    if ray is None:
        return (encode_shard(reranker, shard, path, weights) for shard, path in missing)
    return actors.encode_shards(reranker, missing, weights, ray, workers)


def _joined(blocks: Sequence[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    numbers, features = zip(*blocks, strict=True)
    return np.concatenate(numbers).astype(np.int64), np.concatenate(features)


def _name(shard: Shard, weights: str) -> str:
    said = b"\0".join([os.fsencode(shard.source), shard.state.encode(), weights.encode()])
    return hashlib.sha256(said).hexdigest()[:32] + SUFFIX
