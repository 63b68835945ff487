"""What OpenAI's clients send to have something drawn, and what it comes to."""

import re
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import ConfigDict, Field, create_model, model_validator
from pydantic_core import PydanticCustomError

from gen.errors import InputError
from gen.settings.request import SETTINGS, Request
from ui.api.answers import ParameterError
from ui.api.body import Body, Prompt, checked, edit_fields, setting_fields
from ui.api.images import Form
from ui.api.sizes import fitted_size, size_settings
from ui.service.service import Service
from ui.service.settings import EDITS

MAX_IMAGES = 10
MOST_KEYS = 20  # that are not known
LIKENESS = 0.8  # from which a key that is not known is one of ours, mistyped


class OpenAIFields(Body):
    """What OpenAI's clients send, of which the last four make no difference here.

    What OpenAI thinks of next is accepted, too, and noted in the answer.
    """

    model_config = ConfigDict(extra="allow")

    @model_validator(mode="before")
    @classmethod
    def _rename(cls, values: Any) -> Any:
        """Read our settings by what else they are called, as flags and prompt files do."""
        if not isinstance(values, dict):
            return values
        other = {key: ALIASES[key] for key in values if key in ALIASES}
        kept = {key: value for key, value in values.items() if key not in other}
        for key, name in other.items():
            if kept.setdefault(name, values[key]) != values[key]:
                raise PydanticCustomError(
                    "given_twice",
                    "{key} and {name} say the same: give one of them",
                    {"key": key, "name": name},
                )
        return kept

    prompt: Prompt
    model: str | None = None
    models: Annotated[
        list[str] | None,
        Field(min_length=1, fail_fast=True, description="instead of model: they draw in turn"),
    ] = None
    n: Annotated[int | None, Field(ge=1, le=MAX_IMAGES, description="images returned")] = None
    size: Annotated[str | None, Field(description="auto, or WIDTHxHEIGHT")] = None
    response_format: Literal["b64_json", "url"] | None = None
    output_format: Literal["png", "jpeg", "webp"] | None = None
    output_compression: Annotated[int | None, Field(ge=0, le=100)] = None
    background: Literal["auto", "opaque", "transparent"] | None = None
    stream: bool | None = None
    partial_images: Annotated[int | None, Field(ge=0, le=3)] = None
    user: str | None = None
    quality: Literal["standard", "hd", "low", "medium", "high", "auto"] | None = None
    style: Literal["vivid", "natural"] | None = None
    moderation: Literal["low", "auto"] | None = None


OWN_FIELDS = setting_fields(without={"prompt", "model"})
ALIASES = {alias: name for name in OWN_FIELDS for alias in SETTINGS[name].aliases}
if TYPE_CHECKING:
    Generation = OpenAIFields
    Edit = OpenAIFields
else:
    Generation = create_model("Generation", __base__=OpenAIFields, **OWN_FIELDS)
    Edit = create_model("Edit", __base__=Generation, **edit_fields())


@dataclass(frozen=True)
class ParsedRequest:
    """A Generation that was understood."""

    request: Request
    form: Form
    notes: tuple[str, ...]
    as_url: bool
    as_base64: bool
    stream: bool = False
    partials: int = 0  # previews of a stream


def parse(service: Service, body: OpenAIFields) -> ParsedRequest:
    """Return what is to be drawn, and how it goes out.

    Raises ParameterError and what `Service.submit` raises.
    """
    if not body.prompt.strip():
        raise ParameterError("prompt", "prompt: empty: say what to draw")
    if body.background == "transparent":
        raise ParameterError("background", "background transparent: images are opaque here")
    asked = body.model_dump(include={*OWN_FIELDS, *EDITS, "prompt"}, exclude_none=True)
    if body.models is not None and body.model:
        raise ParameterError("models", "model and models: give one of them")
    notes = _unknown(body)
    asked["model"] = (body.model or None) if body.models is None else ",".join(body.models)
    top_k, n = asked.pop("top_k", None), body.n
    if top_k is not None and n is not None and top_k != n:
        raise ParameterError("top_k", f"top_k {top_k} and n {n} say the same: give one of them")
    asked["top_k"] = n if n is not None else 1 if top_k is None else top_k
    size = _size(body, asked)
    values = {name: checked(name, value) for name, value in asked.items() if value is not None}

    file_format = "png" if body.output_format is None else body.output_format
    form = Form(file_format, body.output_compression)
    if size is not None:
        drawn_size = fitted_size(service, values.get("model"), *size)
        values |= size_settings(service, values.get("model"), drawn_size)
        if drawn_size != size:
            form = replace(form, size=size)
            notes += ["drawn at {}x{} and enlarged".format(*drawn_size)]
    return ParsedRequest(
        Request.from_json(values),
        form,
        tuple(notes),
        as_url=body.response_format != "b64_json",
        as_base64=body.response_format != "url",
        stream=bool(body.stream),
        partials=0 if body.partial_images is None else body.partial_images,
    )


def _unknown(body: OpenAIFields) -> list[str]:
    """Return a note on the keys that are not known. Raises ParameterError for a slip of ours."""
    unknown = [key[:40] for key in body.model_extra or {}]
    for key in unknown[:MOST_KEYS]:
        if near := get_close_matches(key, OWN_FIELDS, 1, LIKENESS):
            message = f"{key}: not known; did you mean {near[0]}?"
            raise ParameterError(key, message, "unknown_parameter")
    if len(unknown) > MOST_KEYS:
        raise InputError(f"{len(unknown)} keys that are not known here, as {unknown[0]}")
    return [f"not known here, so without effect: {', '.join(unknown)}"] if unknown else []


def _size(body: OpenAIFields, asked: dict[str, Any]) -> tuple[int, int] | None:
    """Return the size that is asked for, in pixels; None leaves it to the model and `asked`.

    A width and height that are given together are taken out of `asked`.
    """
    given = [name for name in ("width", "height") if name in asked]
    if body.size is None or body.size == "auto":
        return (asked.pop("width"), asked.pop("height")) if len(given) == 2 else None
    if given:
        raise ParameterError("size", f"size and {given[0]} say the same: give one of them")
    match = re.fullmatch(r"([0-9]{1,9})x([0-9]{1,9})", body.size)
    if match is None:
        raise ParameterError("size", "size: must be auto, or WIDTHxHEIGHT as in 64x64")
    return int(match[1]), int(match[2])
