"""Strict loading of model folders: every key, shape and byte is checked before a network runs.

diffusers and transformers fill missing keys with random numbers and only warn, so the networks are
built from their configs here and their weights read from safetensors files, and nothing else.
"""

import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, BinaryIO

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from safetensors.torch import save_file
from transformers import PreTrainedTokenizerFast
from transformers.models.clip.tokenization_clip import CLIPTokenizer

from pipelines.checkpoints.configs import read_config
from pipelines.checkpoints.errors import WeightsError
from pipelines.checkpoints.headers import AGAIN, Tensor
from pipelines.checkpoints.single_file import Piece
from pipelines.checkpoints.tokenizer_files import check_tokenizer_files
from pipelines.loading import Report
from pipelines.runtime.cpu import speed_up

READ_AT_ONCE = 2**22  # bytes of a file


PLAIN_TOKENIZER = "PreTrainedTokenizerFast"  # all of it is in tokenizer.json


# Networks of convolutions, with their channels last: the VAE decodes a quarter faster so, the UNet
# a twentieth.
LAST = (AutoencoderKL, UNet2DConditionModel)


FLOAT_TYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
}


# Keys that a file may hold beyond the network's own, by how they end or begin, and why.
EXTRA_KEY_ENDINGS = {
    "embeddings.position_ids": "a constant that transformers before 4.31 saved as a weight",
}


EXTRA_KEY_BEGINNINGS = {
    "model_ema.": "a second, averaged copy of the weights for training on",
}


class ByteCount:
    """Adds up the bytes of networks while they are loaded."""

    def __init__(
        self,
        networks: Mapping[str, torch.nn.Module],
        dtypes: Mapping[str, torch.dtype],
        report: Report,
    ) -> None:
        self.loaded = 0
        self.total = sum(
            dtypes[part].itemsize * weight.numel()
            for part, network in networks.items()
            for weight in network.state_dict().values()
        )
        self.report = report

    def add(self, weight: torch.Tensor) -> None:
        """Count one more tensor as loaded."""
        self.loaded += weight.nbytes
        self.report(self.loaded, self.total)


def _count_nothing(weight: torch.Tensor) -> None:
    """Ignore progress, for networks that load at once."""


def settle(network: torch.nn.Module, device: torch.device) -> None:
    """Bring a filled network to where it runs, ready to run."""
    network.to(device).eval().requires_grad_(False)
    if device.type == "cpu":
        speed_up([network])


def load_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """Load a folder's tokenizer from tokenizer.json or, for CLIP's, vocab.json and merges.txt."""
    check_tokenizer_files(folder)
    config = read_config(folder / "tokenizer_config.json")
    plain = config.get("tokenizer_class") == PLAIN_TOKENIZER
    old_files = [folder / "vocab.json", folder / "merges.txt"]
    has_old_files = not plain and all(file.is_file() for file in old_files)
    if not has_old_files and not (folder / "tokenizer.json").is_file():
        raise WeightsError(
            f"{folder} has neither tokenizer.json nor vocab.json and merges.txt: {AGAIN}"
        )
    try:
        loader = PreTrainedTokenizerFast if plain else CLIPTokenizer
        return loader.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # the tokenizers library raises plain Exception on a damaged file
        kind = PLAIN_TOKENIZER if plain else "CLIP tokenizer"
        raise WeightsError(
            f"{folder} holds no {kind} that can be read: {first_line(error)}"
        ) from error


@contextmanager
def building(folder: Path) -> Iterator[None]:
    """Build networks in this context without allocating weights; a config that builds none raises
    WeightsError."""
    try:
        with torch.device("meta"):  # no time is spent on random numbers that are replaced
            yield
    except WeightsError:
        raise
    except Exception as error:  # several libraries check configs, with errors of their own
        raise WeightsError(
            f"{folder} has a config that builds no network: {first_line(error)}"
        ) from error


def fill_position_ids(network: torch.nn.Module) -> None:
    """Compute the one constant of CLIP's towers that is not saved."""
    for module in network.modules():
        if isinstance(empty := getattr(module, "position_ids", None), torch.Tensor):
            module.position_ids = torch.arange(empty.shape[-1]).expand(1, -1)  # (1, T)


