"""Batches on several CPU threads, each of which computes rows of its own.

Threads that share every operation wait for each other after each of them: that costs a fifth of the
time here, and most of it where other processes keep one of the threads from running. Rows of a
batch need nothing of each other.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from threading import Barrier
from typing import Any

import torch
from torch import nn


def divide(network: nn.Module) -> None:
    """Let a network that is given a batch compute its rows in lanes, wherever that pays.

    Its first argument has a row for each; of the others, also those in a dict, all that have as
    many are divided with it.
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
