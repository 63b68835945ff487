"""What happens in a run folder: a class for every event, and how each stands in the manifest.

A line of the manifest is a JSON object; its key `event` names the class. The names and keys are a
file format that people have on their disks, so they stay as they are, also where today's words are
others. Nothing outside this module knows them.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from gen.run_folder.choices import (
    ImageHearted,
    ImagePreferred,
    choice_from_json,
    choice_to_json,
)
from gen.run_folder.searched import CandidatesThinned, look_from_json, look_to_json
from gen.settings.request import find_setting, seed_to_json
from pipelines.settings import Value

Files = Mapping[int, Mapping[int, str]]  # by number of the prompt and seed, relative to the folder

# 0001-7.png, 0001-r1-7.png, and 0001-7-r1.png as older versions named the best.
IMAGE_NAME = re.compile(r"(candidates/)?\d{4,}-(r\d+-\d+|\d+(-r\d+)?)\.(png|jpg|webp)")


MAX_NUMBER = 10**9  # of a prompt


@dataclass(frozen=True, slots=True)
class SavedImage:
    """One image of a prompt, as the manifest tells of it."""

    seed: int
    file: str  # relative to the run folder
    model: str | None = None
    score: float | None = None  # of one reranker: the cosine with the prompt, in [-1, 1]
    scores: Mapping[str, float] = field(default_factory=dict)  # parts of a combined score, by name
    match: float | None = None  # the probability that it matches the prompt, in [0, 1]
    rank: int | None = None  # 1 is the best
    log_likelihood: float | None = None  # of its tokens, in nats, if it is made of them
    unfinished: str | None = None  # "step 14 of 30"


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a ranked image goes from `image.file`; `to` is None if it is not kept."""

    image: SavedImage
    to: str | None


@dataclass(frozen=True)
class Axis:
    """A setting and the values that it takes in a comparison."""

    name: str
    values: tuple[Value, ...]


@dataclass(frozen=True)
class RunBegan:
    """A command without a seed drew one; `fingerprint` tells commands apart."""

    fingerprint: str
    seed: int


@dataclass(frozen=True)
class RunEnded:
    """Nothing of the run is missing."""

    fingerprint: str


@dataclass(frozen=True)
class PromptBegan:
    """A prompt got its number; `key` is the same for all that would draw the same files."""

    number: int
    key: str
    request: Mapping[str, Any]  # JSON values, for Request.from_json


@dataclass(frozen=True)
class ImageSaved:
    """A candidate's image was written."""

    number: int
    image: SavedImage


@dataclass(frozen=True)
class CandidateFailed:
    """A candidate has no image, or one that cannot be ranked."""

    number: int
    seed: int
    reason: str
    model: str | None = None
    file: str | None = None


@dataclass(frozen=True)
class ImagesScored:
    """The reranker scored images; `parts` are those of combined scores, by name."""

    number: int
    scores: Mapping[int, float]  # by seed
    parts: Mapping[int, Mapping[str, float]] = field(default_factory=dict)


@dataclass(frozen=True)
class ImagesRanked:
    """Images have their ranks, and are about to be moved; `whole` if no candidate is missing."""

    number: int
    whole: bool
    placements: tuple[Placement, ...]


@dataclass(frozen=True)
class ImagesPlaced:
    """All that the last ranking said was moved."""

    number: int


@dataclass(frozen=True)
class ImagesMatched:
    """The probability that images match their prompt became known."""

    number: int
    matches: Mapping[int, float]  # by seed


@dataclass(frozen=True)
class Comparison:
    """One prompt over a grid of two settings; its cells are prompts of their own.

    `numbers` are theirs, row by row, as far as they were drawn, at least one; `number` is the
    comparison's.
    """

    number: int
    across: Axis
    down: Axis
    numbers: tuple[int, ...]


@dataclass(frozen=True)
class ImagesDeleted:
    """Images were put aside."""

    files: Files


@dataclass(frozen=True)
class ImagesRestored:
    """Images that were put aside are back."""

    files: Files


@dataclass(frozen=True)
class DeletedEmptied:
    """What was put aside is gone for good."""