def first_line(error: Exception) -> str:
    """Shorten an error message of a library to one line."""
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def load_weights(
    network: torch.nn.Module,
    path: Path,
    header: Mapping[str, Tensor],
    dtype: torch.dtype,
    added: Callable[[torch.Tensor], None] = _count_nothing,
) -> None:
    """Load tensors into a network as `dtype`; keys and shapes must match exactly.

    `path` is what messages call their file, or the folder of their shards. Raises WeightsError
    naming the first keys that are missing, extra, misshapen, not floating point or not finite.
    """
    expected = network.state_dict().keys()
    names = {key: current_name(key, expected) for key in header}
    unknown = [key for key, name in names.items() if name not in expected and not may_ignore(key)]
    pieces = {name: Piece(key) for key, name in names.items() if name in expected}
    refuse(path, "missing keys", sorted(expected - pieces.keys()))
    refuse(path, "keys that the network does not have", unknown)
    fill(network, path, header, pieces, dtype, added)


def fill(
    network: torch.nn.Module,
    path: Path,
    header: Mapping[str, Tensor],
    pieces: Mapping[str, Piece],
    dtype: torch.dtype,
    added: Callable[[torch.Tensor], None] = _count_nothing,
) -> None:
    """Read each weight of a network from its place; `path` is what messages call it."""
    missing = sorted({piece.key for piece in pieces.values() if piece.key not in header})
    refuse(path, "missing keys", missing)
    expected = {key: tuple(value.shape) for key, value in network.state_dict().items()}
    tensors = {name: _cut(header[piece.key], piece) for name, piece in pieces.items()}
    misshapen = [
        f"{pieces[name].key} is {list(tensor.shape)}, not {list(expected[name])}"
        for name, tensor in tensors.items()
        if not _same_but_for_ones(tensor.shape, expected[name])
    ]
    wrong_type = [pieces[name].key for name, t in tensors.items() if t.dtype not in FLOAT_TYPES]
    refuse(path, "keys of the wrong shape", misshapen)
    refuse(path, "keys that are not floating point", wrong_type)

    layout = torch.channels_last if isinstance(network, LAST) else torch.contiguous_format
    state, not_finite = {}, []
    with ExitStack() as stack:
        opened = {each: stack.enter_context(each.open("rb")) for each in _paths(tensors)}
        for name, tensor in tensors.items():
            value = read_tensor(opened[tensor.path], tensor, dtype, layout)
            if not bool(value.isfinite().all()):
                not_finite.append(pieces[name].key)
            state[name] = (value.T.contiguous() if pieces[name].transposed else value).reshape(
                expected[name]
            )
            added(value)
    refuse(path, "keys with NaN or infinite values", not_finite)
    network.load_state_dict(state, strict=True, assign=True)


def _paths(tensors: Mapping[str, Tensor]) -> set[Path]:
    return {tensor.path for tensor in tensors.values()}


