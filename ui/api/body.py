"""What all bodies of requests and answers have in common, and our settings as their fields."""

from typing import Annotated, Any

from fastapi import Response
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from gen.errors import InputError
from gen.settings import MAX_TEXT, Setting
from gen.settings.request import SETTINGS, find_setting
from ui.api.answers import ParameterError
from ui.service.rules import LIMITS
from ui.service.settings import EDITS, SERVED

# 42.0 is 42: not every language that writes JSON tells them apart.
WHOLE = BeforeValidator(
    lambda value: int(value) if isinstance(value, float) and value.is_integer() else value
)
Prompt = Annotated[str, Field(min_length=1, max_length=MAX_TEXT)]


class Body(BaseModel):
    """What is sent as JSON: keys that are not known are errors, and so is "4" for 4."""

    model_config = ConfigDict(extra="forbid", strict=True)


def setting_fields(without: set[str]) -> dict[str, Any]:
    """Return the settings that are served as optional fields, for `pydantic.create_model`."""
    return {name: _field(SETTINGS[name]) for name in SERVED if name not in without}


def edit_fields() -> dict[str, Any]:
    """Return the settings that go with an uploaded image, likewise."""
    return {name: _field(SETTINGS[name]) for name in EDITS}


def _field(setting: Setting) -> Any:
    if setting.name == "seed":  # large seeds are text
        return Annotated[int | str | None, WHOLE], Field(None, description=setting.help)
    if setting.kind in (str, bool):
        return setting.kind | None, Field(None, description=setting.help)
    high = LIMITS.get(setting.name, setting.high)
    bounded = Field(None, description=setting.help, ge=setting.low, le=high)
    return (Annotated[int | None, WHOLE] if setting.kind is int else float | None), bounded


def checked(name: str, value: Any) -> Any:
    """Return a setting's value; raises ParameterError that names the setting."""
    setting = find_setting(name)
    try:
        if name == "seed" and isinstance(value, str):
            return setting.read(value)
        return setting.check(value)
    except InputError as error:
        raise ParameterError(name, str(error)) from error


def to_response(answer: BaseModel) -> Response:
    """Return an answer as JSON, without the fields that are None."""
    return Response(answer.model_dump_json(exclude_none=True), media_type="application/json")
