"""The engine: from a plan to ranked pictures.

Candidates are drafted in micro-batches, saved when they are made, judged, and at last ranked.
Nothing here prints: what happens meanwhile is told to `watch`, and a `Cancel` ends it early. Torch
and the networks are imported when they are first needed.
"""

import gc
import math
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import rerank.model.specs
from gen.errors import InputError, RoomError
from gen.events import Cancel, Finished, Loading, Note, Progress, Watch, ignore_events
from gen.memory import BatchSize, free_on_host, held_by_process, peak_of_process
from gen.metadata import Metadata, versions
from gen.plan import Candidate, Plan, Survey, draw_seed, resolve
from gen.result import Result
from gen.run_folder.folder import Job, RunFolder
from gen.settings.request import LOADING_SETTINGS, MODEL_SETTINGS, Request
from gen.settings.vocabulary import doubts
from pipelines.checkpoints import hashes
from pipelines.checkpoints.errors import WeightsError
from pipelines.checkpoints.specs import Additions, Spec

if TYPE_CHECKING:
    from PIL import Image

    from pipelines.dalle.memory import MemoryPlan
    from pipelines.dalle.pipeline import Dalle
    from pipelines.diffusion.pipeline import LatentDiffusion
    from pipelines.drafts import Draft
    from pipelines.stock.pipeline import AnyPipeline
    from rerank import Reranker

    Pipeline = LatentDiffusion | Dalle | AnyPipeline

NO_RERANKER = "none"
PREVIEW_SHARE = 0.1  # of the time, at most
DROPPED_SHOWN = 200  # characters


@dataclass
class Outcome:
    """What one prompt came to."""

    plan: Plan
    best: list[Result]  # the top_k, best first
    rest: list[Result]  # those behind them, in order
    failed: list[Result]  # the candidates without a picture, or without a score
    made: int  # candidates with a picture, those of earlier runs included
    drawn: int  # those that were made now
    number: int | None = None  # of the prompt in its run folder


