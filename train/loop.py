"""The one training loop: every network of the sticker world is trained by `train`.

A task says what a batch is, what its loss is and what to show; the loop does the rest: device,
precision, several processes and accumulation (accelerate), learning rate, moving average, log,
plot, contact sheets, atomic checkpoints. Data and noise of step n are functions of the seed and n
alone, so a resumed run is the run that was interrupted.
"""

from __future__ import annotations

import json
import math
import os
import random
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from accelerate import Accelerator
from diffusers.training_utils import EMAModel
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from pipelines.runtime.cpu import speed_up
from train import sharding
from train.muon import Muon

STATE = "state.safetensors"
START = "start.safetensors"  # weights alone, to begin with where there is no state


@dataclass(frozen=True)
class Schedule:
    """How long and how fast. The end is whichever of `steps` and `minutes` is given."""

    batch_size: int
    learning_rate: float
    warmup_steps: int = 200
    weight_decay: float = 0.01
    ema_decay: float = 0.999
    gradient_clip: float = 1.0
    accumulation: int = 1
    mixed_precision: str = "no"  # "no" | "bf16" | "fp16"; half precision is far slower on a CPU
    steps: int | None = None
    minutes: float | None = None
    save_minutes: float = 10.0
    seed: int = 0


class Task(torch.nn.Module):
    """What differs between the networks. Its parameters are what is trained; frozen networks that
    it needs are kept out of sight of `parameters()`."""

    fraction = 0.0  # of the budget that is spent, for schedules of a task's own; the loop sets it
    # Kinds of modules that compute one after the other: a sharded training has one whole at a time.
    blocks: tuple[type[torch.nn.Module], ...] = ()

    def batch(self, rng: random.Random, size: int, device: torch.device) -> Any:
        """Draw `size` training examples with `rng` as the only source of chance."""
        raise NotImplementedError

    def forward(self, batch: Any, generator: torch.Generator) -> dict[str, torch.Tensor]:
        """Scalar figures of a batch; the one named `loss` is minimised."""
        raise NotImplementedError

    def sheet(self) -> Image.Image:
        """Return an image by which a person judges the present weights."""
        raise NotImplementedError

    def save(self, folder: Path) -> None:
        """Write the present weights in the format that is shipped."""
        raise NotImplementedError


TaskT = TypeVar("TaskT", bound=Task)


def train(task: Task, schedule: Schedule, folder: Path) -> Path:
    """Train `task` in `folder` and return the folder of the averaged weights.

    Continues from `folder`/state.safetensors if it is there, else begins with the weights of
    `folder`/start.safetensors if those are. Ctrl-C and SIGTERM save and stop.

    Raises
    ------
    ValueError : neither or both of steps and minutes, a state of other tensors, or a sharding that
        is asked for and not possible.
    """
    if (schedule.steps is None) == (schedule.minutes is None):
        raise ValueError("say how long to train: either steps or minutes")
    accelerator = Accelerator(
        mixed_precision=schedule.mixed_precision,
        gradient_accumulation_steps=schedule.accumulation,
        fsdp_plugin=sharding.plan(task, schedule.mixed_precision),
    )
    folder.mkdir(parents=True, exist_ok=True)
    main = accelerator.is_main_process
    copied = sharding.whole_copy(task) if accelerator.is_fsdp2 and main else None
    if accelerator.device.type == "cpu":
        speed_up([task])
    optimizer: torch.optim.Optimizer = Muon(
        task, schedule.learning_rate, weight_decay=schedule.weight_decay
    )
    model, optimizer = accelerator.prepare(task, optimizer)  # from here on perhaps sharded
    ema = EMAModel(task.parameters(), decay=schedule.ema_decay, foreach=True)
    progress = _load_state(folder / STATE, task, ema, optimizer)
    log = _Log(folder / "log.jsonl", progress)
    save = partial(_save, folder, main, task, copied, ema, optimizer, progress, log)
    saved = time.monotonic()

    with _interruptible() as interrupted:
        stopped = False
        while not progress.finished(schedule) and not stopped:
            started = time.monotonic()
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(schedule, progress)
            task.fraction = progress.fraction(schedule)
            figures = _step(accelerator, task, model, optimizer, schedule, progress.step)
            ema.step(task.parameters())
            progress.step += 1
            now = time.monotonic()
            due = now - saved > 60 * schedule.save_minutes
            spent, stopped, due = _agreed(accelerator, now - started, bool(interrupted), due)
            progress.seconds += spent
            if main:
                log.add(figures)
            if due:
                save()
                saved = time.monotonic()
    save()
    accelerator.wait_for_everyone()
    return folder / "weights"


