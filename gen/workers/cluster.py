"""A crew of actors of a Ray cluster, one for each GPU or a number of cores.

What a request names by its path, models and images, has to be at the same path on every node.
"""

import time
from collections.abc import Collection, Mapping
from typing import Any

from gen.errors import InputError
from gen.events import Cancel
from gen.models import Models
from gen.workers.crews import Lost, Report, Told
from gen.workers.processes import answer
from gen.workers.tasks import Task
from pipelines.runtime import ray_cluster

PLACE_SECONDS = 600  # for the first actor to begin


class Cluster:
    """Actors with models of their own; `fields` are those of each one's `Models`.

    `number` None is one for each GPU, or without any for each core that is there now. Raises
    InputError without ray, and for an address where there is no cluster.
    """

    def __init__(self, fields: Mapping[str, Any], address: str, number: int | None) -> None:
        try:
            self._ray, self._began = ray_cluster.connect(address)
        except ValueError as error:
            raise InputError(str(error)) from error
        there = self._ray.cluster_resources()
        gpus, threads = int(there.get("GPU", 0)), fields.get("threads") or 1
        cores = int(there.get("CPU", 1)) // threads
        self.size = max(1, number or gpus or cores)
        self.on_gpu = bool(gpus) and fields.get("device") in (None, "auto", "cuda")
        self._actor = self._ray.remote(Actor).options(
            num_cpus=0 if self.on_gpu else threads, num_gpus=1 if self.on_gpu else 0
        )
        self._fields = {**fields, "threads": threads}
        self._actors = [self._actor.remote(self._fields) for _ in range(self.size)]
        self._begun = [actor.begin.remote() for actor in self._actors]
        self._there: set[int] = set()
        if not self._ray.wait(self._begun, num_returns=1, timeout=PLACE_SECONDS)[0]:
            self.close()
            raise InputError(f"--ray {address}: the cluster has no place for an actor")
        self._running: dict[Any, tuple[int, int]] = {}  # worker and task, by what Ray promises

    def is_there(self, worker: int) -> bool:
        """Return whether the cluster had a place for an actor, and it has begun."""
        if worker not in self._there and self._ray.wait([self._begun[worker]], timeout=0)[0]:
            self._there.add(worker)
        return worker in self._there

    def submit(self, worker: int, number: int, task: Task) -> None:
        """Call an actor."""
        self._running[self._actors[worker].draw.remote(number, task)] = worker, number

    def wait(self, seconds: float) -> list[Report]:
        """Return what has come of calls within so many seconds."""
        if not self._running:
            time.sleep(seconds)
            return []
        promised = list(self._running)
        ready, _ = self._ray.wait(promised, num_returns=1, timeout=seconds)
        if ready:  # and whatever else is there by now
            ready, _ = self._ray.wait(promised, num_returns=len(promised), timeout=0)
        reports: list[Report] = []
        gone: set[int] = set()
        for promise in ready:
            worker, _ = self._running.pop(promise)
            try:
                reports += [kind(worker, *values) for kind, *values in self._ray.get(promise)]
            except self._ray.exceptions.RayError as error:  # the actor, its node, or its memory
                if worker not in gone:
                    gone.add(worker)
                    reports.append(Lost(worker, f"is lost ({type(error).__name__})"))
        # What an actor has reported comes before that it is lost.
        return sorted(reports, key=lambda report: isinstance(report, Lost))

    def replace(self, worker: int) -> None:
        """Kill an actor and start another, where the cluster has a place for it."""
        self._ray.kill(self._actors[worker])
        self._running = {p: own for p, own in self._running.items() if own[0] != worker}
        self._there.discard(worker)
        self._actors[worker] = self._actor.remote(self._fields)
        self._begun[worker] = self._actors[worker].begin.remote()

    def cancel(self, tasks: Collection[int], *, finish: bool) -> None:
        """Let actors end what they are at: it is a micro-batch at most."""

    def close(self) -> None:
        """Kill all actors, and leave the cluster."""
        while self._actors:
            self._ray.kill(self._actors.pop())
        self._running = {}
        if self._began:
            self._ray.shutdown()
            self._began = False


class Actor:
    """The models of one actor; Ray calls its methods one after the other."""

    def __init__(self, fields: Mapping[str, Any]) -> None:
        self._models = Models(**fields)

    def begin(self) -> None:
        """Do nothing, as soon as there is an actor that can."""

    def draw(self, number: int, task: Task) -> list[tuple[Any, ...]]:
        """Do a task; returns kinds of reports and what belongs to them, but for the worker."""
        said: list[tuple[Any, ...]] = []
        done = answer(self._models, number, task, Cancel(), said.append)
        return [each for each in said if each[0] is Told] + [done]
