"""Candidates become finished drafts, as many at once as memory allows."""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from gen import editing
from gen.events import Cancel, Note, Watch
from gen.memory import BatchSize, held_by_process, peak_of_process
from gen.models import free_memory, raise_unless_out_of_memory
from gen.plan import Candidate
from gen.settings.request import LOADING_SETTINGS, MODEL_SETTINGS
from pipelines.families import family_of

if TYPE_CHECKING:
    from pipelines.drafts import Draft, Pipeline


def finished_drafts(
    pipeline: "Pipeline",
    candidates: list[Candidate],
    batch_size: int | None,
    *,
    early: bool,
    on_step: "Callable[[Draft], None]",
    watch: Watch,
    cancel: Cancel,
) -> "Iterator[Draft]":
    """Draft candidates of one model, a micro-batch at a time; yields each draft when it is done.

    A micro-batch that memory is too short for is halved, and its parts come one by one. With
    `early` the first one is small: somebody has just started and waits. Nothing comes of those in
    progress when the user says stop. Raises RoomError if memory is short for one candidate alone.
    """
    first = candidates[0]
    family, guidance = family_of(first.spec), first.request.guidance
    drawing = family.drawing_memory(
        first.spec, getattr(pipeline.dtype, "itemsize", 4), 1.0 if guidance is None else guidance
    )
    sizes = BatchSize(first.pixels, batch_size, early=early, besides=drawing.candidate)
    while candidates and not cancel.asked:
        size = sizes.choose(len(candidates), free_memory(pipeline.device))
        batch, candidates = candidates[:size], candidates[size:]
        held, peak = held_by_process(), peak_of_process()
        drafts = _begun(pipeline, batch, sizes)
        while drafts:
            with drafts.pop() as draft:
                if _complete(draft, on_step, cancel):
                    yield draft
                elif not cancel.stopped:
                    sizes.halve(len(draft.seeds))
                    watch(Note(f"memory is short: {len(draft.seeds)} candidates are halved"))
                    drafts += reversed(draft.split())
        if peak_of_process() > peak:
            sizes.learn(size, peak_of_process() - held)


def _begun(pipeline: "Pipeline", batch: list[Candidate], sizes: BatchSize) -> "list[Draft]":
    """Begin a draft of the candidates, or of parts of them; the first is last, to be popped."""
    request = batch[0].request
    settings: dict[str, Any] = {
        name: value
        for name, value in request.given().items()
        if name in MODEL_SETTINGS and name not in (*LOADING_SETTINGS, *editing.EDITING_SETTINGS)
    }
    if request.init_image is not None:
        settings["start"] = editing.start(request, batch[0].spec)
    seeds = [candidate.seed for candidate in batch]
    try:
        return [pipeline.begin(request.prompt, seeds=seeds, **settings)]
    except Exception as error:
        raise_unless_out_of_memory(error, candidates=len(batch))
    sizes.halve(len(batch))
    middle = len(batch) // 2
    return [*_begun(pipeline, batch[middle:], sizes), *_begun(pipeline, batch[:middle], sizes)]


def _complete(draft: "Draft", on_step: "Callable[[Draft], None]", cancel: Cancel) -> bool:
    """Step until the draft is done; False if the user says stop or memory is short."""
    while draft.done < draft.total and not cancel.finishing:
        if cancel.stopped:
            return False
        try:
            draft.step()
        except Exception as error:
            raise_unless_out_of_memory(error, candidates=len(draft.seeds))
            return False
        on_step(draft)
    return True
