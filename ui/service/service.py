"""One process, one set of models in memory, one queue for all who ask."""

import gc
import hashlib
import json
import math
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from time import perf_counter
from types import MappingProxyType
from typing import Any

from PIL import Image, ImageOps

from gen import finding
from gen.engine import Engine, Outcome
from gen.errors import InputError
from gen.events import Event, Watch, ignore_events
from gen.explaining import explain_what_is_known
from gen.models import DEFAULT_MODEL, Spec, WeightsError
from gen.plan import Plan, resolve
from gen.run_folder.events import Files
from gen.run_folder.folder import RunFolder
from gen.run_folder.history import History
from gen.settings.request import Request
from ui.api.images import decode
from ui.service.catalog import Catalog, UnknownModelError
from ui.service.metrics import Metrics
from ui.service.queue import FatalJobError, Job, Queue, QueueFullError, StoppingError
from ui.service.reading import Reader
from ui.service.rules import Rules
from ui.service.settings import EDITS, SERVED, offered
from ui.service.styles import OWN, Style, read_styles

JOURNAL = "queue.json"  # in the run folder
JOBS_AT_ONCE = 8  # that workers draw
CLAIMS_KEPT = 10_000  # images whose claims are remembered
Claims = tuple[tuple[str, bool], ...]  # of a prompt, and whether each holds in an image
NO_UPLOADS: Mapping[str, Path] = MappingProxyType({})


@dataclass(frozen=True)
class UploadScore:
    """What the reranker says of an upload: a score, the cosine in [-1, 1], or why there is none.

    When it looks closely: the probability that the image matches the prompt, for a reranker that
    is calibrated, and whether each claim of the prompt holds in it.
    """

    score: float | None = None
    failed: str | None = None
    match: float | None = None
    claims: tuple[tuple[str, bool], ...] = ()


