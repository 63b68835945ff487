"""A micro-batch on its way to a worker and back, and what the worker does with it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from time import perf_counter
from typing import TYPE_CHECKING, Any

from PIL import Image

from gen import editing, image_prompts, scoring
from gen.drafting import Drafting, finished_drafts
from gen.events import Cancel, Watch
from gen.models import Models, to_pixels
from gen.plan import Candidate, Plan
from gen.result import Result
from gen.run_folder.folder import Job
from gen.run_folder.saving import Export
from gen.search.prompt_search import found_drafts
from gen.search.race import Field, Look
from pipelines.checkpoints.specs import Spec

if TYPE_CHECKING:
    import numpy as np

    from pipelines.drafts import Draft, Pipeline

STEP_SECONDS = 0.2  # between two reports of how far a task is


@dataclass(frozen=True)
class Task:
    """Candidates of one model that are drawn at once, or a model's whole search for a prompt.

    Of a search, `searches` and `made` are where an earlier run has left it. With `export` the
    worker encodes the images, which takes longer than all else that is done with one.
    """

    plan: Plan
    spec: Spec
    candidates: tuple[Candidate, ...]
    searches: Mapping[str, Field] = field(default_factory=dict)
    made: tuple[int, ...] = ()
    export: Export | None = None

    @property
    def size(self) -> float:
        """How much work it is, compared with others: pixels times evaluations of a network."""
        request = self.candidates[0].request
        steps = self.spec.defaults.get("steps", 1) if request.steps is None else request.steps
        number = self.plan.begun if self.plan.schedules else len(self.candidates)
        return float(number * self.candidates[0].pixels * max(1, steps))


# The combined score and its parts, by seed.
Scores = Mapping[int, tuple[float | None, Mapping[str, float]]]


@dataclass(frozen=True)
class Step:
    """How far a micro-batch is that a worker draws; the engine reads it as a draft."""

    seeds: Sequence[int]
    done: int
    total: int

    def preview(self) -> None:
        """Return nothing: previews stay with the worker."""


@dataclass(frozen=True)
class Drawn:
    """A finished micro-batch, as the engine asks it of a draft.

    Its images are in `files` where the worker was to encode them, else in `arrays`; `scores` is
    None if the driver is to score.
    """

    seeds: tuple[int, ...]
    done: int
    total: int
    arrays: "Mapping[int, np.ndarray]"  # by seed, uint8 (H, W, 3)
    failed: Mapping[int, str]
    log_likelihoods: list[float] | None = None
    attention: str = ""
    dropped: str = ""  # the end of the prompt that the model does not read
    scores: Scores | None = None
    files: Mapping[int, bytes] = field(default_factory=dict)  # by seed, without metadata

    def images(self) -> list[Image.Image | None]:
        """Return the images, one for each seed; None for those in `failed`."""
        opened = {seed: Image.open(BytesIO(data)) for seed, data in self.files.items()}
        made = {seed: Image.fromarray(array) for seed, array in self.arrays.items()}
        return [opened.get(seed, made.get(seed)) for seed in self.seeds]

    def preview(self, *, exact: bool) -> list[Image.Image | None]:
        """Return the images as far as they were when the user wanted them."""
        return self.images()

    def pixels(self) -> Any:
        """Return the images as uint8 (M, 3, H, W), for a scorer of the driver."""
        return to_pixels([self.arrays[seed] for seed in self.seeds if seed in self.arrays])


Piece = Drawn | Look


def lost(task: Task, reason: str) -> Drawn:
    """Return what comes of a task that no worker has brought to an end."""
    seeds = tuple(candidate.seed for candidate in task.candidates)
    return Drawn(seeds, 1, 1, {}, dict.fromkeys(seeds, reason))


def carry_out(
    models: Models, task: Task, watch: Watch, cancel: Cancel, on_step: Callable[[Step], None]
) -> list[Piece]:
    """Do a task with these models; returns what came of it, in order.

    Raises InputError, WeightsError, and RoomError if memory is short for one candidate alone.
    """
    pipeline = models.pipeline(task.spec, watch)
    last = 0.0

    def follow(draft: "Draft") -> None:
        nonlocal last
        if perf_counter() - last > STEP_SECONDS:
            last = perf_counter()
            on_step(Step(draft.seeds, draft.done, draft.total))

    upscaler = models.upscaler_for(task.plan, task.spec, watch)
    candidates = {candidate.seed: candidate for candidate in task.candidates}
    if not task.plan.schedules:
        how = Drafting(len(candidates), follow, watch, cancel, upscaler=upscaler)
        drafts = finished_drafts(pipeline, list(task.candidates), how, early=False)
        return [
            drawn
            for draft in drafts
            if (drawn := _drawn(models, pipeline, draft, task, candidates)) is not None
        ]
    pieces: list[Piece] = []
    how = Drafting(models.batch_size, follow, watch, cancel, upscaler=upscaler)
    made = {s: Result(task.plan.request.replace(seed=s), 0) for s in task.made}
    job = Job(0, made, searches=task.searches)
    scorer = image_prompts.judged_by(models.load_scorer(watch), task.plan.request)
    found = found_drafts(
        pipeline, task.spec, scorer, task.plan, job, pieces.append, candidates, how
    )
    for draft in found:
        drawn = _drawn(models, pipeline, draft, task, candidates)
        pieces += [] if drawn is None else [drawn]
    return pieces


def _drawn(
    models: Models,
    pipeline: "Pipeline",
    draft: "Draft",
    task: Task,
    candidates: Mapping[int, Candidate],
) -> Drawn | None:
    """Return a draft's images, scored; None if the user wants them and they are nothing yet."""
    import numpy as np

    whole = draft.done == draft.total
    images = draft.images() if whole else draft.preview(exact=True)
    if images is None:
        return None
    there = {s: image for s, image in zip(draft.seeds, images, strict=True) if image is not None}
    scorer, scores = models.load_scorer() if there else None, None
    scorer = image_prompts.judged_by(scorer, task.plan.request)
    if scorer is not None:
        results = [Result(candidates[s].request, candidates[s].index) for s in there]
        boxes = [editing.masked_box(candidates[s]) for s in there]
        pixels = draft.pixels() if whole else list(there.values())
        scoring.score(scorer, task.plan.words, results, pixels, boxes)
        scores = {s: (r.score, r.scores) for s, r in zip(there, results, strict=True)}
    failed = {s: draft.failed.get(s, "no image") for s in draft.seeds if s not in there}
    whole_images = {seed: image.convert("RGB") for seed, image in there.items()}
    export = task.export if scores is not None else None  # who scores wants pixels
    return Drawn(
        draft.seeds,
        draft.done,
        draft.total,
        {} if export else {seed: np.asarray(image) for seed, image in whole_images.items()},
        failed,
        draft.log_likelihoods,
        pipeline.attention,
        pipeline.dropped_text(task.plan.request.prompt),
        scores,
        {seed: export.encode(image) for seed, image in whole_images.items()} if export else {},
    )
