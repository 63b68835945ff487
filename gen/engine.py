"""The engine: from a request to ranked images.

Candidates are drafted in micro-batches, saved when they are made, scored, and at last ranked.
Nothing here prints: what happens meanwhile is told to `watch`, and a `Cancel` ends it early. Torch
and the networks are imported when they are first needed.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, Unpack

from gen.drafting import finished_drafts
from gen.errors import InputError, RoomError
from gen.events import Cancel, Finished, Note, Progress, Watch, ignore_events
from gen.metadata import Metadata, versions
from gen.models import Models, raise_unless_out_of_memory
from gen.plan import Candidate, Plan, Survey, draw_seed, resolve
from gen.result import Result
from gen.run_folder.folder import Job, RunFolder
from gen.settings.request import Request, Settings
from gen.settings.vocabulary import doubts
from pipelines.checkpoints.specs import Spec

if TYPE_CHECKING:
    from PIL import Image

    from pipelines.drafts import Draft, Pipeline

__all__ = ["Engine", "InputError", "Outcome", "RoomError", "generate", "run"]

PREVIEW_SHARE = 0.1  # of the time, at most
DROPPED_SHOWN = 200  # characters


@dataclass
class Outcome:
    """What one prompt came to."""

    plan: Plan
    best: list[Result]  # the top_k, best first
    rest: list[Result]  # those behind them, in order
    failed: list[Result]  # the candidates without an image, or without a score
    made: int  # candidates with an image, those of earlier runs included
    drawn: int  # those that were made now
    number: int | None = None  # of the prompt in its run folder


@dataclass
class Engine(Models):
    """The models, loaded when first used, and the recipe. One thread at a time may draw."""

    _has_drawn: bool = field(default=False, repr=False)

    def draw(
        self,
        plan: Plan,
        folder: RunFolder | None = None,
        *,
        anew: bool = False,
        watch: Watch | None = None,
        cancel: Cancel | None = None,
        previews: bool = False,
    ) -> Outcome:
        """Make what is missing of a prompt's candidates, score them, and rank them all.

        With a `folder` every image is saved when it is made, and what an earlier run left there is
        not drawn again, unless `anew`. Raises WeightsError, InputError for a device that is not
        there, and RoomError when the disk is full or memory is short for one candidate alone.
        """
        watch = ignore_events if watch is None else watch
        cancel = Cancel() if cancel is None else cancel
        for doubt in doubts(plan, self.reranker_spec()):
            watch(Note(doubt))
        checked = "+safety" if self.safety else ""  # what was drawn unchecked is another job
        hashes = {spec.address: self.model_hash(spec) + checked for spec, _ in plan.models}
        job = Job(0) if folder is None else folder.job(plan, hashes, anew=anew)
        run = _PromptRun(self, plan, job, folder, watch, cancel, previews)
        if job.finished:
            return run.outcome()

        run.score([result for result in job.results.values() if run.lacks_score(result)])
        missing = [candidate for candidate in plan.candidates() if run.lacks(candidate)]
        if missing:
            self.load_scorer(watch)  # what is wrong with it shows now, not after the first images
        run.tell_of_earlier(plan.count - len(missing))
        for spec in {spec.folder: spec for spec, _ in plan.models}.values():
            own = [candidate for candidate in missing if candidate.spec.folder == spec.folder]
            if own and not cancel.asked:
                run.draw(self.pipeline(spec, watch), own)
        run.rank()
        return run.outcome()


@dataclass
class _PromptRun:
    """One prompt while it is worked on."""

    engine: Engine
    plan: Plan
    job: Job
    folder: RunFolder | None
    watch: Watch
    cancel: Cancel
    wants_previews: bool
    made: int = 0  # whole candidates, those of earlier runs included
    drawn: int = 0  # those of now
    _began: float = field(default_factory=perf_counter)
    _preview_seconds: float = 0.0  # spent on previews so far, and on the last one
    _last_preview: float = 0.0

    def __post_init__(self) -> None:
        wanted = [] if self.job.finished else self.plan.candidates()
        self.candidates = {candidate.seed: candidate for candidate in wanted}
        self.parts = self.engine.scored_parts()

    def lacks(self, candidate: Candidate) -> bool:
        """Return whether a candidate is still to be made, or to be made whole."""
        result = self.job.results.get(candidate.seed)
        return result is None or result.unfinished is not None

    def lacks_score(self, result: Result) -> bool:
        """Return whether an image of an earlier run has yet to be scored."""
        return result.score is None or result.scores.keys() != set(self.parts)

    def tell_of_earlier(self, made: int) -> None:
        """Tell of the candidates that earlier runs have made."""
        self.made = made
        there = [self.job.results[s] for s in self.candidates if s in self.job.results]
        if made and made < self.plan.count:
            self.watch(Finished([result for result in there if result.unfinished is None]))

    def draw(self, pipeline: "Pipeline", candidates: list[Candidate]) -> None:
        """Make, save and score candidates of one model, a micro-batch at a time."""
        if dropped := pipeline.dropped_text(self.plan.request.prompt):
            self._tell_of_dropped_text(dropped, candidates[0].spec)
        on_cpu = getattr(pipeline.device, "type", None) == "cpu"
        for draft in finished_drafts(
            pipeline,
            candidates,
            self.engine.batch_size,
            early=on_cpu and not self.engine._has_drawn,
            on_step=self._tell_progress,
            watch=self.watch,
            cancel=self.cancel,
        ):
            self._collect(draft, pipeline)
            self.engine._has_drawn = True

    def _collect(self, draft: "Draft", pipeline: "Pipeline") -> None:
        """Save a draft's images, then have them scored."""
        whole = draft.done == draft.total
        unfinished = None if whole else f"step {draft.done} of {draft.total}"
        try:
            images = draft.images() if whole else draft.preview(exact=True)
            pixels = draft.pixels() if whole else None
        except Exception as error:
            raise_unless_out_of_memory(error, candidates=1)  # decoding halves by itself
            raise
        if images is None:  # the user wants them as they are, and they are nothing yet
            return
        told = draft.log_likelihoods
        likelihoods = [None] * len(images) if told is None else told
        results = []
        for seed, image, likelihood in zip(draft.seeds, images, likelihoods, strict=True):
            candidate = self.candidates[seed]
            if image is None:
                self._fail(Result(candidate.request, candidate.index, failed=draft.failed[seed]))
                continue
            record = self._record(candidate, pipeline, unfinished, likelihood)
            results.append(self._keep(candidate, image, record))
        self.made += len(draft.seeds)
        self.drawn += len(results)
        self.score(results, pixels)
        self.watch(Finished([self.job.results[seed] for seed in draft.seeds]))
        for result in ranked(self.job.results.values())[self.plan.top_k :]:
            result.image = None  # memory holds no more than what is returned

    def score(self, results: list[Result], pixels: Any = None) -> None:
        """Score images against the prompt; one without a finite score has failed.

        `pixels` (M, 3, H, W) uint8 are those of the results, where they have just been made. Raw
        scores of several scorers are kept apart, and combined over all candidates so far, since
        only within one prompt they can be compared.
        """
        scorer = self.engine.load_scorer(self.watch) if results else None
        if scorer is None:
            return
        if pixels is None:
            there = [(result, image) for result in results if (image := result.open()) is not None]
            results, pixels = [result for result, _ in there], [image for _, image in there]
        try:
            if hasattr(scorer, "combine"):
                parts = scorer.judge(self.plan.words, pixels).parts
            else:
                rate = scorer.score if hasattr(scorer, "score") else scorer
                parts = {"": list(rate(self.plan.words, pixels))}
        except Exception as error:
            raise_unless_out_of_memory(error, candidates=1)
            raise
        for i, result in enumerate(results):
            result.scores = {name: scores[i] for name, scores in parts.items()}
        self._combine(scorer)
        for result in results:
            if result.score is None or not math.isfinite(result.score):
                result.score = None
                result.failed = "its score is not a finite number"
                self._fail(result)
        if self.folder is not None:
            self.folder.note_scores(self.job, [r for r in results if r.failed is None])

    def _combine(self, scorer: Any) -> None:
        """Set each result's score from its parts."""
        results = self.job.results.values()
        scored = [result for result in results if result.scores and result.failed is None]
        if not hasattr(scorer, "combine"):
            for result in scored:
                result.score, result.scores = result.scores.get("", result.score), {}
            return
        names = [member.scorer.name for member in scorer.members]
        parts = {name: [result.scores[name] for result in scored] for name in names}
        for result, score in zip(scored, scorer.combine(parts), strict=True):
            result.score = score

    def rank(self) -> None:
        """Give every image its rank, and its final name."""
        if self.parts and self.job.results:  # scored before, perhaps, and never combined
            self._combine(self.engine.load_scorer(self.watch))
        results = ranked(self.job.results.values())
        for rank, result in enumerate(results, start=1):
            result.rank = rank
        if self.folder is not None:
            self.folder.place(self.job, results, self.plan)

    def outcome(self) -> Outcome:
        """Return what has come of the prompt."""
        results = list(self.job.results.values())
        good = sorted((r for r in results if r.rank is not None), key=lambda r: r.rank or 0)
        return Outcome(
            self.plan,
            best=good[: self.plan.top_k],
            rest=good[self.plan.top_k :],
            failed=[result for result in results if result.failed is not None],
            made=len(good),
            drawn=self.drawn,
            number=None if self.folder is None else self.job.number,
        )

    def _keep(self, candidate: Candidate, image: "Image.Image", record: Metadata) -> Result:
        if self.folder is not None:
            return self.folder.save(self.job, candidate, image, record)
        result = Result(
            candidate.request,
            candidate.index,
            image=image,
            log_likelihood=record.log_likelihood,
            unfinished=record.unfinished,
        )
        self.job.results[candidate.seed] = result
        return result

    def _fail(self, result: Result) -> None:
        result.rank = None
        self.job.results[result.seed] = result
        if self.folder is not None:
            self.folder.fail(self.job, result)
        self.watch(Note(f"the candidate of seed {result.seed} failed: {result.failed}"))

    def _record(
        self,
        candidate: Candidate,
        pipeline: "Pipeline",
        unfinished: str | None,
        log_likelihood: float | None,
    ) -> Metadata:
        return Metadata(
            candidate.request,
            model=candidate.spec.name,
            model_hash=self.engine.model_hash(candidate.spec),
            attention=pipeline.attention,
            versions=versions(),
            candidates=self.plan.count,
            rerank_model=self.engine.scorer_name(),
            log_likelihood=log_likelihood,
            unfinished=unfinished,
            upscale=1 if self.folder is None else self.folder.export.upscale,
        )

    def _tell_progress(self, draft: "Draft") -> None:
        self.watch(
            Progress(
                self.plan.request.prompt,
                self.made,
                self.plan.count,
                [self.candidates[seed].index for seed in draft.seeds],
                draft.done,
                draft.total,
                self._previews(draft),
            )
        )

    def _previews(self, draft: "Draft") -> "Sequence[Image.Image | None] | None":
        """Return what the candidates look like by now, if that is wanted and time allows."""
        start = perf_counter()
        budget = PREVIEW_SHARE * (start - self._began) - self._preview_seconds
        if not self.wants_previews or self._last_preview > budget:
            return None
        previews = draft.preview()
        self._last_preview = perf_counter() - start
        self._preview_seconds += self._last_preview
        return previews

    def _tell_of_dropped_text(self, dropped: str, spec: Spec) -> None:
        if len(dropped) > DROPPED_SHOWN:
            dropped = dropped[:DROPPED_SHOWN] + "…"
        self.watch(
            Note(f"{spec.name} reads {spec.context} tokens; this end is dropped: {dropped!r}")
        )


