"""Make the image in a file again, alone, from what the file says about itself."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, ImageChops

from gen import editing, metadata
from gen.engine import Engine
from gen.errors import InputError
from gen.events import Cancel, Note, Watch, ignore_events
from gen.metadata.foreign import FORMATS
from gen.plan import Plan, resolve
from gen.result import Result
from gen.run_folder.folder import RunFolder
from pipelines.images import opened
from pipelines.settings import Value


@dataclass(frozen=True)
class Again:
    """An image made again."""

    result: Result | None  # None if it was stopped or could not be made
    difference: int | None  # of any channel of any pixel, 0 to 255; None if there is none to tell
    was_unfinished: bool


def make_again(
    path: Path,
    plan: Plan,
    engine: Engine,
    folder: RunFolder | None = None,
    watch: Watch | None = None,
    cancel: Cancel | None = None,
) -> Again:
    """Draw one image anew and compare it with its file; one left unfinished is made whole.

    `plan` is what `read_plan` reads from the file. Other weights than those that the file names are
    reported to `watch`. Raises InputError if the file does not say how it was made.
    """
    watch = ignore_events if watch is None else watch
    record = metadata.read(path)
    for line in record.unread:
        watch(Note(f"{path}: {line}"))
    [(spec, _)] = plan.models
    if record.model_hash != engine.model_hash(spec):
        watch(
            Note(
                f"{path} was made by weights {record.model_hash or 'of unknown hash'} of "
                f"{record.model or 'an unknown model'}; these are {engine.model_hash(spec)}: "
                "expect another image"
            )
        )
    outcome = engine.draw(plan, folder, anew=True, watch=watch, cancel=cancel)
    if not outcome.best:
        return Again(None, None, record.unfinished is not None)
    result = outcome.best[0]
    if record.unfinished is not None or result.image is None:
        return Again(result, None, record.unfinished is not None)
    return Again(result, _difference(path, result.image), was_unfinished=False)


def read_plan(
    path: Path, model: str | None = None, changes: Mapping[str, Value] | None = None
) -> Plan:
    """Plan how to make the image of a file again.

    `model` says where the model is now, if it has moved; `changes` are settings: where the files of
    an edit and the folder of LoRA files are, which else are looked for where they were and in the
    run folder, and another `upscale`. Raises InputError if the file does not say how it was made.
    """
    record = metadata.read(path)
    request = record.request
    if changes:
        given: dict[str, Any] = dict(changes)
        request = request.replace(**given)
    request = editing.with_copies(request, (path.parent, path.parent.parent))
    if model is not None:
        request = request.replace(model=model)
    if not request.prompt:
        raise InputError(f"{path} does not say its prompt")
    if request.model is None:
        raise InputError(f"{path} does not say where its model is: name the folder with -m FOLDER")
    if request.seed is None:
        raise InputError(f"{path} does not say its seed")
    if "," in str(request.model):
        raise InputError(f"{request.model}: an image is made again by one model, not by several")
    plan = resolve(request.replace(candidates=1, top_k=1))
    larger = plan.request.upscale or 1
    is_told = changes is not None and "upscale" in changes
    if larger != record.upscale and not is_told:  # older versions said it beside the request alone
        plan = resolve(plan.request.replace(upscale=record.upscale))
    return plan


def _difference(path: Path, image: Image.Image) -> int | None:
    try:
        with opened(path, FORMATS) as file:
            if file.size != image.size:
                return None
            before = file.convert("RGB")
    except Exception:  # parsers raise whatever they meet in a damaged file
        return None
    return max(ImageChops.difference(before, image).tobytes())
