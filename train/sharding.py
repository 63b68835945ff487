"""Sharded training (FSDP2, by accelerate): every process keeps a part of each weight, gradient and
running mean as a DTensor, and blocks are put together one by one while they compute.

What else needs a tensor as a whole asks for it here; of tensors that are not sharded, both ways are
the identity. Checkpoints hold whole tensors, so any number of processes can go on with them.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from accelerate import FullyShardedDataParallelPlugin
from torch.distributed.fsdp import MixedPrecisionPolicy
from torch.distributed.tensor import DTensor, distribute_tensor

if TYPE_CHECKING:
    from train.loop import Task

_COMPUTED_IN = {"no": None, "bf16": torch.bfloat16, "fp16": torch.float16}


def plan(task: Task, mixed_precision: str) -> FullyShardedDataParallelPlugin | None:
    """Return how accelerate is to shard `task`, or None.

    That is asked for by `accelerate launch --use_fsdp`, which says so in the environment.

    Weights and gradients stay in float32, blocks compute in `mixed_precision`.

    Raises ValueError where it would be ignored (on a CPU accelerate does so without a word), for
    the older FSDP, and for a task without blocks (a small network, or one that draws).
    """
    if os.environ.get("ACCELERATE_USE_FSDP", "false").lower() not in ("true", "1"):
        return None
    if not torch.cuda.is_available():
        raise ValueError(
            "sharded training (FSDP) needs CUDA devices, on a CPU accelerate would ignore it: "
            "launch without --use_fsdp"
        )
    if os.environ.get("FSDP_VERSION") != "2":
        raise ValueError("sharded training is that of FSDP2: launch with --fsdp_version 2")
    names = {type(module).__name__ for module in task.modules() if isinstance(module, task.blocks)}
    if not names:
        raise ValueError("this training cannot be sharded: launch without --use_fsdp")
    return FullyShardedDataParallelPlugin(
        fsdp_version=2,
        auto_wrap_policy="transformer_based_wrap",
        transformer_cls_names_to_wrap=sorted(names),
        mixed_precision_policy=MixedPrecisionPolicy(
            param_dtype=_COMPUTED_IN[mixed_precision], reduce_dtype=torch.float32
        ),
        cpu_ram_efficient_loading=False,  # takes buffers for sharded, and fails
    )


def is_sharded(task: torch.nn.Module) -> bool:
    return any(isinstance(parameter, DTensor) for parameter in task.parameters())


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """Return the tensor put together from all processes, which must all ask for it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def shard_like(tensor: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Return this process's part of a tensor that all have as a whole, if `other` is sharded."""
    if not isinstance(other, DTensor):
        return tensor
    here = tensor.to(other.device)
    return distribute_tensor(here, other.device_mesh, other.placements, src_data_rank=None)


def gather(tensors: dict[str, torch.Tensor], keep: bool) -> dict[str, torch.Tensor]:
    """Whole tensors in the memory of the CPU, put together one by one: all of them where they are
    to be kept, none on the processes that only take part."""
    kept = {}
    for name, tensor in tensors.items():
        complete = whole(tensor)
        if keep:
            kept[name] = complete.cpu().contiguous()
    return kept


def whole_copy(task: Task) -> Task:
    """Return a copy that is not going to be sharded, made before `task` is."""
    return copy.deepcopy(task).requires_grad_(False).eval()


@contextmanager
def filled(copied: Task | None, task: Task, parameters: list[torch.Tensor]) -> Iterator[None]:
    """Give the whole copy of a sharded task these parameters, put together one by one, and the
    task's own buffers; it is on the task's device for as long as it is looked at. Without a copy,
    only take part."""
    if copied is None:
        for parameter in parameters:
            whole(parameter)
        yield
        return
    copied.to(parameters[0].device)
    for target, parameter in zip(copied.parameters(), parameters, strict=True):
        target.copy_(whole(parameter))
    for buffer, own in zip(copied.buffers(), task.buffers(), strict=True):
        buffer.copy_(own)
    yield
    copied.to("cpu")
