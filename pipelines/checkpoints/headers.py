"""The headers of safetensors files, read without torch and without the weights.

The format: 8 bytes with the length of the header, the header as JSON, then the tensors' bytes.
"""

import json
import math
import re
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.checkpoints.errors import WeightsError

MAX_HEADER_BYTES = 10_000_000  # eighty thousand tensors; larger ones are made to exhaust memory
AGAIN = "copy or download it again"
SHARD = re.compile(r"-\d{5}-of-\d{5}$")
BYTES_OF_TYPE = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}


@dataclass(frozen=True)
class Tensor:
    """What a safetensors header says of one tensor; `start` and `stop` are bytes of the file."""

    dtype: str
    shape: tuple[int, ...]
    start: int = 0
    stop: int = 0


def read_header(path: Path) -> dict[str, Tensor]:
    """Read the names, dtypes and shapes of a safetensors file, and check that the file is complete.

    Raises WeightsError with the sizes for a file that was cut off, with what it is instead for a
    Git LFS pointer or a web page, and with the name of a tensor whose bytes do not fit its shape.
    """
    data_start, entries = _read(path)
    entries.pop("__metadata__", None)
    try:
        tensors = {
            key: Tensor(
                entry["dtype"],
                tuple(entry["shape"]),
                data_start + entry["data_offsets"][0],
                data_start + entry["data_offsets"][1],
            )
            for key, entry in entries.items()
        }
        ends = [tensor.stop for tensor in tensors.values()]
        misfits = [key for key, tensor in tensors.items() if not _fits(tensor, data_start)]
    except (ValueError, TypeError, AttributeError, LookupError):
        raise WeightsError(f"{path} is no safetensors file: its header is not readable") from None
    size, expected = path.stat().st_size, max(ends, default=data_start)
    if size < expected:
        raise WeightsError(f"{path}: file is incomplete ({size} of {expected} bytes); {AGAIN}")
    if misfits:
        raise WeightsError(f"{path} is damaged: the bytes of {misfits[0]} do not fit its shape")
    return tensors


def read_metadata(path: Path) -> dict[str, str]:
    """Read the free-form metadata in the header of a safetensors file; {} if there is none."""
    _, entries = _read(path)
    metadata = entries.get("__metadata__", {})
    return metadata if isinstance(metadata, dict) else {}


def shards(folder: Path) -> tuple[list[Path], str | None]:
    """Find the safetensors files of one component of any class, and which variant they are.

    A variant such as fp16 is taken where there is no other.
    """
    by_variant: dict[str | None, list[Path]] = {}
    for path in sorted(folder.glob("*.safetensors")):
        name = SHARD.sub("", path.name.removesuffix(".safetensors"))
        _, dot, variant = name.partition(".")
        by_variant.setdefault(variant if dot else None, []).append(path)
    if not by_variant:
        return [], None
    chosen = None if None in by_variant else next(iter(by_variant))
    return by_variant[chosen], chosen


def weights_file(folder: Path, stem: str, pickle_stem: str) -> Path:
    """Find the safetensors file of one component; a variant such as fp16 if it is the only one."""
    variants = list(folder.glob(f"{stem}.*.safetensors"))
    for file in (folder / f"{stem}.safetensors", *(variants if len(variants) == 1 else [])):
        if file.is_file():
            return file
    for pickled in (folder / f"{pickle_stem}.bin", folder / f"{pickle_stem}.ckpt"):
        if pickled.is_file():
            raise WeightsError(
                f"{pickled} is a pickle, which can run any code; only safetensors are loaded: "
                f"get {folder}/{stem}.safetensors instead"
            )
    raise WeightsError(f"{folder}/{stem}.safetensors is missing: {AGAIN}")


def _read(path: Path) -> tuple[int, dict[str, Any]]:
    """Return where the bytes of the tensors begin, and the entries of the header."""
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        if start == b"version ":
            raise WeightsError(f"{path} is a Git LFS pointer, not the weights: run git lfs pull")
        if start.lstrip()[:1] == b"<":
            raise WeightsError(f"{path} is a web page, not weights: {AGAIN}")
        if size < 8:
            raise WeightsError(f"{path}: file is incomplete ({size} of at least 8 bytes); {AGAIN}")
        (length,) = struct.unpack("<Q", start)
        if length > MAX_HEADER_BYTES:
            raise WeightsError(f"{path} is no safetensors file: its header claims {length} bytes")
        if 8 + length > size:
            raise WeightsError(
                f"{path}: file is incomplete ({size} of at least {8 + length} bytes); {AGAIN}"
            )
        header = file.read(length)
    try:
        entries = json.loads(header)
    except (ValueError, RecursionError):
        entries = None
    if not isinstance(entries, dict):
        raise WeightsError(f"{path} is no safetensors file: its header is not readable")
    return 8 + length, entries


def _fits(tensor: Tensor, data_start: int) -> bool:
    """Return whether a tensor has as many bytes as its shape needs; True for unknown dtypes."""
    bytes_each = BYTES_OF_TYPE.get(tensor.dtype)
    if min(tensor.shape, default=0) < 0 or not data_start <= tensor.start <= tensor.stop:
        return False
    return bytes_each is None or tensor.stop - tensor.start == bytes_each * math.prod(tensor.shape)
