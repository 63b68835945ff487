"""How a collection of the reranker grows: `python -m benchmarks.collection`.

The network is simulated: it gives features at random, near one of as many centres as a thousandth
of the images. All else is real: features are written shard by shard, the inverted file is made, and
searches read from the disk. Printed for each number of images are the seconds for both, the peak of
memory over that before, the size on disk, and, for searches, the median of the seconds and how many
of the ten nearest were found.

    python -m benchmarks.collection
    python -m benchmarks.collection --images 10000 100000
"""

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
import torch

from rerank.images import Encoded
from rerank.search.collection import Collection
from rerank.search.features import encode_shard
from rerank.search.shards import Item

WIDTH, SHARD, QUERIES = 512, 10_000, 20


class Simulated:
    """A reranker whose features are near one of some centres."""

    width = WIDTH
    name = "simulated"

    def __init__(self, folder: Path, images: int) -> None:
        self.folder = folder
        self._random = np.random.default_rng(0)
        self._centres = self._random.standard_normal((max(1, images // 1000), WIDTH), np.float32)

    def encode(self, images: Iterable[object], *, skip_bad: bool) -> Encoded:
        """Count the images, and give each a vector."""
        return Encoded(torch.from_numpy(self.vectors(sum(1 for _ in images))))

    def image_features(self, images: Sequence[np.ndarray]) -> torch.Tensor:
        """Take one image for its vector."""
        return torch.from_numpy(images[0][None])

    def vectors(self, number: int) -> np.ndarray:
        near = self._centres[self._random.integers(len(self._centres), size=number)]
        vectors = near + self._random.standard_normal((number, WIDTH), np.float32)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@dataclass(frozen=True)
class Shard:
    """So many images that are not there."""

    source: Path
    state: str = ""

    def items(self) -> Iterator[Item]:
        """Yield names without images."""
        for number in range(SHARD):
            yield f"{self.source}/{number}".encode(), b""


def main() -> None:
    """Measure each number of images in a process of its own, as memory is looked at."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if not options.alone:
        for images in options.images:
            own = ["--images", str(images), "--alone"]
            subprocess.run([sys.executable, "-m", "benchmarks.collection", *own], check=True)
        return
    [images] = options.images
    with tempfile.TemporaryDirectory() as folder:
        place, before = Path(folder), _peak()
        reranker = Simulated(place, images)
        began = time.monotonic()
        for number in range(images // SHARD):
            shard = Shard(Path(f"/{number}"))
            encode_shard(reranker, shard, place / f"{number:08}.parquet", "")  # type: ignore[arg-type]
        written = time.monotonic() - began
        collection = Collection._of(reranker, place, "")  # type: ignore[arg-type]
        began = time.monotonic()
        collection._prepare_search()
        prepared = time.monotonic() - began
        memory = _peak() - before
        size = sum(file.stat().st_size for file in place.rglob("*") if file.is_file())
        print(
            f"{images:>9,} images: written in {written:.1f} s, inverted file in {prepared:.1f} s, "
            f"memory + {memory / 2**20:.0f} MB, {size / 2**20:,.0f} MB on disk"
        )
        _search(collection, reranker)


def _search(collection: Collection, reranker: Simulated) -> None:
    listed, read, found = [], [], 0
    for wanted in reranker.vectors(QUERIES):
        began = time.monotonic()
        some = collection.search(wanted)
        listed.append(time.monotonic() - began)
        began = time.monotonic()
        nearest_ones = collection.search(wanted, exhaustive=True)
        read.append(time.monotonic() - began)
        found += len({each.path for each in some} & {each.path for each in nearest_ones})
    print(
        f"{'':>9} a search {median(listed):.3f} s, exhaustive {median(read):.3f} s; "
        f"{found / QUERIES / 10:.0%} of the ten nearest found"
    )


def _peak() -> int:
    """Return the most memory so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    main()