@dataclass
class Engine:
    """The models, loaded when first used, and the recipe. One thread at a time may draw."""

    device: str | None = None
    dtype: str | None = None
    attention: str | None = None
    reranker: str | None = None  # a name or a folder; "none": no jury; None: the shipped one
    batch_size: int | None = None  # None: what memory allows
    safety: bool = False  # pictures that the model's own safety checker flags have failed
    offload: str | None = None  # none, model, sequential: what waits off the GPU
    vae_tiling: bool = False  # decode large pictures in tiles
    compiled: bool = False  # spend minutes on faster networks
    _pipelines: dict[tuple[Path, Additions], "Pipeline"] = field(default_factory=dict, repr=False)
    _hashes: dict[tuple[Path, Additions], str] = field(default_factory=dict, repr=False)
    _jury: "Reranker | None" = field(default=None, repr=False)
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
        """Make what is missing of a prompt's candidates, judge them, and rank them all.

        With a `folder` every picture is saved when it is made, and what an earlier run left there
        is not drawn again, unless `anew`. Raises WeightsError, InputError for a device that is not
        there, and RoomError when the disk is full or memory is short for one candidate alone.
        """
        watch = ignore_events if watch is None else watch
        cancel = Cancel() if cancel is None else cancel
        jury = self.jury_spec()
        for doubt in doubts(plan, jury):
            watch(Note(doubt))
        checked = "+safety" if self.safety else ""  # what was drawn unchecked is another job
        hashes = {spec.address: self.model_hash(spec) + checked for spec, _ in plan.models}
        job = Job(0) if folder is None else folder.job(plan, hashes, anew=anew)
        candidates = {} if job.finished else {c.seed: c for c in plan.candidates()}
        sitting = _Sitting(self, plan, candidates, job, folder, watch, cancel, previews)
        if job.finished:
            return sitting.outcome()

        sitting.judge([result for result in job.results.values() if result.score is None])
        missing = [candidate for candidate in candidates.values() if sitting.lacks(candidate)]
        if missing and jury is not None:
            self.jury(watch)  # what is wrong with it shows now, not after the first pictures
        sitting.made = plan.count - len(missing)
        if missing and sitting.made:
            there = [job.results[seed] for seed in candidates if seed in job.results]
            watch(Finished([result for result in there if result.unfinished is None]))
        for spec in {spec.folder: spec for spec, _ in plan.models}.values():
            own = [candidate for candidate in missing if candidate.spec.folder == spec.folder]
            if own and not cancel.asked:
                sitting.draw(self.pipeline(spec, watch), own)
        sitting.rank()
        return sitting.outcome()

    def pipeline(self, spec: Spec, watch: Watch | None = None) -> "Pipeline":
        """The pipeline of a model, loaded when first asked for."""
        key = spec.folder, spec.additions
        if key not in self._pipelines:
            watch = ignore_events if watch is None else watch
            watch(Loading(spec.name))
            with _loading("the model", watch):
                self._pipelines[key] = load_pipeline(spec, self, watch)
        return self._pipelines[key]

    def jury_spec(self) -> rerank.model.specs.Spec | None:
        """The facts of the model that judges, None for no jury; WeightsError if there is none."""
        if self.reranker == NO_RERANKER:
            return None
        return rerank.model.specs.find(
            rerank.model.specs.DEFAULT if self.reranker is None else self.reranker
        )

    def jury(self, watch: Watch | None = None) -> "Reranker":
        """The model that judges, loaded when first asked for."""
        if self._jury is None:
            watch = ignore_events if watch is None else watch
            watch(Loading("the jury"))
            with _loading("the jury", watch):
                self._jury = load_jury(self)
        return self._jury

    def model_hash(self, spec: Spec) -> str:
        """What tells a model's weights from others; WeightsError if they are not there."""
        key = spec.folder, spec.additions
        if key not in self._hashes:
            if not spec.folder.exists():
                raise WeightsError(
                    f"the weights of {spec.name} are not in {spec.folder}: install salon again, "
                    "or choose another model with -m"
                )
            self._hashes[key] = hashes.spec_hash(spec)
        return self._hashes[key]


