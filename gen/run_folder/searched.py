"""What a search decided, as the manifest tells of it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from gen.search.paths import read_path
from gen.search.race import Field, Look, Runner
from gen.settings.request import seed_to_json


@dataclass(frozen=True)
class CandidatesThinned:
    """A search looked at a model's candidates: some go on, in their order, others are dropped.

    Scores are those of the last look, None for what could not be scored; `total` is where the steps
    or tokens end that the look's step is one of.
    """

    number: int
    model: str
    total: int
    look: Look


def look_to_json(event: CandidatesThinned) -> dict[str, Any]:
    """Return the line of the manifest."""
    return {
        "event": "searched",
        "number": event.number,
        "model": event.model,
        "step": event.look.field.step,
        "total": event.total,
        "kept": _to_json(event.look.field.runners),
        "dropped": _to_json(event.look.dropped),
    }


def look_from_json(line: Mapping[str, Any]) -> CandidatesThinned:
    """Read what `look_to_json` made. Raises the exceptions of a damaged line."""
    field = Field(int(line["step"]), _runners(line["kept"]))
    look = Look(field, _runners(line["dropped"]))
    return CandidatesThinned(int(line["number"]), str(line["model"]), int(line["total"]), look)


def _to_json(runners: Iterable[Runner]) -> list[dict[str, Any]]:
    rows = (
        {"seed": seed_to_json(r.path.seed), "branches": r.path.text, "score": r.score}
        for r in runners
    )
    return [{key: value for key, value in row.items() if value is not None} for row in rows]


def _runners(entries: Iterable[Mapping[str, Any]]) -> tuple[Runner, ...]:
    return tuple(
        Runner(read_path(int(entry["seed"]), entry.get("branches")), entry.get("score"))
        for entry in entries
    )
