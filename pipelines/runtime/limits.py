"""What this process may use of the machine: cores and memory, as its control groups limit them.

A container or a batch job sees all of the host's cores and memory and may use a part of them.
OpenMP knows of none of that; and its threads wait by spinning, which on a machine that is busy
takes the time that the thread they wait for needs. Loads no torch: what is set here holds for
libraries that are loaded later.
"""

import math
import os
from collections.abc import Iterator
from pathlib import Path

# Cheap to look at and found by `man 7 cgroups`; tests put others in their place.
GROUPS = Path("/sys/fs/cgroup")
MEMBERSHIP = Path("/proc/self/cgroup")

# libgomp's threads look so often whether there is work again before they sleep: a fraction of a
# millisecond, longer than the gaps between the layers of a network and shorter than the time that
# the system gives to another process. By default it is so long that on a busy machine a step takes
# ten times as long; without any, every layer waits for the system to wake a thread.
SPIN_COUNT = "10000"
SPINNING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")  # what people set themselves


def wait_politely() -> None:
    """Let OpenMP's threads sleep soon when they wait, unless the environment says otherwise.

    For commands, before they load torch: OpenMP reads this once, when it is loaded.
    """
    if not any(name in os.environ for name in SPINNING):
        os.environ["GOMP_SPINCOUNT"] = SPIN_COUNT
        os.environ["KMP_BLOCKTIME"] = "0"  # the same for Intel's and LLVM's, in milliseconds


def usable_cores() -> int:
    """Return how many cores this process may keep busy: its affinity's, within its groups' quota.

    A part of a core counts as one, as it does with Java and Go.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    quotas = [quota for group in _groups("cpu") if (quota := _quota(group)) is not None]
    return max(1, min([cores or 1, *map(math.ceil, quotas)]))


def free_in_groups() -> float:
    """Return the bytes that this process may still take before a group of its reaches its limit.

    Infinite without a limit. What is only cached of files is free.
    """
    free = [math.inf]
    for group in _groups("memory"):
        limits = [_number(group / name) for name in ("memory.max", "memory.high")]
        used, cache = _number(group / "memory.current"), "inactive_file"
        if used is None:  # version 1
            limits, cache = [_number(group / "memory.limit_in_bytes")], "total_inactive_file"
            used = _number(group / "memory.usage_in_bytes")
        if used is not None:
            held = used - _line(group / "memory.stat", cache)
            free += [limit - held for limit in limits if limit is not None]
    return max(0.0, min(free))


def _groups(controller: str) -> Iterator[Path]:
    """Yield the folders of this process's groups, each with those above it, that may limit it."""
    try:
        lines = MEMBERSHIP.read_text().splitlines()
    except OSError:  # not Linux
        return
    for line in lines:
        _, names, path = line.split(":", 2)
        if names and controller not in names.split(","):
            continue
        mounts = [GROUPS / names, GROUPS / controller] if names else [GROUPS, GROUPS / "unified"]
        # In a container the path may be the host's, which is not there: then it is the mount.
        parts = [part for part in path.split("/") if part not in ("", "..")]
        for mount in dict.fromkeys(mounts):
            for depth in range(len(parts), -1, -1):
                yield mount.joinpath(*parts[:depth])


def _quota(group: Path) -> float | None:
    """Return how many cores a group may use at once; None for no limit."""
    try:
        quota, period = (group / "cpu.max").read_text().split()
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        pass
    quota_us = _number(group / "cpu.cfs_quota_us")  # version 1; -1 is no limit
    period_us = _number(group / "cpu.cfs_period_us")
    return quota_us / period_us if quota_us and period_us and quota_us > 0 else None


def _number(path: Path) -> float | None:
    try:
        return float(path.read_text())
    except (OSError, ValueError):  # no such group, or "max"
        return None


def _line(path: Path, name: str) -> float:
    """Return the number behind a name in a file of such lines; 0 if it is not there."""
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return 0.0
    return next((float(line.split()[1]) for line in lines if line.startswith(f"{name} ")), 0.0)
