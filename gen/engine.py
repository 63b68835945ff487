"""The engine: from a request to ranked images.

Candidates are drafted in micro-batches, saved when they are made, scored, and at last ranked.
Nothing here prints: what happens meanwhile is told to `watch`, and a `Cancel` ends it early. Torch
and the networks are imported when they are first needed.
"""

from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

from gen import editing, finding, image_prompts, scoring
from gen.drafting import Drafting, finished_drafts
from gen.events import Cancel, Finished, Note, Progress, Watch, ignore_events
from gen.foreseen import dropped
from gen.metadata import Metadata, versions
from gen.models import Models, raise_unless_out_of_memory
from gen.plan import Candidate, Plan, Survey
from gen.previews import Previews
from gen.result import Outcome, Result
from gen.run_folder.folder import Job, RunFolder
from gen.search.prompt_search import enter, field_of, found_drafts, place_of
from gen.search.race import Look
from gen.settings.request import Request
from gen.settings.vocabulary import doubts
from gen.turns import ON_CPU, Turns
from gen.workers.drawing import Drawing, begin, by_model
from gen.workers.tasks import Drawn, Scores, Step
from pipelines.checkpoints.specs import Spec

if TYPE_CHECKING:
    from PIL import Image

    from pipelines.drafts import Draft, Pipeline

__all__ = ["Engine", "Outcome", "run"]


@dataclass
class Engine(Models):
    """The models, loaded when first used, and the recipe. One thread at a time may draw; threads
    whose `workers` draw, processes or at `ray` the actors of a cluster, take `turns`.
    """

    workers: int | None = None
    ray: str | None = None
    turns: Turns = field(default_factory=Turns, repr=False)
    _has_drawn: bool = field(default=False, repr=False)
    _drawing: Drawing | None = field(default=None, repr=False)

    def close(self) -> None:
        """End the workers, if there are any."""
        if self._drawing is not None:
            self._drawing.close()
            self._drawing = None

    def __enter__(self) -> "Engine":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def drawing(self) -> Drawing | None:
        """Return the workers, started when first asked for; None if this process draws."""
        if self._drawing is None and (self.workers is not None or self.ray is not None):
            self._drawing = begin(self, self.workers, self.ray, self.turns)
        return self._drawing

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
        job = Job(0) if folder is None else folder.job(plan, self.hashes(plan), anew=anew)
        if not job.finished:
            plan = finding.with_mask(plan, self, None if folder is None else folder.path)
        run = _PromptRun(self, plan, job, folder, watch, cancel, Previews(wanted=previews))
        if job.finished:
            return run.outcome()

        run.score([result for result in job.results.values() if run.lacks_score(result)])
        missing = run.missing()
        if missing and not run.is_scored_elsewhere:
            self.load_scorer(watch)  # what is wrong with it shows now, not after the first images
        run.tell_of_earlier()
        for spec, own in by_model(plan, missing):
            if cancel.asked:
                break
            if run.drawing is None:
                run.draw(self.pipeline(spec, watch), own)
            else:
                run.draw_elsewhere(run.drawing, spec, own)
        run.rank()
        return run.outcome()

    def hashes(self, plan: Plan) -> dict[str, str]:
        """Return what tells the weights of a plan's models from others, by model."""
        checked = "+safety" if self.safety else ""  # what was drawn unchecked is another job
        return {spec.address: self.model_hash(spec) + checked for spec, _ in plan.models}


