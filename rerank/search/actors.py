"""Shards read by the actors of a Ray cluster, through Ray Data.

What is named by a path has to be at the same path on every node. An actor that is lost has its
shards read by another: a shard's file is whole or not there.
"""

from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from pipelines.runtime import ray_cluster
from rerank.reranker import Reranker
from rerank.search.features import encode_shard
from rerank.search.shards import Shard


def encode_shards(
    reranker: Reranker,
    shards: Sequence[tuple[Shard, Path]],
    weights: str,
    address: str,
    workers: int | None,
) -> Iterator[tuple[int, dict[Path, str]]]:
    """Yield what `encode_shard` returns for each shard, as they are done.

    `workers` None is an actor for each GPU of the cluster, or for each core where it has none.
    Raises ValueError where there is no cluster.
    """
    if not shards:
        return
    ray, began = ray_cluster.connect(address)
    try:
        data = import_module("ray.data")
        there = ray.cluster_resources()
        gpus = int(there.get("GPU", 0))
        size = min(len(shards), workers or gpus or int(there.get("CPU", 1)))
        context = data.DataContext.get_current()
        context.enable_progress_bars = False
        rows = [{"shard": shard, "path": path} for shard, path in shards]
        done = data.from_items(rows, override_num_blocks=len(rows)).map(
            Actor,
            fn_constructor_args=(ray.put(reranker), weights),
            concurrency=size,
            num_cpus=None if gpus else 1,
            num_gpus=1 if gpus else None,
        )
        for row in done.iter_rows():
            yield row["done"]
    finally:
        if began:
            ray.shutdown()


class Actor:
    """A reranker of its own, on a GPU where Ray gives it one."""

    def __init__(self, reranker: Any, weights: str) -> None:
        import ray

        self._reranker: Reranker = ray.get(reranker)
        self._weights = weights
        if torch.cuda.is_available():
            self._reranker.to(torch.device("cuda"))

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Read a shard."""
        return {"done": encode_shard(self._reranker, row["shard"], row["path"], self._weights)}