def run(
    requests: Iterable[Request],
    engine: Engine,
    fingerprint: str,
    folder: RunFolder | None = None,
    *,
    watch: Watch | None = None,
    cancel: Cancel | None = None,
    previews: bool = False,
) -> Iterator[Outcome]:
    """Draw one prompt after another; the requests without a seed share one.

    It is the seed of the same command's unfinished run in the folder, if there is one there;
    `fingerprint` (of a `Survey`) tells commands apart. Raises what `Engine.draw` raises.
    """
    cancel = Cancel() if cancel is None else cancel
    find = Survey().find
    seed = None
    for request in requests:
        if request.seed is None:
            if seed is None:
                seed = _seed_of_run(folder, fingerprint, watch)
            request = request.replace(seed=seed)
        plan = resolve(request, find)
        yield engine.draw(plan, folder, watch=watch, cancel=cancel, previews=previews)
        if cancel.asked:
            return
    if folder is not None and seed is not None:
        folder.end_run(fingerprint)


def generate(
    prompt: str | Request,
    *,
    outdir: str | Path | None = None,
    engine: Engine | None = None,
    watch: Watch | None = None,
    cancel: Cancel | None = None,
    **settings: Unpack[Settings],
) -> list[Result]:
    """Make `candidates` images of a prompt and return the `top_k` best, best first.

    Each Result holds its `image`, `score` (the cosine with the prompt, in [-1, 1]), `rank`, `seed`
    and `request`; candidates that failed follow at the end, with no image and the reason in
    `failed`. The settings are those of `gen.settings.request.Settings`; those of a `Request` given
    as `prompt` hold where the keywords say nothing. With `outdir` the images are also saved, as the
    `generate` command does. Pass an `engine` to keep the models loaded from call to call.

    Raises InputError for what cannot be, WeightsError, and RoomError when disk or memory is full.
    """
    asked: dict[str, Any] = {
        name: str(value) if isinstance(value, Path) else value
        for name, value in settings.items()
        if value is not None
    }
    request = (Request(prompt) if isinstance(prompt, str) else prompt).replace(**asked)
    survey = Survey()
    survey.add(request)
    engine = Engine() if engine is None else engine
    folder = None if outdir is None else RunFolder(Path(outdir))
    try:
        [outcome] = run([request], engine, survey.fingerprint, folder, watch=watch, cancel=cancel)
    finally:
        if folder is not None:
            folder.close()
    for result in outcome.best:
        result.image = result.open()
    return outcome.best + outcome.failed


def ranked(results: Iterable[Result]) -> list[Result]:
    """Return the images, best score first, equals in the order of making; unscored ones last.

    Failed candidates are left out.
    """
    from rerank import rank

    good = sorted((r for r in results if r.failed is None), key=lambda r: r.index)
    scored = [result for result in good if result.score is not None]
    scores = [result.score for result in scored if result.score is not None]
    unscored = [result for result in good if result.score is None]
    return [scored[place.index] for place in rank(scores)] + unscored


def _seed_of_run(folder: RunFolder | None, fingerprint: str, watch: Watch | None) -> int:
    if folder is None:
        return draw_seed()
    seed, resumed = folder.start_run(fingerprint)
    if resumed and watch is not None:
        watch(Note(f"finishing the run in {folder.path} that was begun with seed {seed}"))
    return seed