@dataclass
class _PromptRun:
    """One prompt while it is worked on."""

    engine: Engine
    plan: Plan
    job: Job
    folder: RunFolder | None
    watch: Watch
    cancel: Cancel
    previews: Previews
    made: int = 0  # whole candidates, those of earlier runs included
    drawn: int = 0  # those of now

    def __post_init__(self) -> None:
        self.candidates = {} if self.job.finished else self.plan.found_in(self.job.searches)
        self.parts = self.engine.scored_parts()
        self.drawing = self.engine.drawing()
        if self.plan.schedules and self.engine.scorer is not None:
            self.drawing = None  # a search asks its scorer all the time, and this one is ours
        self.is_scored_elsewhere = self.drawing is not None and self.engine.scorer is None

    @cached_property
    def scorer(self) -> Any:
        """What scores this prompt's images; None if nothing does."""
        return image_prompts.judged_by(self.engine.load_scorer(self.watch), self.plan.request)

    def missing(self) -> list[Candidate]:
        """Return the candidates still to be made, or to be made whole; of a search all or none."""
        whole = {seed for seed, r in self.job.results.items() if r.unfinished is None}
        if self.plan.schedules:
            return [] if len(whole) >= self.plan.count else self.plan.candidates()
        return [candidate for seed, candidate in self.candidates.items() if seed not in whole]

    def lacks_score(self, result: Result) -> bool:
        """Return whether an image of an earlier run has yet to be scored."""
        return result.score is None or result.scores.keys() != set(self.parts)

    def tell_of_earlier(self) -> None:
        """Tell of the candidates that earlier runs have made."""
        there = [result for result in self.job.results.values() if result.unfinished is None]
        self.made = len(there)
        if 0 < self.made < self.plan.count:
            self.watch(Finished(sorted(there, key=lambda result: result.index)))

    def draw(self, pipeline: "Pipeline", candidates: list[Candidate]) -> None:
        """Make, save and score candidates of one model, a micro-batch at a time."""
        spec, batch_size = candidates[0].spec, self.engine.batch_size
        if text := pipeline.dropped_text(self.plan.request.prompt):
            self.watch(Note(dropped(spec.name, spec.context, text)))
        upscaler = self.engine.upscaler_for(self.plan, spec, self.watch)
        on_cpu = getattr(pipeline.device, "type", None) == "cpu"
        turn = ON_CPU if on_cpu else nullcontext()
        how = Drafting(batch_size, self._tell_progress, self.watch, self.cancel, turn, upscaler)
        if self.plan.schedules:
            note = partial(self._note_look, spec)
            of = pipeline, spec, self.scorer, self.plan, self.job
            drafts = found_drafts(*of, note, self.candidates, how)
        else:
            early = on_cpu and not self.engine._has_drawn
            drafts = finished_drafts(pipeline, candidates, how, early=early)
        for draft in drafts:
            self._collect(draft, pipeline.attention)
            self.engine._has_drawn = True

    def draw_elsewhere(self, drawing: Drawing, spec: Spec, candidates: Sequence[Candidate]) -> None:
        """Save what workers make and score of candidates of one model, as it comes."""
        if self.plan.schedules:
            enter(self.candidates, self.plan, field_of(self.plan, spec, self.job))
        how = self.folder, self.watch, self._tell_progress, self.cancel
        for piece in drawing.drawn(self.plan, spec, candidates, self.job, *how):
            if isinstance(piece, Look):
                self._note_look(spec, piece)
                enter(self.candidates, self.plan, piece.field)
                continue
            if piece.dropped and not self.drawn:
                self.watch(Note(dropped(spec.name, spec.context, piece.dropped)))
            self._collect(piece, piece.attention)

    def _note_look(self, spec: Spec, look: Look) -> None:
        if self.folder is not None:
            total = self.plan.schedules[place_of(self.plan, spec)].total
            self.folder.note_look(self.job, spec.address, total, look)

    def _collect(self, draft: "Draft | Drawn", attention: str) -> None:
        """Save a draft's images, then have them scored, unless a worker has done so."""
        done = draft if isinstance(draft, Drawn) else None
        scores = None if done is None else done.scores
        whole = draft.done == draft.total
        unfinished = None if whole else f"step {draft.done} of {draft.total}"
        try:
            images = draft.images() if whole else draft.preview(exact=True)
            pixels = draft.pixels() if whole and scores is None else None
        except Exception as error:
            raise_unless_out_of_memory(error, candidates=1)  # decoding halves by itself
            raise
        if images is None:  # the user wants them as they are, and they are nothing yet
            return
        likelihoods: Sequence[float | None] = draft.log_likelihoods or [None] * len(images)
        results = []
        for seed, image, likelihood in zip(draft.seeds, images, likelihoods, strict=True):
            candidate = self.candidates[seed]
            if image is None:
                self._fail(Result(candidate.request, candidate.index, failed=draft.failed[seed]))
                continue
            record = self._record(candidate, attention, likelihood, unfinished)
            encoded = None if done is None else done.files.get(seed)
            results.append(self._keep(candidate, image, record, encoded))
        self.made += len(draft.seeds)
        self.drawn += len(results)
        self.score(results, pixels, scores)
        self.watch(Finished([self.job.results[seed] for seed in draft.seeds]))
        for result in scoring.ranked(self.job.results.values())[self.plan.top_k :]:
            result.image = None  # memory holds no more than what is returned

    def _record(
        self, candidate: Candidate, attention: str, likelihood: float | None, unfinished: str | None
    ) -> Metadata:
        """Return what an image says of how it was made."""
        return Metadata(
            candidate.request,
            model=candidate.spec.name,
            model_hash=self.engine.model_hash(candidate.spec),
            attention=attention,
            versions=versions(),
            candidates=self.plan.begun,
            rerank_model=self.engine.scorer_name(),
            log_likelihood=likelihood,
            unfinished=unfinished,
            upscale=candidate.request.upscale or 1,
        )

    def score(
        self, results: list[Result], pixels: Any = None, scores: Scores | None = None
    ) -> None:
        """Score images against the prompt; one without a finite score has failed.

        `pixels` (M, 3, H, W) uint8 are those of the results, where they have just been made;
        `scores` what a worker has found.
        """
        if scores is not None:
            for result in results:
                result.score, result.scores = scores[result.seed]
            self._take_scores(results)
            return
        if not results or self.scorer is None:
            return
        if pixels is None:
            there = [(result, image) for result in results if (image := result.open()) is not None]
            results, pixels = [result for result, _ in there], [image for _, image in there]
        boxes = [editing.masked_box(self.candidates[result.seed]) for result in results]
        scoring.score(self.scorer, self.plan.words, results, pixels, boxes)
        self._take_scores(results)

    def _take_scores(self, results: list[Result]) -> None:
        """Combine and note new scores; a result without a finite one has failed."""
        self._combine()
        for result in results:
            if not scoring.has_score(result):
                result.score, result.failed = None, scoring.NOT_FINITE
                self._fail(result)
        if self.folder is not None:
            self.folder.note_scores(self.job, [r for r in results if r.failed is None])

    def _combine(self) -> None:
        """Combine the scores of several scorers over all candidates so far."""
        if self.parts and self.job.results:
            scoring.combine(self.scorer, self.job.results.values())

    def rank(self) -> None:
        """Give every image its rank, and its final name."""
        self._combine()  # a run that was stopped may have scored, and combined only a part
        results = scoring.ranked(self.job.results.values())
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

    def _keep(
        self, candidate: Candidate, image: "Image.Image", record: Metadata, encoded: bytes | None
    ) -> Result:
        if self.folder is not None:
            return self.folder.save(self.job, candidate, image, record, encoded)
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

    def _tell_progress(self, draft: "Draft | Step") -> None:
        """Report how far a draft is; of a search, only as many candidates as come of it."""
        places = [self.candidates[s].index if s in self.candidates else None for s in draft.seeds]
        shown = {i: p for i, p in enumerate(places) if p is not None and p < self.plan.count}
        previews = self.previews.take(draft)
        self.watch(
            Progress(
                self.plan.request.prompt,
                self.made,
                self.plan.count,
                list(shown.values()),
                draft.done,
                draft.total,
                None if previews is None else [previews[i] for i in shown],
            )
        )


