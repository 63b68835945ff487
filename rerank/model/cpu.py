"""What makes a model faster on a CPU, without changing what it computes.

PyTorch gives linear layers to MKL, which uses AVX-512 on Intel's processors only; oneDNN uses it on
every processor that has it, and takes half the time. And glibc hands the activations of each batch
back to the system, which has to find and clear the same pages for the next.
"""

import ctypes
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from threading import Thread
from typing import TypeVar

import torch
from torch import nn
from torch.nn import functional

from rerank.pictures import in_threads

Item = TypeVar("Item")
Result = TypeVar("Result")

# Options of glibc's mallopt(3), and what they are set to, in bytes.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
KEPT_FREE = 2**28
LARGEST_KEPT = 2**26  # what is larger goes back to the system when it is freed, as ever


def speed_up(model: nn.Module) -> None:
    """Make a model that is on the CPU in fp32 as fast as it can be, in place."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(_M_MMAP_THRESHOLD, LARGEST_KEPT)
        libc.mallopt(_M_TRIM_THRESHOLD, KEPT_FREE)
    if mkl_is_held_back():
        for module in model.modules():
            if type(module) is nn.Linear:
                module.__class__ = OneDnnLinear


class OneDnnLinear(nn.Linear):
    """`nn.Linear` in fp32 on a CPU: the same weights and, up to rounding, the same values."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """(…, in) to (…, out)."""
        return functional.linear(input.to_mkldnn(), self.weight, self.bias).to_dense()


@cache
def mkl_is_held_back() -> bool:
    """Whether this processor has AVX-512 and is not Intel's."""
    if torch.backends.cpu.get_cpu_capability() != "AVX512":
        return False
    try:
        return "GenuineIntel" not in Path("/proc/cpuinfo").read_text()
    except OSError:  # not Linux, so not known
        return False


def each_core(items: Iterable[Item], work: Callable[[Item], Result]) -> Iterator[Result]:
    """The results of `work` in the order of the items, each made by a core of its own.

    A quarter faster than all cores at one item after the other, who wait for each other in every
    layer.
    """
    cores = torch.get_num_threads()

    def begin() -> None:
        torch.get_num_threads()  # a thread's first use sets its number to what is set below
        torch.set_num_threads(1)  # of this thread, and what threads that come later begin with
        other = Thread(target=torch.set_num_threads, args=(cores,))
        other.start()
        other.join()

    pool = ThreadPoolExecutor(cores, thread_name_prefix="encode", initializer=begin)
    return in_threads(pool, items, work, cores + 1)
