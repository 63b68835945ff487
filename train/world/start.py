"""Weights that a training of the world begins with, kept in the repository until better ones ship.

Trainings take hours and machines come and go. `keep` writes the averaged weights of a run, matrices
as whole numbers of 8 bits with a scale for each row; `copy` lays them into a new run, where the
loop takes them in place of random ones.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from train.loop import START, STATE, Task

FOLDER = Path(__file__).with_name("start")
SCALE = ".row_scale"  # behind the name of a matrix
LARGEST = 127


def keep(network: str, task: Task, run: Path, folder: Path = FOLDER) -> Path:
    """Write the averaged weights of a run's network; `task` says what they are called.

    Raises FileNotFoundError if the network was not trained.
    """
    state = run / network / STATE
    if not state.is_file():
        raise FileNotFoundError(f"{state} is missing: run salon-train world {network} first")
    with safe_open(state, framework="pt") as file:
        tensors = {name: file.get_tensor(f"model.{name}") for name in task.state_dict()}
        for index, (name, _) in enumerate(task.named_parameters()):
            tensors[name] = file.get_tensor(f"ema.{index}")
    path = folder / f"{network}.safetensors"
    folder.mkdir(parents=True, exist_ok=True)
    save_file(packed(tensors), path, {"format": "pt"})
    return path


def packed(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return matrices (rows, …) as int8 with float32 scales (rows,), other numbers in float16."""
    found = {}
    for name, value in tensors.items():
        if not value.is_floating_point():
            found[name] = value
        elif value.ndim < 2:
            found[name] = value.half()
        else:
            rows = value.flatten(1).float()
            scale = rows.abs().amax(dim=1).clamp(min=1e-12) / LARGEST
            found[name] = (rows / scale[:, None]).round().to(torch.int8).view(value.shape)
            found[name + SCALE] = scale
    return found


def unpacked(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return what `packed` was given, rounded."""
    found = {}
    for name, value in tensors.items():
        if (scale := tensors.get(name + SCALE)) is not None:
            found[name] = value * scale.view(-1, *[1] * (value.ndim - 1))
        elif not name.endswith(SCALE):
            found[name] = value
    return found


def copy(run: Path, folder: Path = FOLDER) -> list[Path]:
    """Lay what is kept into a run: the tokenizer, and a beginning for each network.

    A network that was trained there goes on from its own state instead.
    """
    shutil.copytree(folder / "tokenizer", run / "tokenizer", dirs_exist_ok=True)
    begun = []
    for kept in sorted(folder.glob("*.safetensors")):
        path = run / kept.stem / START
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(unpacked(load_file(kept)), path, {"format": "pt"})
        begun.append(path)
    return begun
