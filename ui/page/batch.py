"""What a visitor of the page has asked for: batches of requests, drawn one after the other,
which go on while nobody looks."""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError, wait
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from time import perf_counter, sleep

import gradio as gr
from PIL import Image

from gen.engine import Outcome
from gen.errors import InputError, RoomError
from gen.events import Event, Finished, Loading, Note, Progress
from gen.models import WeightsError
from gen.result import Result
from gen.settings.request import Request
from ui.page.files import opened
from ui.page.markup import thumbnail
from ui.service.queue import Job
from ui.service.service import Service

LOOK_SECONDS = 0.2  # between two looks at a job
COOKIE = "salon"  # which names a visitor, whatever tab; page.js makes it up
MOST_WAITING = 20  # batches of one visitor
MOST_VISITORS = 1000  # that are remembered
_numbers = count(1)


@dataclass(frozen=True)
class CandidateStatus:
    """What a candidate looks like by now, no larger than a thumbnail, and how it has ended."""

    image: Image.Image | None
    end: Result | None = None  # None while it is in the making


@dataclass
class Live:
    """A prompt in the making; filled by the queue's thread, looked at by the page's."""

    request: Request
    ahead: int = 0  # jobs that come first
    loading: Loading | None = None  # what this job, or the one that comes first, waits for
    progress: Progress | None = None
    # by place among the candidates
    statuses: dict[int, CandidateStatus] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    _first: tuple[float, float] | None = None  # when the first progress came, and its share
    _last: tuple[float, float] | None = None

    def __call__(self, event: Event) -> None:
        """Take in what the engine reports."""
        match event:
            case Note():
                self.notes.append(event.text)
            case Progress():
                self._take_progress(event)
            case Finished():
                ended = {
                    result.index: CandidateStatus(_thumbnail(result), result)
                    for result in event.results
                }
                self.statuses = {**self.statuses, **ended}

    def _take_progress(self, event: Progress) -> None:
        self.progress = event
        self._last = perf_counter(), event.share
        if self._first is None:
            self._first = self._last
        if event.previews is not None:
            previews = zip(event.places, event.previews, strict=True)
            drawn = {place: CandidateStatus(image) for place, image in previews if image}
            self.statuses = {**self.statuses, **drawn}

    @property
    def seconds_left(self) -> float | None:
        """The time until the prompt is done, by the pace since its first step.

        None before there is a pace. Loading and waiting came before, and do not count.
        """
        if self._first is None or self._last is None or self._last[1] <= self._first[1]:
            return None
        (began, before), (at, share) = self._first, self._last
        pace = (share - before) / (at - began)  # of the whole, a second
        return max(0.0, (1 - share) / pace - (perf_counter() - at))


def _thumbnail(result: Result) -> Image.Image | None:
    image = opened(result.path) if result.image is None else result.image
    return None if image is None else thumbnail(image)


@dataclass(eq=False)
class Batch:
    """Requests of a visitor by what each is called; looked at, and ended early, from any thread."""

    requests: Mapping[str, Request]
    rerankers: Sequence[str] = ()  # by name; none is those that always score
    comparison: int | None = None  # its number, where they are the cells of one
    note: Callable[[Sequence[Outcome]], None] = lambda outcomes: None  # called after each
    uploads: Mapping[str, Path] = field(default_factory=dict)  # of an edit, by their settings
    number: int = field(default_factory=lambda: next(_numbers))
    live: Live | None = None
    outcomes: list[Outcome] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    problem: str = ""
    is_over: bool = False
    is_told: bool = False  # whether its problem was
    _job: Job | None = None
    _ended: bool = False

    @property
    def called(self) -> dict[int, str]:
        """What each request is called that was drawn and saved, by its number."""
        drawn = zip(self.outcomes, self.requests, strict=False)
        return {outcome.number: name for outcome, name in drawn if outcome.number is not None}

    def run(self, service: Service, client: str) -> None:
        """Draw all of it, or what there is time for."""
        try:
            for request in self.requests.values():
                if self._ended or not self._draw(request, service, client):
                    return
        except (InputError, RoomError, WeightsError) as error:
            self.problem = str(error)
        except Exception as error:
            self.problem = f"{type(error).__name__}: {error}"
            raise
        finally:
            self.is_over = True

    def _draw(self, request: Request, service: Service, client: str) -> bool:
        """Draw one request; False if it was taken back."""
        live = self.live = Live(request)
        job = service.submit(
            request,
            client,
            live,
            previews=True,
            matches=True,
            uploads=self.uploads,
            rerankers=self.rerankers,
        )
        self._job = job
        if self._ended:  # said while it was submitted
            service.queue.drop(job)
        try:
            while not job.future.done():
                live.ahead = service.queue.ahead_of(job)
                live.loading = next((each.loading for each in service.queue.running), None)
                wait([job.future], LOOK_SECONDS)
            outcome: Outcome = job.future.result()
        except CancelledError:  # taken back before it began
            return False
        self.notes += [note for note in live.notes if note not in self.notes]
        self.outcomes = [*self.outcomes, outcome]
        self.note(self.outcomes)
        return True

    def finish_now(self, service: Service) -> None:
        """End after the step in the making, and keep the candidates as they are by then."""
        self._ended = True
        if self._job is not None and not service.queue.withdraw(self._job):
            self._job.cancel.finish_now()

    def stop(self, service: Service) -> None:
        """End after the step in the making, and keep what was finished before."""
        self._ended = True
        if self._job is not None:
            service.queue.drop(self._job)