@dataclass(frozen=True)
class Damaged:
    """A line that makes no sense. It is never written."""

    number: int | None  # of the prompt that it is about, if it says so
    reason: str


PromptEvent = (
    PromptBegan
    | ImageSaved
    | CandidateFailed
    | ImagesScored
    | ImagesRanked
    | ImagesPlaced
    | ImagesMatched
    | CandidatesThinned
    | ImageHearted
    | ImagePreferred
)
Event = (
    PromptEvent
    | RunBegan
    | RunEnded
    | Comparison
    | ImagesDeleted
    | ImagesRestored
    | DeletedEmptied
    | Damaged
)


def to_json(event: Event) -> dict[str, Any]:
    """Return an event as a line of the manifest holds it."""
    match event:
        case RunBegan(fingerprint, seed):
            return {"event": "run", "fingerprint": fingerprint, "seed": seed_to_json(seed)}
        case RunEnded(fingerprint):
            return {"event": "end", "fingerprint": fingerprint}
        case PromptBegan(number, key, request):
            return {"event": "prompt", "number": number, "key": key, "request": dict(request)}
        case ImageSaved(number, image):
            return {"event": "picture", "number": number, **_image_to_json(image)}
        case CandidateFailed():
            return {"event": "failed", "number": event.number, **_failure_to_json(event)}
        case ImagesScored(number, scores, parts):
            line = {"event": "judged", "number": number, "scores": _by_text(scores)}
            return {**line, "parts": _by_text(parts)} if parts else line
        case ImagesRanked(number, whole, placements):
            moves = [{**_image_to_json(each.image), "to": each.to} for each in placements]
            return {"event": "ranked", "number": number, "whole": whole, "pictures": moves}
        case ImagesPlaced(number):
            return {"event": "placed", "number": number}
        case ImagesMatched(number, matches):
            return {"event": "matched", "number": number, "matches": _by_text(matches)}
        case CandidatesThinned():
            return look_to_json(event)
        case ImageHearted() | ImagePreferred():
            return choice_to_json(event)
        case Comparison():
            return {
                "event": "compared",
                "comparison": event.number,
                "across": {"name": event.across.name, "values": list(event.across.values)},
                "down": {"name": event.down.name, "values": list(event.down.values)},
                "numbers": list(event.numbers),
            }
        case ImagesDeleted(files):
            return {"event": "deleted", "files": _files_to_json(files)}
        case ImagesRestored(files):
            return {"event": "restored", "files": _files_to_json(files)}
        case DeletedEmptied():
            return {"event": "emptied"}
        case Damaged():
            raise ValueError("a damaged line cannot be written again")


def from_json(line: Mapping[str, Any]) -> Event | None:
    """Read a line of the manifest; None for an event that only newer versions know."""
    try:
        return _read(line)
    except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
        number = line.get("number")
        known = isinstance(number, int) and 1 <= number <= MAX_NUMBER
        return Damaged(number if known else None, f"{error!r}")


def _read(line: Mapping[str, Any]) -> Event | None:
    match line["event"]:
        case "run":
            return RunBegan(_text(line["fingerprint"]), int(line["seed"]))
        case "end":
            return RunEnded(_text(line["fingerprint"]))
        case "prompt":
            return PromptBegan(_number(line), _text(line["key"]), dict(line["request"]))
        case "picture":
            return ImageSaved(_number(line), _image(line))
        case "failed":
            return CandidateFailed(
                _number(line),
                int(line["seed"]),
                str(line.get("failed")),
                _optional(line.get("model"), str),
                _optional(line.get("file"), str),
            )
        case "judged":
            parts = {int(seed): _parts(values) for seed, values in line.get("parts", {}).items()}
            return ImagesScored(_number(line), _by_seed(line["scores"]), parts)
        case "ranked":
            placements = tuple(_placement(entry) for entry in line["pictures"])
            return ImagesRanked(_number(line), bool(line["whole"]), placements)
        case "placed":
            return ImagesPlaced(_number(line))
        case "matched":
            return ImagesMatched(_number(line), _by_seed(line["matches"]))
        case "searched":
            return look_from_json(line)
        case "chosen":
            return choice_from_json(line)
        case "compared":
            return _comparison(line)
        case "deleted":
            return ImagesDeleted(_files(line["files"]))
        case "restored":
            return ImagesRestored(_files(line["files"]))
        case "emptied":
            return DeletedEmptied()
    return None


