"""The record that an image carries: its request, how it was made, and how it was scored."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any, get_origin, get_type_hints

from gen.errors import InputError
from gen.settings.request import Request
from pipelines.settings import UNREADABLE


@dataclass(frozen=True)
class Metadata:
    """One image's record: the request for exactly this image, how it was made and scored."""

    request: Request
    model: str = ""  # the model's name; request.model says where it was found
    model_hash: str = ""
    attention: str = ""  # the implementation that really ran
    versions: Mapping[str, str] = field(default_factory=dict)
    candidates: int | None = None  # how many were made with it
    rerank_model: str | None = None
    score: float | None = None  # of one reranker: the cosine with the prompt, in [-1, 1]
    scores: Mapping[str, float] = field(default_factory=dict)  # parts of a combined score, by name
    rank: int | None = None  # 1 is the best
    log_likelihood: float | None = None  # of its tokens, in nats, if it is made of them
    unfinished: str | None = None  # "step 14 of 30"
    upscale: int = 1  # the file is so many times larger than what the model drew
    extra: Mapping[str, Any] = field(default_factory=dict)  # what other writers say beside this
    unread: tuple[str, ...] = ()  # what an image says that is not understood; in no file of ours

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values, from which `from_json` makes the same record."""
        own = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "unread"}
        own |= {"request": self.request.to_json(), "versions": dict(self.versions)}
        own["scores"] = dict(self.scores) or None  # absent where there is but one scorer
        return {**own.pop("extra"), **{k: value for k, value in own.items() if value is not None}}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Metadata":
        """Make the record of a JSON object. Raises InputError if it holds no sound request."""
        values = without_control_characters(values)
        if not isinstance(values.get("request"), dict):
            raise InputError("the metadata holds no request")
        own, extra = {}, {}
        for key, value in values.items():
            kind = _FIELD_KINDS.get(key)
            if kind is None:
                extra[key] = value
            elif not isinstance(value, kind):
                raise InputError(f"{key} {value!r}: of the wrong kind")
            else:
                own[key] = value
        if not all(isinstance(part, int | float) for part in own.get("scores", {}).values()):
            raise InputError(f"scores {own['scores']!r}: of the wrong kind")
        return cls(**{**own, "request": Request.from_json(values["request"]), "extra": extra})


_FIELD_KINDS: dict[str, Any] = {
    name: get_origin(hint) if get_origin(hint) is Mapping else hint
    for name, hint in get_type_hints(Metadata).items()
    if name not in ("extra", "unread")
} | {"request": Mapping}


@cache
def versions() -> Mapping[str, str]:
    """Look up the versions that decide how an image comes out."""
    found = {}
    for package in ("salon", "torch", "diffusers"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # run from a source tree that is not installed
            found[package] = "unknown"
    return found


def without_control_characters(value: Any) -> Any:
    """Return the value without control characters in any of its texts and keys."""
    if isinstance(value, str):
        return UNREADABLE.sub("", value)
    if isinstance(value, Mapping):
        return {
            without_control_characters(key): without_control_characters(item)
            for key, item in value.items()
        }
    return value
