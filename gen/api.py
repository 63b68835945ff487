"""Drawing from Python in one call."""

from pathlib import Path
from typing import Any, Unpack

from gen.engine import Engine, run
from gen.events import Cancel, Watch
from gen.plan import Survey
from gen.result import Result
from gen.run_folder.folder import RunFolder
from gen.settings.request import Request, Settings


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
        [outcome] = run([request], engine, survey, folder, watch=watch, cancel=cancel)
    finally:
        if folder is not None:
            folder.close()
    for result in outcome.best:
        result.image = result.open()
    return outcome.best + outcome.failed
