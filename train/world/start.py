"""Weights that a training of the world begins with, kept in the repository until better ones ship.

Trainings take hours and machines come and go. `keep` writes the averaged weights of a run in half
precision; `copy` lays them into a new run, where the loop takes them in place of random ones.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import save_file

from train.loop import START, STATE, Task

FOLDER = Path(__file__).with_name("start")


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
    halves = {
        name: value.half() if value.is_floating_point() else value
        for name, value in tensors.items()
    }
    path = folder / f"{network}.safetensors"
    folder.mkdir(parents=True, exist_ok=True)
    save_file(halves, path, {"format": "pt"})
    return path


def copy(run: Path, folder: Path = FOLDER) -> list[Path]:
    """Lay what is kept into a run: the tokenizer, and a beginning for each network.

    A network that was trained there goes on from its own state instead.
    """
    shutil.copytree(folder / "tokenizer", run / "tokenizer", dirs_exist_ok=True)
    begun = []
    for kept in sorted(folder.glob("*.safetensors")):
        path = run / kept.stem / START
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(kept, path)
        begun.append(path)
    return begun
