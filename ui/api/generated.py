"""What is said of the images that were drawn."""

from typing import Any

from gen.engine import Outcome
from gen.events import Event, Note, Watch
from gen.result import Result
from gen.settings.request import seed_to_json
from ui.api.answers import NoImageError
from ui.api.images import Form

EXPLAINED = ("probability", "percentile", "claims", "fits_best")  # by the reranker, if it can


def images_of(outcome: Outcome) -> list[Result]:
    """Return the best images of an outcome; raises NoImageError if there is none."""
    if not outcome.best:
        raise NoImageError(result.failed or "" for result in outcome.failed)
    return outcome.best


def facts_of(result: Result, form: Form) -> dict[str, Any]:
    """Return what is said beside an image; the parts of its score only where there are several."""
    drawn = (result.request.width, result.request.height)
    size = drawn if form.size is None else form.size
    facts = {
        "seed": seed_to_json(result.seed),
        "rank": result.rank,
        "score": result.score,
        "model": result.request.model,
        "size": "{}x{}".format(*size),
    }
    if result.scores:
        facts["scores"] = dict(result.scores)
    known = result.to_json()
    facts |= {name: known[name] for name in EXPLAINED if name in known}
    return facts if size == drawn else {**facts, "drawn_size": "{}x{}".format(*drawn)}


def noting(notes: list[str]) -> Watch:
    """Return what adds the engine's notes to a list."""

    def watch(event: Event) -> None:
        if isinstance(event, Note):
            notes.append(event.text)

    return watch
