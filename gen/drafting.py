"""Candidates become finished drafts, as many at once as memory allows."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from gen import editing, enlarging, image_prompts, second_pass
from gen.events import Cancel, Note, Watch
from gen.memory import BatchSize, held_by_process, peak_of_process
from gen.models import free_memory, raise_unless_out_of_memory
from gen.plan import Candidate
from gen.search.paths import NoisePath
from gen.settings.request import LOADING_SETTINGS, MODEL_SETTINGS, Request
from pipelines.families import family_of

if TYPE_CHECKING:
    from pipelines.drafts import Draft, Pipeline
    from pipelines.outpainting import Outpainting
    from pipelines.upscale.enlarging import Upscaler


# Settings that become something else before a pipeline is asked.
ELSEWHERE = (
    *LOADING_SETTINGS,
    *editing.EDITING_SETTINGS,
    *image_prompts.SETTINGS,
    *second_pass.OWN_SETTINGS,
)


@dataclass(frozen=True)
class Drafting:
    """How candidates are drafted; `batch_size` None is as many at once as memory allows.

    Each step is taken within `turn`.
    """

    batch_size: int | None
    on_step: "Callable[[Draft], None]"
    watch: Watch
    cancel: Cancel
    turn: AbstractContextManager[None] = field(default_factory=nullcontext)
    upscaler: "Upscaler | None" = None  # the network that enlarges images, if there is one


def finished_drafts(
    pipeline: "Pipeline", candidates: list[Candidate], how: Drafting, *, early: bool
) -> "Iterator[Draft]":
    """Draft candidates of one model, a micro-batch at a time; yields each draft when it is done.

    A micro-batch that memory is too short for is halved, and its parts come one by one. With
    `early` the first one is small: somebody has just started and waits. Nothing comes of those in
    progress when the user says stop. Raises RoomError if memory is short for one candidate alone.
    """
    sizes = batch_sizes(pipeline, candidates[0], how.batch_size, early=early)
    while candidates and not how.cancel.asked:
        size = sizes.choose(len(candidates), free_memory(pipeline.device))
        batch, candidates = candidates[:size], candidates[size:]
        held, peak = held_by_process(), peak_of_process()
        seeds = [candidate.path.first for candidate in batch]
        drafts = begin(pipeline, batch[0].request, seeds, sizes, how)
        while drafts:
            with drafts.pop() as draft:
                if _complete(draft, batch[0].path, how):
                    yield draft
                elif not how.cancel.stopped:
                    sizes.halve(len(draft.seeds))
                    how.watch(Note(f"memory is short: {len(draft.seeds)} candidates are halved"))
                    drafts += reversed(draft.split())
        if peak_of_process() > peak:
            sizes.learn(size, peak_of_process() - held)


def batch_sizes(
    pipeline: "Pipeline", first: Candidate, batch_size: int | None, *, early: bool
) -> BatchSize:
    """Return what chooses the sizes of micro-batches of such candidates."""
    item = getattr(pipeline.dtype, "itemsize", 4)
    drawing = family_of(first.spec).drawing_memory(first.spec, item, first.request.given())
    return BatchSize(first.pixels, batch_size, early=early, besides=drawing.candidate)


def begin(
    pipeline: "Pipeline",
    request: Request,
    seeds: Sequence[int],
    sizes: BatchSize,
    how: Drafting,
) -> "list[Draft]":
    """Begin a draft of the seeds, or of parts of them; the first is last, to be popped."""
    settings: dict[str, Any] = {
        name: value
        for name, value in request.given().items()
        if name in MODEL_SETTINGS and name not in ELSEWHERE
    }
    if (images := image_prompts.images(request)) is not None:
        settings["images"] = images
    steps = None
    if request.init_image is not None:
        steps = editing.outpainting(request, pipeline.spec)
        if steps is None:
            settings["start"] = editing.start(request, pipeline.spec)
    if request.hires is not None:
        settings["second"] = second_pass.second_pass(request, pipeline.spec, how.upscaler)

    def begun(seeds: Sequence[int], **more: Any) -> "Draft":
        draft: Draft = pipeline.begin(request.prompt, seeds=seeds, **settings, **more)
        draft.enlarge = enlarging.enlarger(request, how.upscaler)
        return draft

    try:
        return [begun(seeds) if steps is None else grown(steps, begun, seeds)]
    except Exception as error:
        raise_unless_out_of_memory(error, candidates=len(seeds))
    sizes.halve(len(seeds))
    middle = len(seeds) // 2
    parts = (seeds[middle:], seeds[:middle])
    return [draft for part in parts for draft in begin(pipeline, request, part, sizes, how)]


def grown(steps: "Outpainting", begun: "Callable[..., Draft]", seeds: Sequence[int]) -> "Draft":
    """Return the draft of images that grow in steps, each of which is `begun`."""
    from pipelines.outpainting import OutpaintingDraft

    return OutpaintingDraft(steps, lambda own, start: begun(own, start=start), seeds)


def step_until(draft: "Draft", end: int, how: Drafting) -> bool:
    """Step to `end`, or no further if the user wants the images as they are.

    Returns False if the user says stop or memory is short.
    """
    while draft.done < min(end, draft.total) and not how.cancel.finishing:
        if how.cancel.stopped:
            return False
        try:
            with how.turn:
                draft.step()
        except Exception as error:
            raise_unless_out_of_memory(error, candidates=len(draft.seeds))
            return False
        how.on_step(draft)
    return True


def _complete(draft: "Draft", path: NoisePath, how: Drafting) -> bool:
    """Step until the draft is done; False as in `step_until`.

    The noise of an image that a search has found changes on its `path`.
    """
    for branch in path.past:
        if not step_until(draft, branch.end, how):
            return False
        draft.branch([0], [path.until(branch.end + 1).seed])
    return step_until(draft, draft.total, how)