def read_tensor(
    file: BinaryIO,
    tensor: Tensor,
    dtype: torch.dtype,
    layout: torch.memory_format = torch.contiguous_format,
) -> torch.Tensor:
    """Read one tensor of an open safetensors file as `dtype`; `layout` is the memory format of 4-D
    tensors.

    It is converted a few rows at a time, so that no second copy of it is ever in memory.
    """
    layout = layout if len(tensor.shape) == 4 else torch.contiguous_format
    value = torch.empty(tensor.shape, dtype=dtype, memory_format=layout)
    if value.numel() == 0:
        return value
    rows = value if value.ndim else value[None]
    bytes_each = (tensor.stop - tensor.start) // len(rows)
    step = max(1, READ_AT_ONCE // bytes_each)
    file.seek(tensor.start)
    for part in rows.split(step):
        data = bytearray(bytes_each * len(part))
        file.readinto(data)  # type: ignore[attr-defined]
        part.copy_(torch.frombuffer(data, dtype=FLOAT_TYPES[tensor.dtype]).reshape(part.shape))
    return value


def _cut(tensor: Tensor, piece: Piece) -> Tensor:
    """Return the part of a tensor's bytes that a piece covers."""
    shape = tensor.shape[::-1] if piece.transposed else tensor.shape
    if piece.third is None:
        return replace(tensor, shape=shape)
    length = (tensor.stop - tensor.start) // 3
    start = tensor.start + piece.third * length
    rows = (shape[0] // 3, *shape[1:]) if shape else shape
    return replace(tensor, shape=rows, start=start, stop=start + length)


def _same_but_for_ones(shape: tuple[int, ...], expected: tuple[int, ...]) -> bool:
    """Return whether two shapes differ only in trailing ones: a 1x1 convolution is a linear map."""
    longest = max(len(shape), len(expected))
    return shape + (1,) * (longest - len(shape)) == expected + (1,) * (longest - len(expected))


def save_network(network: torch.nn.Module, config: Any, folder: Path) -> None:
    """Write one of our own networks: its config, a dataclass, as config.json, and its weights."""
    folder.mkdir(parents=True, exist_ok=True)
    entries = {"_class_name": type(network).__name__, **asdict(config)}
    (folder / "config.json").write_text(json.dumps(entries, indent=2) + "\n", encoding="utf-8")
    state = {key: value.contiguous() for key, value in network.state_dict().items()}
    save_file(state, folder / "model.safetensors", {"format": "pt"})


def refuse(path: Path, what: str, keys: Collection[str], shown: int = 3) -> None:
    """Raise WeightsError naming the first of `keys`, if there are any."""
    if keys:
        more = f" and {len(keys) - shown} more" if len(keys) > shown else ""
        raise WeightsError(f"{path} has {what}: {', '.join(list(keys)[:shown])}{more}")


_T5_EMBEDDING = "embed_tokens.weight"


_OLD_ATTENTION = {".query.": ".to_q.", ".key.": ".to_k.", ".value.": ".to_v."}


def current_name(key: str, expected: Collection[str]) -> str:
    """Return what the installed libraries call a key that older ones saved; `key` itself if nothing
    fits.

    transformers 5 dropped the prefix of the keys of CLIP's towers, and diffusers 0.12 renamed the
    projections in the VAE's attention. Files with either spelling are around. What a file calls the
    encoder of T5 is all of it here.
    """
    projection = key.replace(".proj_attn.", ".to_out.0.")
    for old, new in _OLD_ATTENTION.items():
        projection = projection.replace(old, new)
    vision = key.replace("vision_model.vision_model.", "vision_model.")
    t5 = _T5_EMBEDDING if key == "shared.weight" else key.removeprefix("encoder.")
    spellings = (key, key.removeprefix("text_model."), f"text_model.{key}", vision, projection, t5)
    return next((name for name in spellings if name in expected), key)


def may_ignore(key: str) -> bool:
    """Return whether a key that the network lacks is one of the few known to be harmless."""
    return key.endswith(tuple(EXTRA_KEY_ENDINGS)) or key.startswith(tuple(EXTRA_KEY_BEGINNINGS))


def check_pairs(folder: Path, pairs: Iterable[tuple[str, int, str, int | None]]) -> None:
    """Raise WeightsError naming both numbers of the first pair that differs."""
    for left, left_size, right, right_size in pairs:
        if left_size != right_size:
            raise WeightsError(
                f"{folder} does not fit together: {left} is {left_size}, {right} is {right_size}"
            )


def check_tokenizer(
    folder: Path, tokenizer: PreTrainedTokenizerFast, reader: str, vocabulary: int | None
) -> None:
    """Raise WeightsError if a tokenizer has ids beyond those that the network reads.

    Ids may have gaps, so that few tokens can have a high one.
    """
    tokens = 1 + max(tokenizer.get_vocab().values(), default=-1)
    if vocabulary is not None and tokens > vocabulary:
        raise WeightsError(
            f"{folder} does not fit together: the tokenizer has ids up to {tokens - 1}, "
            f"{reader} is {vocabulary}"
        )
