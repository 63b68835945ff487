"""Faster networks on a CPU, without changing what they compute.

PyTorch gives linear layers to MKL. That uses AVX-512 on Intel's processors only, where oneDNN does
so on every processor that has it and takes half the time; and it reads the weights for a single row
with one thread. And glibc hands the activations of each step back to the system.
"""

import ctypes
import os
from collections.abc import Iterable
from functools import cache
from pathlib import Path

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
