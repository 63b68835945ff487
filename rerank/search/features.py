"""Features of shards, a Parquet file each: whole, or not there.

The rows of a file are those of its shard: `name` of the image as the file system has it, `features`
or null, `problem` or null. Its metadata say where the images are, and whose features these are.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rerank.extras import load_extra
from rerank.model.preprocessing import ImageLike
from rerank.reranker import Reranker
from rerank.search.shards import Shard
from rerank.whole_files import written_whole

SUFFIX = ".parquet"


@dataclass(frozen=True)
class Features:
    """The Parquet file of a shard, whose images are at `source`; `found` of its rows are images."""

    path: Path
    source: Path
    model: str
    rows: int
    found: int

    @classmethod
    def open(cls, path: Path) -> "Features":
        """Read what it says of itself. Raises ValueError for one that is damaged, or not ours."""
        with parquet().ParquetFile(path) as file:
            said = {k.decode(): v for k, v in (file.schema_arrow.metadata or {}).items()}
            try:
                source = Path(os.fsdecode(said["source"]))
                found, rows = int(said["images"]), file.metadata.num_rows
                return cls(path, source, said["model"].decode(), rows, found)
            except KeyError as error:
                raise ValueError(f"it has no {error}") from error

    def read(self, width: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the rows that have features, and these: (n,) and (n, D) fp32.

        Raises ValueError where they are damaged, or not so wide.
        """
        column = parquet().read_table(self.path, columns=["features"]).column(0).combine_chunks()
        there = np.flatnonzero(column.is_valid().to_numpy(zero_copy_only=False))
        values = column.values.to_numpy(zero_copy_only=False)
        if values.dtype != np.float32 or len(values) != len(column) * width:
            raise ValueError(f"features are not {width} wide")
        return there, values.reshape(-1, width)[there]

    def name(self, row: int) -> Path:
        """Return what the image of a row is called: a path, also inside of a shard."""
        column = parquet().read_table(self.path, columns=["name"]).column(0)
        return Path(os.fsdecode(column[row].as_py()))


def encode_shard(
    reranker: Reranker, shard: Shard, path: Path, weights: str
) -> tuple[int, dict[Path, str]]:
    """Write the features of a shard; return the number of images, and why others could not be read.

    Raises OSError when the disk is full.
    """
    import pyarrow as pa

    names: list[bytes] = []
    problems: dict[int, str] = {}
    rows: list[int] = []  # those that the reranker gets

    def images() -> Iterator[ImageLike]:
        for name, image in shard.items():
            names.append(name)
            if isinstance(image, Exception):
                problems[len(names) - 1] = str(image)
            else:
                rows.append(len(names) - 1)
                yield image

    encoded = reranker.encode(images(), skip_bad=True)
    problems |= {rows[index]: why for index, why in encoded.failed.items()}
    values = np.zeros((len(names), reranker.width), np.float32)
    values[rows] = encoded.features.cpu().numpy()
    for row in np.flatnonzero(~np.isfinite(values).all(1)):
        problems.setdefault(int(row), "the model gives no finite features")
    mask = np.zeros(len(names), bool)
    mask[list(problems)] = True
    table = pa.table(
        {
            "name": pa.array(names, pa.binary()),
            "features": pa.FixedSizeListArray.from_arrays(
                pa.array(np.nan_to_num(values).ravel()), reranker.width, mask=pa.array(mask)
            ),
            "problem": pa.array([problems.get(row) for row in range(len(names))], pa.string()),
        }
    ).replace_schema_metadata(
        {
            "source": os.fsencode(shard.source),
            "model": weights,
            "images": str(len(names) - len(problems)),
        }
    )
    with written_whole(path) as temporary:
        parquet().write_table(table, temporary, compression="none", use_dictionary=False)
    failed = {Path(os.fsdecode(names[row])): why for row, why in sorted(problems.items())}
    return len(names) - len(problems), failed


def open_all(place: Path, weights: str) -> tuple[list[Features], list[str]]:
    """Return the files of these weights, by name, and what is wrong with others, a line each."""
    opened, problems = [], []
    for path in sorted(place.glob(f"*{SUFFIX}")):
        try:
            features = Features.open(path)
        except (ValueError, OSError) as error:
            problems.append(f"{path}: damaged, and left out ({error})")
            continue
        if features.model == weights:
            opened.append(features)
    return opened, problems


def parquet() -> Any:
    """Return pyarrow's module for Parquet files. Raises MissingExtraError."""
    return load_extra("pyarrow.parquet", "pyarrow", "search")