@dataclass
class Progress:
    step: int = 0
    seconds: float = 0.0

    def fraction(self, schedule: Schedule) -> float:
        """Return how much of the budget is spent, from 0 to 1."""
        if schedule.steps is not None:
            return self.step / schedule.steps
        assert schedule.minutes is not None
        return self.seconds / (60 * schedule.minutes)

    def finished(self, schedule: Schedule) -> bool:
        return self.fraction(schedule) >= 1


def learning_rate(schedule: Schedule, progress: Progress) -> float:
    """Linear warm-up by steps, then a half cosine to 2 % at the end of the budget."""
    warmup = min(1.0, (progress.step + 1) / schedule.warmup_steps)
    decay = 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(1.0, progress.fraction(schedule))))
    return schedule.learning_rate * warmup * decay


def _step(
    accelerator: Accelerator,
    task: Task,
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    schedule: Schedule,
    step: int,
) -> dict[str, torch.Tensor]:
    """Update the weights once: `accumulation` batches, forward and backward."""
    model.train()
    for part in range(schedule.accumulation):
        chance = f"{schedule.seed}:{step}:{part}:{accelerator.process_index}"
        rng = random.Random(chance)
        generator = torch.Generator().manual_seed(rng.getrandbits(63))
        batch = task.batch(rng, schedule.batch_size, accelerator.device)
        with accelerator.accumulate(model):
            with accelerator.autocast():
                figures = model(batch, generator)
            accelerator.backward(figures["loss"])
            if accelerator.sync_gradients:
                accelerator.clip_grad_norm_(model.parameters(), schedule.gradient_clip)
            optimizer.step()
            optimizer.zero_grad()
    return {name: value.detach() for name, value in figures.items()}


def _agreed(
    accelerator: Accelerator, seconds: float, stopped: bool, due: bool
) -> tuple[float, bool, bool]:
    """Return the mean over all processes, whether any must stop, and whether any should save.

    They must do both after the same step, or some wait forever for the others.
    """
    if accelerator.num_processes == 1:
        return seconds, stopped, due
    own = torch.tensor([seconds, stopped, due], device=accelerator.device)
    mean = accelerator.reduce(own, "mean").tolist()
    return mean[0], mean[1] > 0, mean[2] > 0


@contextmanager
def _interruptible() -> Iterator[list[int]]:
    """Collect Ctrl-C and SIGTERM instead of dying in the middle of a step."""
    received: list[int] = []
    kinds = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(kind, lambda number, _: received.append(number)) for kind in kinds]
    try:
        yield received
    finally:
        for kind, handler in zip(kinds, before, strict=True):
            signal.signal(kind, handler)


@contextmanager
def averaged(task: Task, ema: EMAModel, copied: Task | None) -> Iterator[Task]:
    """`task`, or the whole copy of a sharded one, with the averaged weights in place and in
    evaluation mode. Where there is no copy, a sharded task only gives its part."""
    if sharding.is_sharded(task):
        with sharding.filled(copied, task, ema.shadow_params):
            yield task if copied is None else copied
        return
    ema.store(task.parameters())
    ema.copy_to(task.parameters())
    task.eval()
    try:
        yield task
    finally:
        ema.restore(task.parameters())
        task.train()


def _save(
    folder: Path,
    main: bool,
    task: Task,
    copied: Task | None,
    ema: EMAModel,
    optimizer: torch.optim.Optimizer,
    progress: Progress,
    log: _Log,
) -> None:
    """Save a state; all processes call it, as each has a part of a sharded task; one writes."""
    if not main and not sharding.is_sharded(task):
        return
    if main:
        log.flush()
    with torch.no_grad(), averaged(task, ema, copied) as shown:
        if main:
            shown.save(folder / "weights")
            shown.sheet().save(folder / f"sheet-{progress.step:07d}.png")
    state = sharding.gather(_state(task, ema, optimizer), keep=main)
    if main:
        _write_state(folder / STATE, state, ema, progress)
        plot_losses(folder / "log.jsonl", folder / "loss.png")


def _state(task: Task, ema: EMAModel, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """Everything that a resumed run needs, sharded if the task is."""
    tensors = {f"model.{name}": value for name, value in task.state_dict().items()}
    tensors |= {f"ema.{index}": value for index, value in enumerate(ema.shadow_params)}
    for index, entry in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": value for name, value in entry.items()}
    return tensors


def _write_state(
    path: Path, state: dict[str, torch.Tensor], ema: EMAModel, progress: Progress
) -> None:
    """Write one safetensors file under its final name."""
    facts = {
        "step": str(progress.step),
        "seconds": str(progress.seconds),
        "ema_steps": str(ema.optimization_step),
    }
    temporary = path.with_suffix(".tmp")
    try:
        save_file(state, temporary, facts)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)  # half of one, where the disk is full


