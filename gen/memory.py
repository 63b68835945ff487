"""How many candidates fit into memory at once.

A GPU raises an error when its memory is full, and the draft is halved; on a CPU the kernel kills
the process without a word, so there the size follows what is free and what a candidate took.
"""

import gc
import os
import resource
from pathlib import Path

from pipelines.runtime.limits import free_in_groups

LARGEST = 16  # more at once gain little, and one micro-batch is what a kill can cost
EARLY = 4  # in the first micro-batch of a process on a CPU: its images are there early
FIRST_GUESS = 8_000  # bytes per pixel of a candidate: Stable Diffusion 1.5 in float32 needs less
SHARE = 0.5  # of the free memory; the rest is for others, and for what the guess left out


class BatchSize:
    """Chooses each micro-batch's size, and learns from the ones before.

    `fixed` is what the user wants; only running out of memory makes it smaller. With `early` the
    first micro-batch is small. `besides` are bytes of a candidate that do not go with its pixels.
    """

    def __init__(
        self, pixels: int, fixed: int | None = None, *, early: bool = False, besides: int = 0
    ) -> None:
        self._per_candidate = float(pixels * FIRST_GUESS + besides)
        self._limit = LARGEST if fixed is None else fixed
        self._is_fixed = fixed is not None
        self._is_early = early and fixed is None

    def choose(self, remaining: int, free: float) -> int:
        """Return the next size, from 1 to `remaining`, with so many bytes free."""
        fitting = remaining if self._is_fixed else int(free * SHARE / self._per_candidate)
        limit = min(self._limit, EARLY) if self._is_early else self._limit
        self._is_early = False
        return max(1, min(remaining, limit, fitting))

    def learn(self, size: int, taken: float) -> None:
        """Learn that a micro-batch of that size took at most so many bytes on the host.

        The next may be at most twice as large as this one would have let it be.
        """
        self._per_candidate = max(self._per_candidate / 2, taken / size)

    def halve(self, size: int) -> None:
        """Learn that a micro-batch of that size was too large."""
        self._limit = max(1, size // 2)


def free_on_host() -> float:
    """Bytes that this process may still take without being killed, as far as it can know."""
    limits = [_available(), free_in_groups()]
    address_space, _ = resource.getrlimit(resource.RLIMIT_AS)
    if address_space != resource.RLIM_INFINITY:
        limits.append(address_space - _pages(0))
    return max(0.0, min(limits))


def peak_of_process() -> float:
    """Return the most bytes that this process has held so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return float(peak if os.uname().sysname == "Darwin" else peak * 1024)


def held_by_process() -> float:
    """Return the bytes that this process holds now."""
    return _pages(1)


def _available() -> float:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        kilobytes = next(line.split()[1] for line in lines if line.startswith("MemAvailable"))
        return float(kilobytes) * 1024
    except (OSError, StopIteration):  # not Linux
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2


def _pages(column: int) -> float:
    """Return a column of /proc/self/statm in bytes: 0 is the address space, 1 what is held."""
    try:
        return float(Path("/proc/self/statm").read_text().split()[column]) * resource.getpagesize()
    except OSError:
        return 0.0


def collect_garbage() -> None:
    """Free what was let go of, also where a server has frozen what it began with."""
    was_frozen = gc.get_freeze_count() > 0
    gc.unfreeze()
    gc.collect()
    if was_frozen:
        gc.freeze()
