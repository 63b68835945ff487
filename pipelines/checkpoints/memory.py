"""The memory that weights will take, estimated from the headers of their files. Loads no torch."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path

from pipelines.checkpoints.headers import BYTES_OF_TYPE, Tensor, read_headers, shards, weights_files

Header = Mapping[str, Tensor]  # what a file says of its tensors


@dataclass(frozen=True)
class WeightsMemory:
    """Bytes that the weights of a model take in the dtype in which they run."""

    parts: Mapping[str, int]  # by the names of a diffusers folder
    largest: int  # of a single layer

    @property
    def weights(self) -> int:
        """All of them."""
        return sum(self.parts.values())

    def on_device(self, offload: str) -> int:
        """Return the most that is on the device at a time; `offload` keeps the rest on the host."""
        most = {"none": self.weights, "model": max(self.parts.values(), default=0)}
        return most.get(offload, self.largest)


@dataclass(frozen=True)
class DrawingMemory:
    """Bytes that drawing takes beside weights and what goes with the pixels of an image."""

    prompt: int = 0  # what is remembered of a prompt, for all its candidates
    candidate: int = 0  # and for each of them


def measure(
    headers: Mapping[str, Header],
    bytes_per_number: int,
    in_float32: Mapping[str, tuple[str, ...]],
) -> WeightsMemory:
    """Return the memory of weights that run at so many bytes a number: 4, or 2 in half precision.

    `in_float32` says how the keys end, by part, that stay in float32 where all else does not. That
    is so in float16 alone, so this is the most.
    """
    sizes = {
        part: {
            key: prod(tensor.shape)
            * (4 if key.endswith(in_float32.get(part, ())) else bytes_per_number)
            for key, tensor in header.items()
        }
        for part, header in headers.items()
    }
    layers: dict[tuple[str, str], int] = {}
    for part, tensors in sizes.items():
        for key, size in tensors.items():
            layer = part, key.rpartition(".")[0]
            layers[layer] = layers.get(layer, 0) + size
    return WeightsMemory(
        {part: sum(tensors.values()) for part, tensors in sizes.items()},
        max(layers.values(), default=0),
    )


def parts_of(folder: Path, stems: Mapping[str, str]) -> dict[str, Header]:
    """Return the tensors of a folder's parts, without those that are no weights.

    `stems` says how the file of each part is called. Raises WeightsError for a file that is
    missing or damaged.
    """
    return {part: part_of(folder / part, stem) for part, stem in stems.items()}


def part_of(folder: Path, stem: str) -> dict[str, Tensor]:
    """Return the tensors of one part; see `parts_of`."""
    return weights_in(read_headers(weights_files(folder, stem, stem)))


def checker_of(folder: Path) -> Header:
    """Return the tensors of a folder's safety checker, which runs in float32."""
    files = weights_files(folder / "safety_checker", "model", "pytorch_model")
    return weights_in(read_headers(files))


def all_shards(folder: Path) -> Header:
    """Return the tensors of all shards of a part together."""
    paths, _ = shards(folder)
    return weights_in(read_headers(paths))


def weights_in(header: Header) -> dict[str, Tensor]:
    """Return the tensors that are weights, which others than numbers of positions are."""
    return {key: tensor for key, tensor in header.items() if tensor.dtype in BYTES_OF_TYPE}