@dataclass
class Service:
    """An engine, the run folder that it saves to, and the queue before it.

    With `fit_size`, a size that a model cannot draw is drawn at the nearest and enlarged.
    """

    engine: Engine
    folder: RunFolder
    fit_size: bool = False
    catalog: Catalog = field(default_factory=Catalog)
    rules: Rules = field(default_factory=Rules)
    styles: Sequence[Style] = field(default_factory=lambda: read_styles(OWN))
    metrics: Metrics = field(default_factory=Metrics)
    reader: Reader = field(default_factory=Reader)

    def __post_init__(self) -> None:
        # What scores when nobody chooses, and what can be chosen.
        self._usual, self._head = self.engine.rerankers, self.engine.aesthetic
        self.rerankers = {} if self.engine.scorer is not None else self.engine.known_rerankers()
        self.history = History(self.folder.path)
        self._claims: OrderedDict[tuple[int, int], Claims] = OrderedDict()
        at_once = 1 if self.engine.workers is None and self.engine.ray is None else JOBS_AT_ONCE
        self.queue = Queue(self.folder.path / JOURNAL, at_once, self.engine.turns)

    @property
    def models(self) -> dict[str, Spec]:
        """The models that visitors may choose, by name."""
        known = self.catalog.models
        return {name: spec for name, spec in known.items() if self.rules.allow_model(name)}

    @property
    def default(self) -> str:
        """The name of the model that draws when none is asked for, of those that visitors may."""
        name = self.catalog.default
        return name if self.rules.allow_model(name) else next(iter(self.models), name)

    def find(self, name: str) -> Spec:
        """Return the Spec of a model. Raises UnknownModelError for what visitors may not choose."""
        if not self.rules.allow_model(name):
            raise UnknownModelError(
                f"no model {name[:80]!r} is served here: choose from {', '.join(self.models)}"
            )
        return self.catalog.find(name)

    def specs(self, names: Sequence[str]) -> list[Spec]:
        """Return what is known of the chosen models; nothing chosen is the default."""
        allowed = [name for name in names if self.rules.allow_model(name)]
        return self.catalog.specs([*allowed, *([] if allowed else [self.default])])

    def offered(self, models: Iterable[Spec], names: Iterable[str] = SERVED) -> list[str]:
        """Return which settings of models visitors may give, in the table's order; `names` are
        those without an image, or EDITS."""
        return [name for name in offered(models, names) if self.rules.allow_setting(name)]

    @property
    def lacking(self) -> Mapping[str, str]:
        """The settings of masks that cannot be used here, each with the model that it needs."""
        return finding.lacking(self.catalog.mask_models)

    @property
    def loras(self) -> Mapping[str, Path]:
        """The LoRA files that prompts may name, by their names."""
        return self.catalog.loras if self.rules.allow_setting("lora") else {}

    def check(self) -> None:
        """Raise WeightsError if the default models are not there; loads nothing."""
        self.engine.reranker_spec()
        self.engine.model_hash(self.find(self.default))

    def load(self) -> None:
        """Load the default models, so that the first job does not wait for them.

        What is there then stays. The collector would go through all of it now and then, and nobody
        is answered meanwhile: 0.4 s for half a million objects.
        """

        def work(job: Job) -> None:
            self.engine.pipeline(self.find(self.default), job.follow)
            if self.engine.reranker_spec() is not None:
                self.engine.load_reranker(job.follow)

        job = Job("", work)
        self.queue.submit(job)
        job.future.result()
        gc.freeze()

    @property
    def usual_rerankers(self) -> list[str]:
        """The names of those that score when nobody chooses."""
        return [name for name, each in self.rerankers.items() if each in self._usual]

    @property
    def chooses_rerankers(self) -> bool:
        """Whether visitors may choose what ranks; workers load what ranks once, for all."""
        alone = self.engine.workers is None and self.engine.ray is None
        return alone and len(self.rerankers) > 1

    @property
    def in_memory(self) -> dict[str, Spec]:
        """The models that visitors may choose and that are loaded, by name."""
        return {n: spec for n, spec in self.models.items() if self.engine.loaded(spec) is not None}

    def load_models(self, names: Sequence[str], client: str = "") -> Job:
        """Have models loaded in their turn. Raises InputError as `submit` does."""
        specs = self.specs(names)

        def work(job: Job) -> None:
            for spec in specs:
                self.engine.pipeline(spec, job.follow)

        return self._submitted(Job(client, work))

    def release(self, name: str, client: str = "") -> Job:
        """Have a model let go of in its turn. Raises InputError as `submit` does."""
        spec = self.find(name)
        return self._submitted(Job(client, lambda job: self.engine.release(spec)))

    def _score_with(self, names: Sequence[str]) -> None:
        """Have the rerankers of these names score; none is those that always do."""
        chosen = [self.rerankers[name] for name in names if name in self.rerankers] or self._usual
        own = chosen[:1] == self._usual[:1]  # the features that the aesthetic head was made for
        self.engine.score_with(chosen, self._head if own else None)

    def plan(self, request: Request, uploads: Mapping[str, Path] = NO_UPLOADS) -> Plan:
        """Resolve a request; raises InputError for what cannot or may not be drawn here.

        `uploads` are the files of an edit, by the names of their settings.
        """
        files = {"lora": self.catalog.loras, "vae": self.catalog.vaes}
        served = {*SERVED, *(name for name, known in files.items() if known)}
        if uploads:
            served |= {*EDITS}
        for name in request.given():
            if name not in served or not self.rules.allow_setting(name):
                raise InputError(f"{name}: not a setting for visitors of a server")
        if request.model is None and self.default != DEFAULT_MODEL:
            request = request.replace(model=self.default)
        request = _with_uploads(self.catalog.with_files(request), uploads)
        plan = resolve(request, self.find, self.loras)
        for _, own in plan.models:
            for name, most in self.rules.most.items():
                value = getattr(own, name)
                if value is not None and value > most:
                    raise InputError(f"{name} {value}: at most {most} on this server")
        return plan

    def submit(
        self,
        request: Request,
        client: str = "",
        watch: Watch = ignore_events,
        previews: bool = False,
        matches: bool = False,
        explained: bool = False,
        uploads: Mapping[str, Path] = NO_UPLOADS,
        rerankers: Sequence[str] = (),
    ) -> Job:
        """Have a prompt drawn, scored and saved in its turn; the job's future gets the Outcome.

        `rerankers` are names of `self.rerankers`; none is those that always score. With `matches`
        the run folder is told how likely each image matches; with `explained`, the best images of
        the Outcome have their match and claims. `watch` is called in the queue's
        thread. Raises InputError, of which QueueFullError, StoppingError,
        FatalJobError and UnknownModelError are kinds; the future may raise WeightsError and
        RoomError too.
        """
        plan = self.plan(request, uploads)

        def work(job: Job) -> Outcome:
            def tell(event: Event) -> None:
                job.follow(event)
                watch(event)

            self._score_with(rerankers)
            outcome = self.engine.draw(
                plan, self.folder, watch=tell, cancel=job.cancel, previews=previews
            )
            self.metrics.count_images(outcome.drawn, len(outcome.failed))
            if matches:
                self._note_matches(outcome)
            if explained:
                explain_what_is_known(outcome, self.engine, self.folder)
            return outcome

        return self._submitted(Job(client, work, _key(_with_uploads(request, uploads))))

    def find_mask(self, request: Request, uploads: Mapping[str, Path], client: str = "") -> Job:
        """Have the mask that a request asks for found in its turn; the job's future gets its file.

        Raises InputError as `submit` does; the future may raise InputError where nothing is found.
        """
        plan = self.plan(request, uploads)

        def work(job: Job) -> Path:
            return Path(finding.with_mask(plan, self.engine, self.folder.path).request.mask)

        return self._submitted(Job(client, work))

    def rerank(
        self, prompt: str, files: Sequence[bytes], client: str = "", closely: bool = False
    ) -> Job:
        """Have image files scored in their turn; the job's future gets an UploadScore for each.

        Raises InputError as `submit` does.
        """
        if not self._usual:
            raise InputError("this server has no reranker")
        return self._submitted(Job(client, partial(self._score_uploads, prompt, files, closely)))

    def enlarge(self, data: bytes, upscaler: Path, times: float, client: str = "") -> Job:
        """Have an image file enlarged so many times in its turn; the job's future gets the image.

        Raises InputError as `submit` does; the future may raise InputError for a file that is
        no image, or too large for it.
        """

        def work(job: Job) -> Image.Image:
            image = ImageOps.exif_transpose(decode(data, self.reader)).convert("RGB")
            return self.engine.enlarged(image, upscaler, times, job.follow)

        return self._submitted(Job(client, work))

    def _score_uploads(
        self, prompt: str, files: Sequence[bytes], closely: bool, job: Job
    ) -> list[UploadScore]:
        self._score_with(())
        reranker = self.engine.load_reranker(job.follow)
        prepared, found = [], {}
        for index, data in enumerate(files):  # one at a time: decoded they can be very large
            if job.cancel.asked:
                raise StoppingError
            try:
                prepared.append((index, reranker.prepare(decode(data, self.reader))))
            except ValueError as error:
                found[index] = UploadScore(failed=str(error))
        images = reranker.encode([image for _, image in prepared])
        scores = reranker.score(prompt, images)
        matches = self._matches(prompt, images) if closely else None
        checks = reranker.check(prompt, images) if closely else None
        for place, ((index, _), score) in enumerate(zip(prepared, scores, strict=True)):
            if not math.isfinite(score):
                found[index] = UploadScore(failed="its score is not finite")
                continue
            claims = () if checks is None else checks[place].results
            found[index] = UploadScore(
                score,
                match=None if matches is None else matches[place],
                claims=tuple((claim.claim.text, claim.holds) for claim in claims),
            )
        return [found[index] for index in range(len(files))]

    def _matches(self, prompt: str, images: Any) -> list[float] | None:
        """Return how likely each encoded image matches; None for a reranker without calibration."""
        try:
            meanings = self.engine.load_reranker().calibrated(prompt, images)
        except WeightsError:
            return None
        return [meaning.probability for meaning in meanings]

    def _note_matches(self, outcome: Outcome) -> None:
        paths = {r.seed: r.path for r in outcome.best + outcome.rest if r.path is not None}
        if not paths or outcome.number is None or self.engine.reranker_spec() is None:
            return
        images = self.engine.load_reranker().encode(list(paths.values()), skip_bad=True)
        prompt = outcome.plan.request.prompt
        checks = self.engine.load_reranker().check(prompt, images)
        for seed, check in zip(paths, checks, strict=True):
            claims = tuple((each.claim.text, each.holds) for each in check.results)
            self._claims[outcome.number, seed] = claims
        while len(self._claims) > CLAIMS_KEPT:
            self._claims.popitem(last=False)
        matches = self._matches(prompt, images)
        if matches is not None:
            pairs = zip(paths, matches, strict=True)
            known = {seed: match for seed, match in pairs if math.isfinite(match)}
            self.folder.note_matches(outcome.number, known)

    def claims_of(self, number: int, seed: int) -> Claims:
        """Return what the prompt claims and whether it holds in an image that was drawn lately."""
        return self._claims.get((number, seed), ())

    def delete(self, files: Files) -> None:
        """Move images to where they can be brought back from. Raises InputError and RoomError.

        So do `restore` and `empty_deleted`: InputError where the owner lets no visitor delete.
        """
        self._check_may_delete()
        self.folder.delete(files)

    def restore(self, files: Files) -> None:
        """Bring deleted images back."""
        self._check_may_delete()
        self.folder.restore(files)

    def empty_deleted(self) -> None:
        """Remove for good what was deleted."""
        self._check_may_delete()
        self.folder.empty_deleted()

    def _check_may_delete(self) -> None:
        if not self.rules.delete:
            raise InputError("visitors of this server delete nothing")

    def token_count(self, prompt: str, spec: Spec) -> int | None:
        """Return how many tokens a loaded model makes of a prompt; None while it is not loaded."""
        pipeline = self.engine.loaded(spec)
        return None if pipeline is None else pipeline.token_count(prompt)

    def stop(self, seconds: float | None = None) -> bool:
        """End the job in the making after its step; returns when what it has is saved.

        After so many seconds it is left alone: returns False if its step has not ended by then.
        """
        self.reader.close()
        return self.queue.stop(seconds)

    def _submitted(self, job: Job) -> Job:
        start = perf_counter()
        try:
            self.queue.submit(job)
        except (QueueFullError, StoppingError, FatalJobError):
            self.metrics.count_refused()
            raise
        job.future.add_done_callback(lambda _: self.metrics.count_job(job, perf_counter() - start))
        return job


def _with_uploads(request: Request, uploads: Mapping[str, Path]) -> Request:
    files: dict[str, Any] = {name: str(path) for name, path in uploads.items()}
    return request.replace(**files)


def _key(request: Request) -> str:
    """Return the same for the same request, so that one that kills the process is known again."""
    return hashlib.sha256(json.dumps(request.to_json(), sort_keys=True).encode()).hexdigest()[:32]
