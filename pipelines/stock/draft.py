"""Candidates of a stock pipeline in progress, whose call runs in a thread of its own."""

import copy
import functools
import queue
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
import torch
from PIL import Image

from pipelines.checkpoints.errors import WeightsError
from pipelines.checkpoints.loading import first_line
from pipelines.drafts import Draft, check_indices, to_image
from pipelines.runtime.devices import is_out_of_memory

THREAD = "stock pipeline"
UNFINISHED = "it was stopped before it was finished"


class StockDraft(Draft):
    """Candidates of a stock pipeline, drawn one after the other.

    `keep` ends the run in the making if it is dropped; `split`, and a step that raises, let it
    begin anew. `failed` is found out again with every look.
    """

    def __init__(
        self,
        stock: Any,
        arguments: dict[str, Any],
        seeds: Sequence[int],
        steps: int,
        device: torch.device,
    ) -> None:
        super().__init__(seeds, (0, 0), device)
        self._stock = stock
        self._arguments = arguments
        self._steps = steps  # of one candidate; the scheduler may make more of them
        self._made: dict[int, torch.Tensor | None] = {}  # by seed, uint8 (3, H, W)
        self._run: _Run | None = None

    @property
    def total(self) -> int:
        """Calls of the scheduler in all."""
        return self._steps * len(self.seeds)

    @property
    def done(self) -> int:
        """Those so far."""
        begun = 0 if self._run is None else min(self._run.done, self._steps - 1)
        return self._steps * sum(seed in self._made for seed in self.seeds) + begun

    def _advance(self, count: int) -> None:
        """Go on; if it raises, the candidate in the making is begun anew by the next step."""
        for _ in range(count):
            if self.done >= self.total:  # a call may make fewer steps than it was asked for
                return
            try:
                self._step()
            except BaseException:
                self._end_run()
                raise

    def preview(
        self, indices: Sequence[int] | None = None, exact: bool = False
    ) -> list[Image.Image | None] | None:
        """Return None, since how latents look is not known; with `exact` the whole images."""
        if not exact:
            return None
        chosen = range(len(self.seeds)) if indices is None else indices
        check_indices(chosen, len(self.seeds))
        for seed in (self.seeds[i] for i in chosen):
            if seed not in self._made:
                self.failed[seed] = UNFINISHED
        pixels = self._decode(chosen)
        images = [None if each is None else to_image(each) for each in pixels]
        return self._laid([self.seeds[i] for i in chosen], images, exact)

    def close(self) -> None:
        """End the thread and free all memory."""
        self._end_run()
        super().close()
        self._made = {}

    def _cut(self, indices: Sequence[int]) -> None:
        kept = [self.seeds[i] for i in indices]
        self._made = {seed: pixels for seed, pixels in self._made.items() if seed in kept}
        if self._run is not None and self._run.seed not in kept:
            self._end_run()

    def _halve(self, first: Self, second: Self, middle: int) -> None:
        self._end_run()
        first._run = second._run = None
        super()._halve(first, second, middle)

    def _decode(self, indices: Sequence[int]) -> list[torch.Tensor | None]:
        for seed in (self.seeds[i] for i in indices):
            if seed in self._made and self._made[seed] is None:
                self.failed[seed] = "the networks made values that are not finite"
        return [self._made.get(self.seeds[i]) for i in indices]

    def _step(self) -> None:
        if self._run is None:
            seed = next(seed for seed in self.seeds if seed not in self._made)
            self._run = _Run(self._stock, self._arguments, seed)
        self._run.step()
        self._steps = self._run.steps
        if self._run.done >= self._steps:
            self._made[self._run.seed] = _to_pixels(self._run.finish())
            self._run = None

    def _end_run(self) -> None:
        if self._run is not None:
            self._run.stop()
            self._run = None


@dataclass(frozen=True)
class _Stepped:
    """The call made a step, of so many."""

    steps: int


@dataclass(frozen=True)
class _Ended:
    """The call returned an image, or raised."""

    image: np.ndarray | None = None
    error: BaseException | None = None


