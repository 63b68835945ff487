"""What an engine reports while it works, and how it is asked to end early."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from PIL import Image

from gen.result import Result


@dataclass(frozen=True)
class Progress:
    """How far a prompt is: candidates that are made, and the micro-batch in the making."""

    prompt: str
    made: int
    candidates: int
    places: Sequence[int] = ()  # among the candidates, of those in the micro-batch
    step: int = 0  # of the micro-batch: network evaluations or image tokens
    steps: int = 0
    previews: Sequence[Image.Image | None] | None = None  # of the same

    @property
    def drawing(self) -> int:
        """How many candidates are in the micro-batch."""
        return len(self.places)

    @property
    def share(self) -> float:
        """How much of the prompt is done, from 0 to 1."""
        part = self.drawing * self.step / self.steps if self.steps else 0.0
        return min(1.0, (self.made + part) / self.candidates)


@dataclass(frozen=True)
class Finished:
    """Candidates that are made and scored, or were when the prompt was begun before; or failed.

    Their images are in memory, or in files, only while this is reported.
    """

    results: Sequence[Result]


@dataclass(frozen=True)
class Note:
    """One line that the user should read."""

    text: str


@dataclass(frozen=True)
class Loading:
    """How many bytes of a model's weights are in memory; a `total` of 0 is not known yet."""

    model: str
    loaded: int = 0
    total: int = 0


Event = Progress | Finished | Note | Loading
Watch = Callable[[Event], None]


class Cancel:
    """A request to end early, which another thread or a signal may make at any time."""

    def __init__(self) -> None:
        self.stopped = False
        self.finishing = False

    def stop(self) -> None:
        """Drop the micro-batch in the making; what is finished is ranked and kept."""
        self.stopped = True

    def finish_now(self) -> None:
        """Keep the candidates in the making as they are, marked as unfinished."""
        self.finishing = True

    @property
    def asked(self) -> bool:
        """Whether to begin nothing new."""
        return self.stopped or self.finishing


def ignore_events(event: Event) -> None:
    """Do nothing: nobody is watching."""