class VisitorQueue:
    """The batches of one visitor: one in the making, the others behind it."""

    def __init__(self, service: Service, client: str) -> None:
        self._service, self._client = service, client
        self._lock = threading.Lock()
        self._worker: threading.Thread | None = None
        self.current: Batch | None = None  # in the making, or the last one that was
        self.waiting: list[Batch] = []
        self.watchers: set[str] = set()  # sessions that are being shown it

    @property
    def is_idle(self) -> bool:
        """Whether nothing is in the making, and nothing waits."""
        with self._lock:
            return not self.waiting and (self.current is None or self.current.is_over)

    def add(self, batch: Batch) -> None:
        """Have a batch drawn behind the others. Raises InputError if too many are waiting."""
        with self._lock:
            if len(self.waiting) >= MOST_WAITING:
                raise InputError(f"{MOST_WAITING} of yours are waiting: let some be drawn first")
            self.waiting.append(batch)
            if self._worker is None:
                self._worker = threading.Thread(target=self._work, daemon=True)
                self._worker.start()

    def drop(self, number: int) -> None:
        """Take a batch back that waits."""
        with self._lock:
            self.waiting = [batch for batch in self.waiting if batch.number != number]

    def move_up(self, number: int) -> None:
        """Have a batch that waits change places with the one before it."""
        with self._lock:
            places = [place for place, b in enumerate(self.waiting) if b.number == number]
            for place in places:
                if place > 0:
                    before, this = self.waiting[place - 1 : place + 1]
                    self.waiting[place - 1 : place + 1] = [this, before]

    def finish_now(self) -> None:
        """End the batch in the making with the candidates as they are."""
        if self.current is not None:
            self.current.finish_now(self._service)

    def stop(self) -> None:
        """End the batch in the making with what is finished."""
        if self.current is not None:
            self.current.stop(self._service)

    def looks(self, session: str) -> Iterator[tuple[Batch, list[Batch]]]:
        """Yield what is in the making and what waits, again and again, until all is over.

        Each session is shown it once, however often it asks.
        """
        if session in self.watchers:
            return
        self.watchers.add(session)
        try:
            while True:
                with self._lock:
                    current, waiting = self.current, list(self.waiting)
                if current is not None:
                    is_over = current.is_over
                    yield current, waiting
                    if is_over and self.is_idle:
                        return
                elif not waiting:
                    return
                sleep(LOOK_SECONDS)
        finally:
            self.watchers.discard(session)

    def _work(self) -> None:
        while True:
            with self._lock:
                if not self.waiting:
                    self._worker = None
                    return
                batch = self.current = self.waiting.pop(0)
            batch.run(self._service, self._client)


class Visitors:
    """The queue of each visitor of a drawing panel, which outlives reloads and closed tabs."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._queues: dict[str, VisitorQueue] = {}
        self._lock = threading.Lock()

    def queue_of(self, visitor: gr.Request) -> VisitorQueue:
        """Return the queue of who is asking."""
        client = client_of(visitor)
        with self._lock:
            if client not in self._queues:
                idle = [name for name, queue in self._queues.items() if queue.is_idle]
                for name in idle[: max(0, len(self._queues) + 1 - MOST_VISITORS)]:
                    del self._queues[name]
                self._queues[client] = VisitorQueue(self._service, client)
            return self._queues[client]


def client_of(visitor: gr.Request) -> str:
    """Return who is asking, for the queue to be fair: an address and a browser."""
    address = visitor.client.host if visitor.client is not None else ""
    return f"{address} {visitor.cookies.get(COOKIE, visitor.session_hash)}"