def _image_to_json(image: SavedImage) -> dict[str, Any]:
    """Return what is known of an image, in the order that manifests have."""
    values = {
        "rank": image.rank,
        "score": image.score,
        "scores": dict(image.scores) or None,
        "log_likelihood": image.log_likelihood,
        "seed": seed_to_json(image.seed),
        "model": image.model,
        "file": image.file,
        "unfinished": image.unfinished,
    }
    return {key: value for key, value in values.items() if value is not None}


def _image(entry: Mapping[str, Any]) -> SavedImage:
    return SavedImage(
        seed=int(entry["seed"]),
        file=checked_name(entry["file"]),
        model=_optional(entry.get("model"), str),
        score=_optional(entry.get("score"), float),
        scores=_parts(entry.get("scores", {})),
        rank=_optional(entry.get("rank"), int),
        log_likelihood=_optional(entry.get("log_likelihood"), float),
        unfinished=_optional(entry.get("unfinished"), str),
    )


def _placement(entry: Mapping[str, Any]) -> Placement:
    return Placement(_image(entry), None if entry["to"] is None else checked_name(entry["to"]))


def _failure_to_json(event: CandidateFailed) -> dict[str, Any]:
    values = {
        "seed": seed_to_json(event.seed),
        "model": event.model,
        "file": event.file,
        "failed": event.reason,
    }
    return {key: value for key, value in values.items() if value is not None}


def _comparison(line: Mapping[str, Any]) -> Comparison:
    numbers = tuple(map(int, line["numbers"]))
    if not numbers:
        raise ValueError("a comparison of nothing")
    return Comparison(int(line["comparison"]), _axis(line["across"]), _axis(line["down"]), numbers)


def _axis(entry: Mapping[str, Any]) -> Axis:
    check = find_setting(entry["name"]).check
    return Axis(str(entry["name"]), tuple(check(value) for value in entry["values"]))


def checked_name(name: str) -> str:
    """Return the name of an image's file. Raises ValueError unless it is one of our own names."""
    if not IMAGE_NAME.fullmatch(name):
        raise ValueError(f"{name!r} is no name of an image")
    return name


def _text(value: Any) -> str:
    """Return a text that must be one, or raise TypeError."""
    if not isinstance(value, str):
        raise TypeError(f"{value!r:.40} is no text")
    return value


def _number(line: Mapping[str, Any]) -> int:
    """Return the number of a prompt."""
    number = int(line["number"])
    if not 1 <= number <= MAX_NUMBER:
        raise ValueError(f"{number} is no number of a prompt")
    return number


def _optional(value: Any, kind: type) -> Any:
    """Return a value of this type, or None; a number must be finite."""
    if value is None:
        return None
    if kind is float and isinstance(value, int | float) and not isinstance(value, bool):
        return _finite(value)
    if not isinstance(value, kind) or isinstance(value, bool):
        raise TypeError(f"{value!r:.40} is no {kind.__name__}")
    return value


def _finite(value: Any) -> float:
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"{number} is no score")
    return number


def _parts(values: Mapping[str, Any]) -> dict[str, float]:
    return {str(name): _finite(value) for name, value in values.items()}


def _by_seed(values: Mapping[str, Any]) -> dict[int, float]:
    return {int(seed): _finite(value) for seed, value in values.items() if value is not None}


def _by_text(values: Mapping[int, Any]) -> dict[str, Any]:
    """Return the values by seed as JSON has them: its keys are text."""
    return {str(seed): value for seed, value in values.items()}


def _files(values: Mapping[str, Mapping[str, str]]) -> Files:
    return {
        int(number): {int(seed): str(name) for seed, name in names.items()}
        for number, names in values.items()
    }


def _files_to_json(files: Files) -> dict[str, dict[str, str]]:
    return {str(number): _by_text(names) for number, names in files.items()}