def _load_state(
    path: Path, task: Task, ema: EMAModel, optimizer: torch.optim.Optimizer
) -> Progress:
    if not path.is_file():
        if (start := path.with_name(START)).is_file():
            _begin_with(start, task, ema)
        return Progress()
    with safe_open(path, framework="pt") as file:
        facts = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    present, weights = task.state_dict(), _under("model.", tensors)
    for name in weights.keys() & present.keys():
        weights[name] = sharding.shard_like(weights[name], present[name])
    task.load_state_dict(weights)
    shadow = _under("ema.", tensors)
    if len(shadow) != len(ema.shadow_params):
        raise ValueError(f"{path} belongs to another network: start in an empty folder")
    for number, average in enumerate(ema.shadow_params):
        average.copy_(sharding.shard_like(shadow[str(number)], average))
    ema.optimization_step = int(facts["ema_steps"])
    parameters = [each for group in optimizer.param_groups for each in group["params"]]
    state: dict[int, dict[str, torch.Tensor]] = {}
    for name, value in _under("optimizer.", tensors).items():
        index, _, key = name.partition(".")
        parameter = parameters[int(index)]
        if value.shape == parameter.shape:  # all but the number of steps
            value = sharding.shard_like(value, parameter)
        state.setdefault(int(index), {})[key] = value
    optimizer.load_state_dict(optimizer.state_dict() | {"state": state})
    return Progress(int(facts["step"]), float(facts["seconds"]))


def load_averaged(task: TaskT, folder: Path) -> TaskT:
    """Return `task` in evaluation mode with the averaged weights of a training's folder.

    Raises FileNotFoundError if nothing was trained there.
    """
    path = folder / STATE
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: run salon-train {folder.name} first")
    tensors = load_file(path)
    task.load_state_dict(_under("model.", tensors))
    with torch.no_grad():
        for number, parameter in enumerate(task.parameters()):
            parameter.copy_(tensors[f"ema.{number}"])
    task.eval()
    return task


def _begin_with(path: Path, task: Task, ema: EMAModel) -> None:
    """Put weights, of any precision, in place of the random ones; optimiser and steps are new."""
    present = task.state_dict()
    weights = {
        name: sharding.shard_like(value.to(present[name].dtype), present[name])
        for name, value in load_file(path).items()
    }
    task.load_state_dict(weights)
    for average, parameter in zip(ema.shadow_params, task.parameters(), strict=True):
        average.copy_(parameter.detach())


def _under(prefix: str, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {
        name.removeprefix(prefix): value
        for name, value in tensors.items()
        if name.startswith(prefix)
    }


class _Log:
    """Means over `every` steps, one JSON object a line; lines after a resumed step are dropped."""

    def __init__(self, path: Path, progress: Progress, every: int = 50) -> None:
        self.path, self.progress, self.every = path, progress, every
        self.rows: list[dict[str, torch.Tensor]] = []
        if path.is_file():
            kept = [line for line in read_log(path) if line["step"] <= progress.step]
            path.write_text("".join(json.dumps(line) + "\n" for line in kept))

    def add(self, figures: dict[str, torch.Tensor]) -> None:
        self.rows.append(figures)  # tensors: reading them would make a GPU wait
        if len(self.rows) >= self.every:
            self.flush()

    def flush(self) -> None:
        """Write the mean of what has come since the last line.

        Raises
        ------
        FloatingPointError : the loss is no longer finite.
        """
        if not self.rows:
            return
        means = {
            name: float(torch.stack([row[name] for row in self.rows]).mean())
            for name in self.rows[0]
        }
        self.rows.clear()
        step, seconds = self.progress.step, round(self.progress.seconds, 1)
        if not math.isfinite(means["loss"]):
            raise FloatingPointError(f"the loss is not finite near step {step}: lower the rate")
        with self.path.open("a") as file:
            file.write(json.dumps({"step": step, "seconds": seconds} | means) + "\n")


def read_log(path: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def plot_losses(log: Path, out: Path) -> None:
    """Draw every figure of the log over the minutes of training, one panel each."""
    from matplotlib.figure import Figure

    lines = read_log(log)
    if not lines:
        return
    names = [name for name in lines[-1] if name not in ("step", "seconds")]
    figure = Figure(figsize=(4.5 * len(names), 3.2), layout="constrained")
    for name, axes in zip(names, figure.subplots(1, len(names), squeeze=False)[0], strict=True):
        axes.plot([line["seconds"] / 60 for line in lines], [line[name] for line in lines])
        axes.set(title=name, xlabel="minutes")
        axes.grid(alpha=0.3)
    figure.savefig(out, dpi=100)
