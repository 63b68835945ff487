"""Faster networks on a CPU, without changing what they compute.

PyTorch gives linear layers to MKL. That uses AVX-512 on Intel's processors only, where oneDNN does
so on every processor that has it and takes half the time; and it reads the weights for a single row
with one thread. Its threads wait for each other after every operation. And glibc hands the
activations of each step back to the system.
"""

import ctypes
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from threading import Barrier
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from pipelines.runtime.limits import usable_cores

FEW = 2  # rows: the time goes into reading the weights, so each thread reads a part of them

# Options of glibc's mallopt(3), and what they are set to, in bytes.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
KEPT_FREE = 2**28
LARGEST_KEPT = 2**26  # what is larger goes back to the system when it is freed, as ever


def use_threads(threads: int | None = None) -> None:
    """Let networks compute in so many threads; None is one for each core that may be used.

    Nothing else that the machine is doing changes the number, as that might change the last bits of
    an image. A smaller number that was set before, and OMP_NUM_THREADS, stay without a wish.
    """
    if threads is None:
        if "OMP_NUM_THREADS" in os.environ:
            return
        threads = min(torch.get_num_threads(), usable_cores())
    if threads != torch.get_num_threads():
        torch.set_num_threads(threads)


def speed_up(networks: Iterable[nn.Module]) -> None:
    """Make networks that are on the CPU, or will be trained there, as fast as they can be."""
    keep_freed_memory()
    for network in networks:
        for module in network.modules():
            if type(module) is nn.Linear and module.weight.dtype == torch.float32:
                module.__class__ = CpuLinear


class CpuLinear(nn.Linear):
    """`nn.Linear` in float32 on a CPU: the same weights and, up to rounding, the same values."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Map (…, in) to (…, out), with gradients."""
        return linear(input, self.weight, self.bias)


def linear(
    input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None
) -> torch.Tensor:
    """Compute `functional.linear` of (…, in) and (out, in); in float32 on a CPU the fastest way.

    Under autocast it is PyTorch's own, which computes in half precision, and in code that is
    compiled, since the compiler has ways of its own.
    """
    if torch.compiler.is_compiling():
        return functional.linear(input, weight, bias)
    if not input.is_cpu or not input.dtype == weight.dtype == torch.float32:
        return functional.linear(input, weight, bias)
    if torch.is_autocast_enabled("cpu"):
        return functional.linear(input, weight, bias)
    rows = input.numel() // weight.shape[1]
    if 0 < rows <= FEW and len(weight) % torch.get_num_threads() == 0:
        return _by_parts(input.reshape(rows, -1), weight, bias).view(*input.shape[:-1], -1)
    if rows > FEW and mkl_is_held_back():
        return functional.linear(input.to_mkldnn(), weight, bias).to_dense()
    return functional.linear(input, weight, bias)


def _by_parts(rows: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """Compute (R, in) to (R, out), one part of the outputs in each thread."""
    threads = torch.get_num_threads()
    parts = weight.view(threads, -1, weight.shape[1])
    columns = rows.t().expand(threads, -1, -1)  # `parts @ rows.T` would be one product again
    if bias is None:
        products = torch.bmm(parts, columns)
    else:
        products = torch.baddbmm(bias.view(threads, -1, 1), parts, columns)
    return products.view(-1, len(rows)).t()


@cache
def mkl_is_held_back() -> bool:
    """Return whether this processor has AVX-512 and is not Intel's."""
    if torch.backends.cpu.get_cpu_capability() != "AVX512":
        return False
    try:
        return "GenuineIntel" not in Path("/proc/cpuinfo").read_text()
    except OSError:  # not Linux, so not known
        return False


def keep_freed_memory() -> None:
    """Let this process keep the memory that it has freed, for its next use, up to `KEPT_FREE`.

    By default glibc gives it back after each step, and for the next the system has to find and
    clear the same pages: tens of thousands of page faults, a third of a step's time. Does nothing
    where there is no glibc.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(_M_MMAP_THRESHOLD, LARGEST_KEPT)
        libc.mallopt(_M_TRIM_THRESHOLD, KEPT_FREE)


def divide(network: nn.Module) -> None:
    """Let a network that is given a batch compute its rows in lanes: a thread for each, or more.

    Threads that share every operation wait for each other after each of them. That costs up to a
    fifth of the time, and most of it where other processes keep one of the threads from running;
    rows of a batch need nothing of each other. The network's first argument has a row for each, and
    of the others, also those in a dict, all that have as many are divided with it. It does so where
    it returns a plain tuple, by `return_dict=False`.
    """
    kind: Any = type(network)
    network.__class__ = _divided(kind)


@cache
def _divided(kind: type[nn.Module]) -> type[nn.Module]:
    return type(kind.__name__, (_InLanes, kind), {"__module__": kind.__module__})


class _InLanes(nn.Module):
    """Comes before the class of a network, whose weights and name stay what they are."""

    def forward(self, rows: torch.Tensor, *more: Any, **named: Any) -> Any:
        threads = torch.get_num_threads()
        lanes = min(len(rows), threads)
        # Gradients and autocast belong to a thread of Python, layers that accelerate brings when
        # they are needed are there for one at a time, and what is compiled is one piece.
        apart = torch.is_inference_mode_enabled() and not torch.is_autocast_enabled("cpu")
        apart = apart and not hasattr(self, "_hf_hook") and not torch.compiler.is_compiling()
        if lanes < 2 or not rows.is_cpu or not apart or named.get("return_dict") is not False:
            return super().forward(rows, *more, **named)

        @torch.inference_mode()
        def run(part: slice) -> tuple[torch.Tensor, ...]:
            own = [_part(value, len(rows), part) for value in (rows, *more)]
            output = super(_InLanes, self).forward(*own, **_part(named, len(rows), part))
            return tuple(output)

        outputs = _pool(lanes, threads).map(run, _parts(len(rows), lanes))
        return tuple(torch.cat(each) for each in zip(*outputs, strict=True))


def _parts(rows: int, lanes: int) -> Iterator[slice]:
    """Yield so many slices of rows, as equal as can be."""
    for lane in range(lanes):
        yield slice(rows * lane // lanes, rows * (lane + 1) // lanes)


def _part(value: Any, rows: int, part: slice) -> Any:
    """Return a part of what has so many rows; anything else as it is."""
    if isinstance(value, torch.Tensor):
        return value[part] if value.ndim and len(value) == rows else value
    if isinstance(value, dict):
        return {name: _part(each, rows, part) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_part(each, rows, part) for each in value]
    return value


@cache
def _pool(lanes: int, threads: int) -> ThreadPoolExecutor:
    """Return so many threads of Python, which share the threads of OpenMP."""
    all_there = Barrier(lanes)

    def begin(_: int) -> None:
        torch.get_num_threads()  # the first call in a thread takes over what all have
        torch.set_num_threads(max(1, threads // lanes))  # and this is for itself
        all_there.wait()

    pool = ThreadPoolExecutor(lanes, "lane")
    list(pool.map(begin, range(lanes)))
    torch.set_num_threads(threads)  # or threads of Python to come would have as many as a lane
    return pool
