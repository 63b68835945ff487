"""The seam between what is to be drawn and who draws: a crew takes tasks and reports."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

from gen.workers.tasks import Piece, Step, Task


@dataclass(frozen=True)
class Finished:
    """A task is done: all that came of it, in order."""

    worker: int
    task: int
    pieces: Sequence[Piece]


@dataclass(frozen=True)
class Failed:
    """A task cannot be done: `kind` is the name of one of our errors, or "" for a bug."""

    worker: int
    task: int
    kind: str
    text: str


@dataclass(frozen=True)
class Lost:
    """A worker has ended by itself, with all tasks that it had."""

    worker: int
    reason: str


@dataclass(frozen=True)
class Stepped:
    """How far a task is."""

    worker: int
    task: int
    step: Step


@dataclass(frozen=True)
class Told:
    """A worker has something to say to the user."""

    worker: int
    text: str


Report = Finished | Failed | Lost | Stepped | Told


class Crew(Protocol):
    """Workers, numbered from 0. A worker does its tasks one after the other."""

    size: int

    def is_there(self, worker: int) -> bool:
        """Return whether a worker can take tasks; one of a cluster may wait for its place."""

    def submit(self, worker: int, number: int, task: Task) -> None:
        """Give a worker a task, which reports are going to call by its number."""

    def wait(self, seconds: float) -> list[Report]:
        """Return what has been reported, as soon as there is anything; nothing after so long."""

    def replace(self, worker: int) -> None:
        """End a worker that hangs or has ended, and start another in its place."""

    def cancel(self, tasks: Collection[int], *, finish: bool) -> None:
        """Have tasks end early: dropped, or with `finish` as far as they are."""

    def close(self) -> None:
        """End all workers at once."""