class _Stopped(BaseException):
    """Ends a stock call from inside; no `except Exception` of its own may hold it up."""


@dataclass
class _Run:
    """One stock call in a thread of its own."""

    stock: Any
    arguments: dict[str, Any]
    seed: int
    steps: int = 0  # known from the first step on
    done: int = 0
    image: np.ndarray | None = None  # what the call returned, (H, W, 3) from 0 to 1
    _orders: "queue.SimpleQueue[bool]" = field(default_factory=queue.SimpleQueue)  # go on?
    _reports: "queue.SimpleQueue[_Stepped | _Ended]" = field(default_factory=queue.SimpleQueue)
    _thread: threading.Thread | None = None

    def step(self) -> None:
        """Let the call go on until its next `scheduler.step` is done, or until it returns.

        Some pipelines make fewer steps than their scheduler has, or none that we see. Raises what
        the call raises.
        """
        if self._thread is None:
            self._thread = threading.Thread(target=self._call, name=THREAD, daemon=True)
            self._thread.start()
        else:
            self._orders.put(True)
        match self._reports.get():
            case _Stepped(steps):
                self.steps = steps
                self.done += 1
            case _Ended(error=BaseException() as error):
                raise error
            case _Ended(image=image):
                self.image = image
                self.steps = self.done = max(self.steps, 1)

    def finish(self) -> np.ndarray:
        """Return what the call returns; some make more steps than their scheduler has."""
        while self.image is None:
            self.step()
        if self._thread is not None:
            self._thread.join()
        return self.image

    def stop(self) -> None:
        """End the call at its next `scheduler.step`, and wait until it has ended."""
        self._orders.put(False)
        if self._thread is not None:
            self._thread.join()

    def _call(self) -> None:
        try:
            scheduler = type(self.stock.scheduler).from_config(self.stock.scheduler.config)
            scheduler.step = self._waiting(scheduler)
            pipeline = _with_scheduler(self.stock, scheduler)
            generator = torch.Generator().manual_seed(self.seed)
            made = pipeline(**self.arguments, generator=generator, output_type="np")
            images = getattr(made, "images", getattr(made, "image", None))
            self._reports.put(_Ended(np.asarray(images)[0]))
        except _Stopped:
            return
        except Exception as error:
            self._reports.put(_Ended(error=_explained(error, type(self.stock).__name__)))
        except BaseException as error:
            self._reports.put(_Ended(error=error))

    def _waiting(self, scheduler: Any) -> Callable[..., Any]:
        step = scheduler.step

        @functools.wraps(step)  # stock pipelines look at what it takes
        def waiting(*positional: Any, **named: Any) -> Any:
            stepped = step(*positional, **named)
            steps = len(scheduler.timesteps)
            self._reports.put(_Stepped(steps))
            if not self._orders.get():
                raise _Stopped
            return stepped

        return waiting


def _with_scheduler(stock: Any, scheduler: Any) -> Any:
    """Return a pipeline with another scheduler, also in the pipelines that it combines."""
    pipeline = copy.copy(stock)
    for name, part in vars(stock).items():
        if part is stock.scheduler:
            setattr(pipeline, name, scheduler)
        elif getattr(part, "scheduler", None) is stock.scheduler:
            setattr(pipeline, name, _with_scheduler(part, scheduler))
    return pipeline


def _explained(error: Exception, name: str) -> Exception:
    """Return what a stock call raised, in one line; memory that is short remains what it is."""
    if is_out_of_memory(error) or isinstance(error, MemoryError | WeightsError):
        return error
    return WeightsError(f"{name} cannot draw this: {first_line(error)}")


def _to_pixels(image: np.ndarray) -> torch.Tensor | None:
    """Convert (H, W, 3) from 0 to 1 to uint8 (3, H, W); None if it is not finite."""
    if not np.isfinite(image).all():
        return None
    return torch.from_numpy((image * 255).round().astype("uint8")).permute(2, 0, 1)
