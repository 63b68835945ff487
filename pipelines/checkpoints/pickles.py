"""The tensors in a download, read without running any code in it.

Checkpoints of the years before safetensors are pickles, which can run any code. PyTorch's
restricted unpickler builds tensors and plain containers and refuses the rest; classes on a short
list become records without behaviour, and the classes themselves are never imported.
"""

import pickle
import re
import zipfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch.serialization import safe_globals

from pipelines.checkpoints.errors import WeightsError
from pipelines.checkpoints.headers import AGAIN, read_header
from pipelines.checkpoints.loading import first_line

TRAINER = ("pytorch_lightning.", "argparse.Namespace")  # what trainers store beside the weights
# Where in their files the weights are …
WEIGHTS = ("params_ema", "params", "state_dict", "model", "module")
DEEPEST = 3  # … one in the other, at most
MODULES = ("dall_e.", "torch.nn.modules.")  # whole networks, as OpenAI saved them
ZIP, PICKLE = b"PK", b"\x80"  # how files of torch.save begin, since 1.6 and before


class Record:
    """A stand-in for an object whose class is not loaded: its attributes and nothing else."""

    def __init__(self, *arguments: object) -> None:
        self.arguments = arguments

    def __setstate__(self, state: object) -> None:
        if isinstance(state, Mapping):
            self.__dict__.update(state)


def only_file(folder: Path, what: str, *patterns: str) -> Path:
    """Find the one file in a folder that matches one of the patterns and holds `what`.

    Raises WeightsError if there is none, or more than one.
    """
    found = sorted(path for pattern in patterns for path in folder.glob(pattern))
    if len(found) != 1:
        names = ", ".join(path.name for path in found) if found else "none"
        raise WeightsError(
            f"{folder} must hold one {' or '.join(patterns)} with {what}; it holds {names}"
        )
    return found[0]


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """Map the tensors of a safetensors file or a pickled state dict from disk, by name.

    Raises WeightsError if the file is missing, damaged, holds something else, or would run code.
    """
    if not path.is_file():
        raise WeightsError(f"{path} is missing: {AGAIN}")
    if not _is_pickle(path):
        read_header(path)
        try:
            return load_file(path)
        except SafetensorError as error:
            raise WeightsError(f"{path} cannot be read: {error}") from error
    loaded = read_pickle(path, harmless=TRAINER)
    for _ in range(DEEPEST):
        loaded = _unwrapped(loaded)
    if not isinstance(loaded, Mapping) or not loaded:
        raise WeightsError(f"{path} holds no weights, but a {type(loaded).__name__}")
    others = [str(k) for k, value in loaded.items() if not isinstance(value, torch.Tensor)]
    if others:
        raise WeightsError(f"{path} holds more than tensors: {', '.join(others[:3])}")
    return {str(key): value for key, value in loaded.items()}


def _unwrapped(loaded: Any) -> Any:
    """Return the weights within what a trainer saved, or the object itself if it is bare."""
    places = [loaded.get(name) for name in WEIGHTS] if isinstance(loaded, Mapping) else []
    return next((place for place in places if isinstance(place, Mapping)), loaded)


def read_network(path: Path) -> dict[str, torch.Tensor]:
    """Read the parameters of a network that was pickled as a whole, by their names in it.

    Raises WeightsError as `read_tensors` does.
    """
    if not path.is_file():
        raise WeightsError(f"{path} is missing: {AGAIN}")
    if not _is_pickle(path):
        raise WeightsError(f"{path} is no file of torch.save: {AGAIN}")
    parameters = dict(_parameters(read_pickle(path, harmless=MODULES), ""))
    if not parameters:
        raise WeightsError(f"{path} holds no network with parameters")
    return parameters


def read_pickle(path: Path, harmless: Collection[str] = ()) -> Any:
    """Read what torch.save wrote, with Records for objects whose class begins with one of
    `harmless`.

    Raises WeightsError naming what the file would run, if there is anything else in it.
    """
    zipped = zipfile.is_zipfile(path)
    if zipped:
        _refuse_bomb(path)
    records: set[str] = set()
    while True:
        try:
            with safe_globals([(Record, name) for name in records]):
                return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
        except pickle.UnpicklingError as error:
            name = _blocked(error)
            if name is None:
                raise WeightsError(
                    f"{path} is refused: it holds more than tensors ({_reason(error)})"
                ) from None
            if name in records or not name.startswith(tuple(harmless)):
                raise WeightsError(
                    f"{path} is refused: loading it would run {name}, and weights need no code"
                ) from None
            records.add(name)
        except Exception as error:  # a damaged file makes torch raise errors of many kinds
            raise WeightsError(f"{path} cannot be read: {first_line(error)}; {AGAIN}") from None


def _blocked(error: pickle.UnpicklingError) -> str | None:
    """Return the class or function that torch's unpickler refuses to load, if it names one."""
    named = re.search(r"GLOBAL ([\w.]+)", str(error))
    return None if named is None else named[1]


def _reason(error: pickle.UnpicklingError) -> str:
    """Extract the reason from the advice that torch wraps around it."""
    reason = re.search(r"WeightsUnpickler error:\s*(.+)", str(error))
    return first_line(error) if reason is None else reason[1]


def _is_pickle(path: Path) -> bool:
    with path.open("rb") as file:
        start = file.read(2)
    return start == ZIP or start[:1] == PICKLE


def _refuse_bomb(path: Path) -> None:
    """Refuse compressed entries: torch.save compresses nothing, so none is larger than the file."""
    with zipfile.ZipFile(path) as archive:
        claimed = sum(entry.file_size for entry in archive.infolist())
    if claimed > path.stat().st_size:
        raise WeightsError(f"{path} is refused: it would unpack to {claimed} bytes")


def _parameters(network: Any, prefix: str) -> list[tuple[str, torch.Tensor]]:
    """Collect the parameters of a recorded module and of the modules in it, by their full names."""
    state = vars(network) if isinstance(network, Record) else {}
    own = [
        (prefix + name, value.data)
        for name, value in state.get("_parameters", {}).items()
        if isinstance(value, torch.Tensor)
    ]
    inner = [
        pair
        for name, module in state.get("_modules", {}).items()
        for pair in _parameters(module, f"{prefix}{name}.")
    ]
    return own + inner