def run(
    requests: Iterable[Request],
    engine: Engine,
    survey: Survey,
    folder: RunFolder | None = None,
    *,
    watch: Watch | None = None,
    cancel: Cancel | None = None,
    previews: bool = False,
) -> Iterator[Outcome]:
    """Draw one prompt after another; the requests without a seed share one.

    It is the seed of the same command's unfinished run in the folder, if there is one there;
    `survey`, which has seen the requests before, has resolved them and tells commands apart.
    Raises what `Engine.draw` raises.
    """
    cancel = Cancel() if cancel is None else cancel
    watch = ignore_events if watch is None else watch
    shares_seed = False

    def resolved() -> Generator[Plan]:
        nonlocal shares_seed
        for request in requests:
            if request.seed is None and not shares_seed:
                shares_seed = True
                if folder is not None:
                    survey.seed = _seed_of_run(folder, survey, watch)
            yield survey.resolve(request)

    def has_begun(plan: Plan) -> bool:
        return folder is not None and folder.has_begun(plan, engine.hashes(plan))

    drawing, plans = engine.drawing(), resolved()
    if drawing is not None:
        plans = drawing.ahead(plans, has_begun, watch, folder)
    with closing(plans):
        for plan in plans:
            yield engine.draw(plan, folder, watch=watch, cancel=cancel, previews=previews)
            if cancel.asked:
                return
    if folder is not None and shares_seed:
        folder.end_run(survey.fingerprint)


def _seed_of_run(folder: RunFolder, survey: Survey, watch: Watch) -> int:
    seed, resumed = folder.start_run(survey.fingerprint, survey.seed)
    if resumed:
        watch(Note(f"finishing the run in {folder.path} that was begun with seed {seed}"))
    return seed
