"""The nearest of millions of features, by inverted files of faiss that stay on the disk.

Features are put into lists by the nearest of some centres, and a search looks into the lists whose
centres are nearest to what is wanted (Jégou et al., TPAMI 2011, section IV). They are mapped into
memory, so a search reads those that it looks into, and nothing else. Each file has a part of every
list, as only a part is in memory when they are made.
"""

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from rerank.extras import load_extra

LARGE = 100_000  # features, from where on it is worth while
TRAINED_ON = 64  # features for each centre
BLOCK = 100_000  # features in memory at once, and in one file
LOOKED_INTO = 64  # lists, unless there are fewer
SUFFIX = ".faiss"

Blocks = Callable[[], Iterator[tuple[np.ndarray, np.ndarray]]]  # numbers (n,) and features (n, D)


def build(folder: Path, blocks: Blocks, total: int, width: int) -> None:
    """Make the inverted files of `total` features in `folder`, which is whole or not there after.

    Raises MissingExtraError without faiss, OSError when the disk is full.
    """
    faiss = load_extra("faiss", "faiss-cpu", "search")
    needed = total * (width * 4 + 8)
    if shutil.disk_usage(folder.parent).free < needed:
        raise OSError(errno.ENOSPC, f"{os.strerror(errno.ENOSPC)}: {needed:,} bytes", str(folder))
    temporary = folder.with_name(f".{os.getpid()}-{folder.name}.new")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        centres = max(1, int(total**0.5))
        index = faiss.index_factory(width, f"IVF{centres},Flat", faiss.METRIC_INNER_PRODUCT)
        index.cp.min_points_per_centroid = 1  # no advice on standard output
        index.train(_sample(blocks, total, min(total, centres * TRAINED_ON), width))
        for number, (numbers, features) in enumerate(blocks()):
            index.reset()
            index.add_with_ids(features, numbers)
            faiss.write_index(index, str(temporary / f"{number:06}{SUFFIX}"))
        shutil.rmtree(folder, ignore_errors=True)
        temporary.rename(folder)
    except RuntimeError as error:  # as faiss says all that goes wrong
        raise OSError(f"{folder}: cannot be written ({error})") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def search(folder: Path, wanted: np.ndarray, k: int) -> list[tuple[int, float]]:
    """Return number and inner product of about the k nearest to `wanted` (D,), best first.

    Raises MissingExtraError without faiss, ValueError for a file that is damaged.
    """
    faiss = load_extra("faiss", "faiss-cpu", "search")
    found: list[tuple[int, float]] = []
    for path in sorted(folder.glob(f"*{SUFFIX}")):
        try:
            index = faiss.read_index(str(path), faiss.IO_FLAG_MMAP)
        except RuntimeError as error:
            raise ValueError(
                f"{path}: damaged; remove {folder}, and `rerank index` makes it again"
            ) from error
        index.nprobe = min(LOOKED_INTO, index.nlist)
        scores, numbers = index.search(wanted[None], k)
        pairs = zip(numbers[0].tolist(), scores[0].tolist(), strict=True)
        found += [pair for pair in pairs if pair[0] >= 0]
    return sorted(found, key=lambda pair: -pair[1])[:k]


def _sample(blocks: Blocks, total: int, number: int, width: int) -> np.ndarray:
    """Return (number, width) features from everywhere, the same ones each time."""
    chosen = np.sort(np.random.default_rng(0).choice(total, number, replace=False))
    sample, filled, before = np.empty((number, width), np.float32), 0, 0
    for numbers, features in blocks():
        own = chosen[(chosen >= before) & (chosen < before + len(numbers))] - before
        sample[filled : filled + len(own)] = features[own]
        filled, before = filled + len(own), before + len(numbers)
    return sample
