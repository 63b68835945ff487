"""The headers of safetensors files, read without torch and without the weights.

The format: 8 bytes with the length of the header, the header as JSON, then the tensors' bytes.
"""

import math
import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Ge, Len, Lt
from typing_extensions import TypedDict

from pipelines.checkpoints.configs import check_type, parse_json
from pipelines.checkpoints.errors import WeightsError

MAX_HEADER_BYTES = 10_000_000  # eighty thousand tensors; larger ones are made to exhaust memory
AGAIN = "copy or download it again"
SHARD = re.compile(r"-\d{5}-of-(\d{5})(?=$|\.)")
# Of the same weights, in the order in which they are preferred; "non_ema" is for training on.
VARIANTS = (None, "fp16", "bf16", "fp32", "ema", "non_ema")
_PICKLE = "it is a pickle, which can run any code, and not opened"
OTHER_FILES = {  # why not, by suffix
    **dict.fromkeys((".ckpt", ".pt", ".pth", ".bin", ".pkl"), _PICKLE),
    ".gguf": "GGUF holds quantized weights, which are not read",
    ".json": "name the folder that it is in",
    ".onnx": "ONNX holds a network that is compiled for other programs",
}
BYTES_OF_TYPE = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1}


Count = Annotated[int, Ge(0), Lt(2**62)]


class Entry(TypedDict):
    """What a header holds of each tensor. No network has tensors of more dimensions."""

    dtype: str
    shape: Annotated[list[Count], Len(0, 8)]
    data_offsets: Annotated[list[Count], Len(2, 2)]


@dataclass(frozen=True)
class Tensor:
    """What a safetensors header says of one tensor; `start` and `stop` are bytes of its file."""

    dtype: str
    shape: tuple[int, ...]
    start: int = 0
    stop: int = 0
    path: Path = Path()


def check_suffix(path: Path) -> None:
    """Raise WeightsError for a file that is not called .safetensors, and say what it is instead."""
    if path.suffix == ".safetensors":
        return
    why = OTHER_FILES.get(path.suffix.lower(), "no other kind of file is read")
    raise WeightsError(f"{path} is not a .safetensors file: {why}")


def read_header(path: Path) -> dict[str, Tensor]:
    """Read the names, dtypes and shapes of a safetensors file, and check that the file is complete.

    Raises WeightsError with the sizes for a file that was cut off, with what it is instead for a
    Git LFS pointer or a web page, and with the name of a tensor whose bytes do not fit its shape.
    """
    data_start, entries = _read(path)
    entries.pop("__metadata__", None)
    try:
        check_type(entries, dict[str, Entry])
    except ValueError as error:
        raise WeightsError(
            f"{path} is no safetensors file: its header is not readable ({error})"
        ) from None
    tensors = {
        key: Tensor(
            entry["dtype"],
            tuple(entry["shape"]),
            data_start + entry["data_offsets"][0],
            data_start + entry["data_offsets"][1],
            path,
        )
        for key, entry in entries.items()
    }
    ends = [tensor.stop for tensor in tensors.values()]
    misfits = [key for key, tensor in tensors.items() if not _fits(tensor)]
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
    try:
        check_type(metadata, dict[str, str])
    except ValueError:
        return {}
    return dict(metadata)


def shards(folder: Path, stem: str | None = None) -> tuple[list[Path], str | None]:
    """Find the safetensors files of one component, and which variant they are.

    With `stem` only those of this name. A variant such as fp16 is taken where there is no other;
    of several the first in `VARIANTS`. Raises WeightsError for variants that nobody can choose
    from, and where one of the shards is missing.
    """
    by_variant: dict[str | None, list[Path]] = {}
    for path in sorted(folder.glob("*.safetensors")):
        name, _, variant = SHARD.sub("", path.name.removesuffix(".safetensors")).partition(".")
        if stem is None or name == stem:
            by_variant.setdefault(variant or None, []).append(path)
    if not by_variant:
        return [], None
    unknown = [variant for variant in by_variant if variant not in VARIANTS]
    chosen = next((v for v in VARIANTS if v in by_variant), unknown[0] if unknown else None)
    if chosen in unknown and len(unknown) > 1:
        raise WeightsError(f"{folder} holds the variants {', '.join(map(str, unknown))}: keep one")
    paths = by_variant[chosen]
    whole = [path for path in paths if SHARD.search(path.name) is None]
    if whole:
        return whole, chosen
    counts = {int(match[1]) for path in paths if (match := SHARD.search(path.name))}
    if counts != {len(paths)}:
        raise WeightsError(f"{folder} holds {len(paths)} of {max(counts)} shards: {AGAIN}")
    return paths, chosen


def weights_files(folder: Path, stem: str, pickle_stem: str) -> list[Path]:
    """Find the safetensors files of one component: one, or its shards; see `shards`.

    Raises WeightsError where there is none, and names a pickle that is there instead.
    """
    if paths := shards(folder, stem)[0]:
        return paths
    for pickled in sorted([*folder.glob(f"{pickle_stem}*.bin"), *folder.glob(f"{stem}*.ckpt")]):
        raise WeightsError(
            f"{pickled} is a pickle, which can run any code; only safetensors are loaded: "
            f"get {folder}/{stem}.safetensors instead"
        )
    raise WeightsError(f"{folder}/{stem}.safetensors is missing: {AGAIN}")


def read_headers(paths: Sequence[Path]) -> dict[str, Tensor]:
    """Read the headers of one component's files together. Raises WeightsError for a tensor that two
    of them hold."""
    tensors: dict[str, Tensor] = {}
    for path in paths:
        header = read_header(path)
        if twice := tensors.keys() & header.keys():
            raise WeightsError(f"{path} holds {min(twice)}, which another shard holds too: {AGAIN}")
        tensors |= header
    return tensors


def in_messages(paths: Sequence[Path]) -> Path:
    """Return what to call the files of one component: the file, or the folder of its shards."""
    return paths[0] if len(paths) == 1 else paths[0].parent


def _read(path: Path) -> tuple[int, dict[str, Any]]:
    """Return where the bytes of the tensors begin, and the entries of the header."""
    if not path.is_file():
        raise WeightsError(f"{path} is no file: name a safetensors file")
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
        return 8 + length, parse_json(header)
    except ValueError as error:
        raise WeightsError(
            f"{path} is no safetensors file: its header is not readable ({error})"
        ) from None


def _fits(tensor: Tensor) -> bool:
    """Return whether a tensor has as many bytes as its shape needs; True for unknown dtypes."""
    bytes_each = BYTES_OF_TYPE.get(tensor.dtype)
    if tensor.start > tensor.stop:
        return False
    return bytes_each is None or tensor.stop - tensor.start == bytes_each * math.prod(tensor.shape)