@dataclass
class _Sitting:
    """One prompt while it is worked on."""

    engine: Engine
    plan: Plan
    candidates: dict[int, Candidate]  # by seed
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

    def lacks(self, candidate: Candidate) -> bool:
        """Whether a candidate is still to be made, or to be made whole."""
        result = self.job.results.get(candidate.seed)
        return result is None or result.unfinished is not None

    def draw(self, pipeline: "Pipeline", candidates: list[Candidate]) -> None:
        """Make, save and judge candidates of one model, a micro-batch at a time."""
        if dropped := pipeline.dropped_text(self.plan.request.prompt):
            self._tell_of_dropped_text(dropped, candidates[0].spec)
        on_cpu = getattr(pipeline.device, "type", None) == "cpu"
        early = on_cpu and not self.engine._has_drawn  # somebody has just started and waits
        first, besides = candidates[0], 0
        if first.spec.kind == "dalle":
            besides = plan_cache(first, pipeline.dtype.itemsize).cache_per_candidate
        sizes = BatchSize(first.pixels, self.engine.batch_size, early=early, besides=besides)
        while candidates and not self.cancel.asked:
            size = sizes.choose(len(candidates), _free_memory(pipeline.device))
            batch, candidates = candidates[:size], candidates[size:]
            held, peak = held_by_process(), peak_of_process()
            for draft in self._finished_drafts(pipeline, batch, sizes):
                self._collect(draft, pipeline)
                self.engine._has_drawn = True
            if peak_of_process() > peak:
                sizes.learn(size, peak_of_process() - held)

    def _finished_drafts(
        self, pipeline: "Pipeline", batch: list[Candidate], sizes: BatchSize
    ) -> Iterator["Draft"]:
        """The candidates' draft when it is done; or, where memory is short, its parts one by one.

        Nothing comes of those in the making when the user says stop.
        """
        request = batch[0].request
        settings: dict[str, Any] = {
            name: value
            for name, value in request.given().items()
            if name in MODEL_SETTINGS and name not in LOADING_SETTINGS
        }
        seeds = [candidate.seed for candidate in batch]
        waiting = []
        try:
            waiting.append(pipeline.begin(request.prompt, seeds=seeds, **settings))
        except Exception as error:
            _raise_unless_out_of_memory(error, candidates=len(batch))
        if not waiting:
            sizes.halve(len(batch))
            for half in (batch[: len(batch) // 2], batch[len(batch) // 2 :]):
                yield from self._finished_drafts(pipeline, half, sizes)

        while waiting:
            with waiting.pop() as draft:
                if self._complete(draft):
                    yield draft
                elif not self.cancel.stopped:
                    sizes.halve(len(draft.seeds))
                    self.watch(Note(f"memory is short: {len(draft.seeds)} candidates are halved"))
                    waiting += reversed(draft.split())

    def _complete(self, draft: "Draft") -> bool:
        """Step until the draft is done; False if the user says stop or memory is short."""
        while draft.done < draft.total and not self.cancel.finishing:
            if self.cancel.stopped:
                return False
            try:
                draft.step()
            except Exception as error:
                _raise_unless_out_of_memory(error, candidates=len(draft.seeds))
                return False
            self._tell_progress(draft)
        return True

    def _collect(self, draft: "Draft", pipeline: "Pipeline") -> None:
        """Save a draft's pictures, then have them judged."""
        unfinished = None if draft.done == draft.total else f"step {draft.done} of {draft.total}"
        try:
            images = draft.images() if unfinished is None else draft.preview(exact=True)
        except Exception as error:
            _raise_unless_out_of_memory(error, candidates=1)  # decoding halves by itself
            raise
        if images is None:  # the user wants them as they are, and they are nothing yet
            return
        told = draft.log_likelihoods
        likelihoods = [None] * len(images) if told is None else told
        results = []
        for seed, image, likelihood in zip(draft.seeds, images, likelihoods, strict=True):
            candidate = self.candidates[seed]
            if image is None:
                reason = draft.failed[seed]
                self._fail(Result(candidate.request, candidate.index, failed=reason))
                continue
            record = self._record(candidate, pipeline, unfinished, likelihood)
            results.append(self._keep(candidate, image, record))
        self.made += len(draft.seeds)
        self.drawn += len(results)
        self.judge(results)
        self.watch(Finished([self.job.results[seed] for seed in draft.seeds]))
        for result in ranked(self.job.results.values())[self.plan.top_k :]:
            result.image = None  # memory holds no more than what is returned

    def judge(self, results: list[Result]) -> None:
        """Score pictures against the prompt; one without a finite score has failed."""
        if not results or self.engine.reranker == NO_RERANKER:
            return
        jury = self.engine.jury(self.watch)
        pictures = [(result, image) for result in results if (image := result.open()) is not None]
        try:
            scores = jury.score(self.plan.words, [image for _, image in pictures])
        except Exception as error:
            _raise_unless_out_of_memory(error, candidates=1)
            raise
        for (result, _), score in zip(pictures, scores, strict=True):
            if math.isfinite(score):
                result.score = score
            else:
                result.failed = "its score is not a finite number"
                self._fail(result)
        if self.folder is not None:
            good = [result for result in results if result.failed is None]
            self.folder.note_scores(self.job, good)

    def rank(self) -> None:
        """Give every picture its rank, and its final name."""
        results = ranked(self.job.results.values())
        for rank, result in enumerate(results, start=1):
            result.rank = rank
        if self.folder is not None:
            self.folder.place(self.job, results, self.plan)

    def outcome(self) -> Outcome:
        """What has come of the prompt."""
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
        jury = self.engine.jury_spec()
        return Metadata(
            candidate.request,
            model=candidate.spec.name,
            model_hash=self.engine.model_hash(candidate.spec),
            attention=pipeline.attention,
            versions=versions(),
            candidates=self.plan.count,
            rerank_model=None if jury is None else jury.name,
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
        """What the candidates look like by now, if that is wanted and the time allows."""
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
            request = replace(request, seed=seed)
        plan = resolve(request, find)
        yield engine.draw(plan, folder, watch=watch, cancel=cancel, previews=previews)
        if cancel.asked:
            return
    if folder is not None and seed is not None:
        folder.end_run(fingerprint)


def generate(
    prompt: str | Request,
    *,
    negative_prompt: str | None = None,
    model: str | None = None,
    seed: int | None = None,
    width: int | None = None,
    height: int | None = None,
    steps: int | None = None,
    guidance: float | None = None,
    sampler: str | None = None,
    schedule: str | None = None,
    candidates: int | None = None,
    top_k: int | None = None,
    temperature: float | None = None,
    token_top_k: int | None = None,
    token_top_p: float | None = None,
    init_image: str | Path | None = None,
    keep_rows: int | None = None,
    wildcards: str | Path | None = None,
    clip_skip: int | None = None,
    prompt_syntax: str | None = None,
    lora: str | None = None,
    vae: str | None = None,
    embedding: str | None = None,
    outdir: str | Path | None = None,
    engine: Engine | None = None,
    watch: Watch | None = None,
    cancel: Cancel | None = None,
) -> list[Result]:
    """Make `candidates` pictures of a prompt and return the `top_k` best, best first.

    Each Result holds its `image`, `score` (the cosine with the prompt, in [-1, 1]), `rank`, `seed`
    and `request`; candidates that failed follow at the end, with no image and the reason in
    `failed`. With `outdir` the pictures are also saved, as the `generate` command does. Pass an
    `engine` to keep the models loaded from call to call. The settings of a `Request` given as
    `prompt` hold where the keywords say nothing.

    Raises InputError for what cannot be, WeightsError, and RoomError when disk or memory is full.
    """
    asked: dict[str, Any] = {
        "negative_prompt": negative_prompt,
        "model": model,
        "seed": seed,
        "width": width,
        "height": height,
        "steps": steps,
        "guidance": guidance,
        "sampler": sampler,
        "schedule": schedule,
        "candidates": candidates,
        "top_k": top_k,
        "temperature": temperature,
        "token_top_k": token_top_k,
        "token_top_p": token_top_p,
        "init_image": None if init_image is None else str(init_image),
        "keep_rows": keep_rows,
        "wildcards": None if wildcards is None else str(wildcards),
        "clip_skip": clip_skip,
        "prompt_syntax": prompt_syntax,
        "lora": lora,
        "vae": vae,
        "embedding": embedding,
    }
    given = {name: value for name, value in asked.items() if value is not None}
    request = replace(Request(prompt) if isinstance(prompt, str) else prompt, **given)
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
    """The pictures, best score first, equals in the order of making; without a jury in that order.

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


def load_pipeline(spec: Spec, engine: Engine, watch: Watch) -> "Pipeline":
    """Load a model's networks as the engine wants them. Takes seconds."""
    from pipelines.dalle.pipeline import Dalle
    from pipelines.diffusion.pipeline import LatentDiffusion
    from pipelines.stock.pipeline import AnyPipeline

    def progress(loaded: int, total: int) -> None:
        watch(Loading(spec.name, loaded, total))

    refuse_what_it_lacks(spec, engine)
    if spec.kind == "diffusers":
        return AnyPipeline.from_pretrained(
            spec.address,
            engine.device,
            engine.dtype,
            offload=engine.offload,
            vae_tiling=engine.vae_tiling,
        )
    if spec.kind == "dalle":
        return Dalle.from_pretrained(
            spec.address,
            engine.device,
            engine.dtype,
            engine.attention,
            engine.safety,
            progress=progress,
        )
    return LatentDiffusion.from_pretrained(
        spec.address,
        engine.device,
        engine.dtype,
        engine.attention,
        engine.safety,
        spec.additions,
        offload=engine.offload,
        vae_tiling=engine.vae_tiling,
        compiled=engine.compiled,
        progress=progress,
    )


def refuse_what_it_lacks(spec: Spec, engine: Engine) -> None:
    """Raise InputError for a wish that only other kinds of models fulfil."""
    wishes = {
        "--safety": engine.safety and spec.kind == "diffusers",
        "--compile": engine.compiled and spec.kind != "latent_diffusion",
        "--offload": engine.offload not in (None, "none") and spec.kind == "dalle",
        "--vae-tiling": engine.vae_tiling and spec.kind == "dalle",
    }
    if lacking := [flag for flag, is_lacking in wishes.items() if is_lacking]:
        raise InputError(f"{spec.name} runs without {', '.join(lacking)}: leave that out")


def plan_cache(candidate: Candidate, bytes_per_number: int) -> "MemoryPlan":
    """What the transformer that draws a candidate of the DALL·E path keeps meanwhile."""
    from pipelines.dalle.memory import MemoryPlan

    guidance = candidate.request.guidance
    assert guidance is not None  # every model of this path has a default
    return MemoryPlan.of_model(candidate.spec, bytes_per_number, guidance)


def load_jury(engine: Engine) -> "Reranker":
    """Load the model that judges."""
    from rerank import Reranker

    device = None if engine.device == "auto" else engine.device
    return Reranker.load(engine.reranker, device)


def choose_machine(engine: Engine) -> tuple[str, str, float, float]:
    """Where networks would run, in which number format, and the bytes free there and on the host.

    Raises InputError for a device or dtype that there is not.
    """
    from pipelines.runtime.devices import choose_device, choose_dtype
    from pipelines.runtime.offloading import check_offload

    with _loading("nothing", ignore_events):
        device = choose_device(engine.device)
        dtype = choose_dtype(device, engine.dtype)
        check_offload(engine.offload, device)
    return str(device), str(dtype).removeprefix("torch."), _free_memory(device), free_on_host()


def describe_devices() -> tuple[str, str]:
    """The devices that networks can run on, the best first, and the attention of the best."""
    import torch

    from pipelines.runtime.devices import choose_device, choose_dtype, set_attention

    best = choose_device(None)
    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    threads = f"cpu with {torch.get_num_threads()} threads"
    attention = set_attention([], None, best, choose_dtype(best, None))
    return ", ".join(dict.fromkeys([str(best), *names, threads])), attention


@contextmanager
def _loading(what: str, watch: Watch) -> Iterator[None]:
    """Turn what loading warns of into notes, and a wrong device or dtype into an InputError."""
    collecting = gc.isenabled()
    gc.disable()  # looking for garbage among all that importing leaves costs a quarter of its time
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        try:
            yield
        except ValueError as error:
            raise InputError(str(error)) from error
        except Exception as error:
            _raise_unless_out_of_memory(error, candidates=1, what=f"loading {what}")
            raise
        finally:
            if collecting:
                gc.enable()
    for warning in caught:
        if issubclass(warning.category, UserWarning):
            watch(Note(str(warning.message)))


def _raise_unless_out_of_memory(
    error: Exception, *, candidates: int, what: str = "one candidate alone"
) -> None:
    """Raise the error unless memory is short and several candidates can be halved.

    Raises RoomError, with what to try, if memory is short and there is nothing to halve.
    """
    from pipelines.runtime.devices import is_out_of_memory

    if not is_out_of_memory(error):
        raise error
    if candidates == 1:
        raise RoomError(
            f"not enough memory for {what}: try a smaller --width and --height, "
            "--offload model on a GPU, another --device, or a smaller model"
        ) from error


def _free_memory(device: Any) -> float:
    """Bytes free where the networks run."""
    if getattr(device, "type", "cpu") != "cuda":
        return free_on_host()
    import torch

    free, _ = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
