"""One process, one set of models in memory, one queue for all who ask."""

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from contextvars import copy_context
from dataclasses import dataclass, field
from functools import partial
from time import perf_counter

from gen.engine import Engine, Outcome
from gen.errors import InputError
from gen.events import Event, Progress, Watch, watch_nothing
from gen.models import DEFAULT_MODEL, SPECS, Spec
from gen.plan import Plan, resolve
from gen.request import Request
from gen.run_folder import RunFolder
from ui.metrics import Metrics
from ui.pictures import decode
from ui.queue import FatalJobError, Job, Queue, QueueFullError, StoppingError

JOURNAL = "queue.json"  # in the run folder
# The settings that visitors may give: none that names a file of this machine.
SERVED = (
    "prompt",
    "negative_prompt",
    "model",
    "seed",
    "width",
    "height",
    "steps",
    "guidance",
    "sampler",
    "schedule",
    "candidates",
    "top_k",
    "temperature",
    "token_top_k",
    "token_top_p",
)
# What one job may ask of a server that others wait for.
LIMITS: Mapping[str, int] = {"width": 2048, "height": 2048, "steps": 250, "candidates": 128}


class UnknownModelError(InputError):
    """Not one of the models that are served."""


def find_served(name: str) -> Spec:
    """The Spec of a known model. Folders of the server's disk are nobody else's business."""
    if name not in SPECS:
        raise UnknownModelError(
            f"no model {name[:80]!r} is served here: choose from {', '.join(SPECS)}"
        )
    return SPECS[name]


@dataclass(frozen=True)
class Verdict:
    """What the jury says of an upload: a score, the cosine in [-1, 1], or why there is none."""

    score: float | None = None
    failed: str | None = None


@dataclass
class Studio:
    """An engine, the run folder that it saves to, and the queue before it.

    With `fit_size`, a size that a model cannot draw is drawn at the nearest and enlarged.
    """

    engine: Engine
    folder: RunFolder
    find: Callable[[str], Spec] = find_served
    fit_size: bool = False
    metrics: Metrics = field(default_factory=Metrics)

    def __post_init__(self) -> None:
        self.queue = Queue(self.folder.path / JOURNAL)

    def check(self) -> None:
        """Raise WeightsError if the default models are not there; loads nothing."""
        self.engine.jury_spec()
        self.engine.model_hash(self.find(DEFAULT_MODEL))

    def load(self) -> None:
        """Load the default models, so that the first job does not wait for them."""

        def work(_: Job) -> None:
            self.engine.pipeline(self.find(DEFAULT_MODEL))
            if self.engine.jury_spec() is not None:
                self.engine.jury()

        job = Job("", work)
        self.queue.submit(job)
        job.future.result()

    def plan(self, request: Request) -> Plan:
        """What the request comes to; raises InputError for what cannot or may not be drawn here."""
        for name in request.given():
            if name not in SERVED:
                raise InputError(f"{name}: not a setting for visitors of a server")
        plan = resolve(request, self.find)
        for _, own in plan.models:
            for name, most in LIMITS.items():
                value = getattr(own, name)
                if value is not None and value > most:
                    raise InputError(f"{name} {value}: at most {most} on this server")
        return plan

    def submit(
        self,
        request: Request,
        client: str = "",
        watch: Watch = watch_nothing,
        previews: bool = False,
    ) -> Job:
        """Have a prompt drawn, judged and saved in its turn; the job's future gets the Outcome.

        `watch` is called in the queue's thread. Raises InputError, of which QueueFullError,
        StoppingError, FatalJobError and UnknownModelError are kinds; the future may raise
        WeightsError and RoomError too.
        """
        plan = self.plan(request)

        def work(job: Job) -> Outcome:
            def tell(event: Event) -> None:
                if isinstance(event, Progress):
                    job.progress = event
                watch(event)

            outcome = self.engine.draw(
                plan, self.folder, watch=tell, cancel=job.cancel, previews=previews
            )
            self.metrics.count_pictures(outcome.drawn, len(outcome.failed))
            return outcome

        return self._submitted(Job(client, work, _key(request)))

    def judge(self, prompt: str, files: Sequence[bytes], client: str = "") -> Job:
        """Have picture files scored in their turn; the job's future gets a Verdict for each.

        Raises InputError as `submit` does.
        """
        if self.engine.jury_spec() is None:
            raise InputError("this server has no jury")
        return self._submitted(Job(client, partial(self._judged, prompt, files)))

    def _judged(self, prompt: str, files: Sequence[bytes], job: Job) -> list[Verdict]:
        jury = self.engine.jury()
        prepared, verdicts = [], {}
        for index, data in enumerate(files):  # one at a time: decoded they can be very large
            if job.cancel.asked:
                raise StoppingError
            try:
                prepared.append((index, jury.prepare(decode(data))))
            except ValueError as error:
                verdicts[index] = Verdict(failed=str(error))
        scores = jury.score(prompt, [picture for _, picture in prepared])
        for (index, _), score in zip(prepared, scores, strict=True):
            finite = math.isfinite(score)
            verdicts[index] = (
                Verdict(score) if finite else Verdict(failed="its score is not finite")
            )
        return [verdicts[index] for index in range(len(files))]

    def draw(self, request: Request, watch: Watch = watch_nothing, client: str = "") -> Outcome:
        """Submit a prompt and wait for what comes of it; `watch` sees this caller's context."""
        context = copy_context()
        job = self.submit(request, client, lambda event: context.run(watch, event))
        outcome: Outcome = job.future.result()
        return outcome

    def stop(self) -> None:
        """End the job in the making after its step; returns when what it has is saved."""
        self.queue.stop()

    def _submitted(self, job: Job) -> Job:
        start = perf_counter()
        try:
            self.queue.submit(job)
        except (QueueFullError, StoppingError, FatalJobError):
            self.metrics.count_refused()
            raise
        job.future.add_done_callback(lambda _: self.metrics.count_job(job, perf_counter() - start))
        return job


def _key(request: Request) -> str:
    """The same for the same request, so that one that kills the process is known again."""
    return hashlib.sha256(json.dumps(request.to_json(), sort_keys=True).encode()).hexdigest()[:32]
