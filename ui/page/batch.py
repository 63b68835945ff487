"""What a visitor of the page has asked for: requests, drawn one after the other, looked at while
they are in the making."""

from collections.abc import Generator, Sequence
from concurrent.futures import CancelledError, wait
from dataclasses import dataclass, field
from time import perf_counter

import gradio as gr
from PIL import Image

from gen.engine import Outcome
from gen.events import Event, Finished, Loading, Note, Progress
from gen.result import Result
from gen.settings.request import Request
from ui.page.files import opened
from ui.page.markup import thumbnail
from ui.service.queue import Job
from ui.service.service import Service

LOOK_SECONDS = 0.2  # between two looks at a job


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
    began: float | None = None

    def __call__(self, event: Event) -> None:
        """Take in what the engine reports."""
        match event:
            case Note():
                self.notes.append(event.text)
            case Progress():
                self.progress = event
                if event.previews is not None:
                    previews = zip(event.places, event.previews, strict=True)
                    drawn = {
                        place: CandidateStatus(image)
                        for place, image in previews
                        if image is not None
                    }
                    self.statuses = {**self.statuses, **drawn}
            case Finished():
                ended = {
                    result.index: CandidateStatus(_thumbnail(result), result)
                    for result in event.results
                }
                self.statuses = {**self.statuses, **ended}

    @property
    def seconds_left(self) -> float | None:
        """The time until the prompt is done, by the pace so far; None before anything is done."""
        if self.began is None or self.progress is None or self.progress.share == 0:
            return None
        share = self.progress.share
        return (perf_counter() - self.began) * (1 - share) / share


def _thumbnail(result: Result) -> Image.Image | None:
    image = opened(result.path) if result.image is None else result.image
    return None if image is None else thumbnail(image)


class Visitors:
    """What each visitor of the page has in the making on a drawing panel: one batch at a time."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._batches: dict[str, Batch] = {}  # by session

    def begin(self, visitor: gr.Request, requests: Sequence[Request]) -> "Batch":
        """Begin a batch in place of the one that the visitor may have had."""
        session = str(visitor.session_hash)
        self.leave(visitor)
        self._batches[session] = Batch(self._service, requests, client_of(visitor))
        return self._batches[session]

    def finish_now(self, visitor: gr.Request) -> None:
        """End the visitor's batch with the candidates as they are."""
        if (batch := self._batches.get(str(visitor.session_hash))) is not None:
            batch.finish_now()

    def stop(self, visitor: gr.Request) -> None:
        """End the visitor's batch with what is finished."""
        if (batch := self._batches.get(str(visitor.session_hash))) is not None:
            batch.stop()

    def leave(self, visitor: gr.Request) -> None:
        """Stop what a visitor has who has gone, or wants something else."""
        if (batch := self._batches.pop(str(visitor.session_hash), None)) is not None:
            batch.stop()


def client_of(visitor: gr.Request) -> str:
    """Return who is asking, for the queue to be fair: an address and a tab."""
    address = visitor.client.host if visitor.client is not None else ""
    return f"{address} {visitor.session_hash}"


class Batch:
    """Requests of one client; `finish_now` and `stop` may be called from any thread."""

    def __init__(self, service: Service, requests: Sequence[Request], client: str) -> None:
        self.requests = requests
        self._service, self._client = service, client
        self._job: Job | None = None
        self._ended = False

    def events(self) -> Generator[Live | Outcome]:
        """Yield what is in the making, again and again, and the outcome of each request in turn.

        Ends early when the user says so. Raises what `Service.submit` and its jobs raise. Closed
        before its end, it drops its job.
        """
        for request in self.requests:
            if self._ended:
                return
            live = Live(request)
            job = self._service.submit(request, self._client, live, previews=True, matches=True)
            self._job = job
            if self._ended:  # said while it was submitted
                self._service.queue.drop(job)
            try:
                while not job.future.done():
                    live.ahead, live.began = self._service.queue.ahead_of(job), job.began
                    running = self._service.queue.running
                    live.loading = None if running is None else running.loading
                    yield live
                    wait([job.future], LOOK_SECONDS)
                outcome: Outcome = job.future.result()
            except CancelledError:  # taken back before it began
                return
            finally:
                if not job.future.done():
                    self._service.queue.drop(job)
            live.loading = None
            yield live
            yield outcome

    def finish_now(self) -> None:
        """End after the step in the making, and keep the candidates as they are by then."""
        self._ended = True
        if self._job is not None and not self._service.queue.withdraw(self._job):
            self._job.cancel.finish_now()

    def stop(self) -> None:
        """End after the step in the making, and keep what was finished before."""
        self._ended = True
        if self._job is not None:
            self._service.queue.drop(self._job)
