"""What tools written for AUTOMATIC1111's API ask for: done, refused by name, or noted.

Such tools send the same many keys whatever they mean, so a key is refused only where its value
would have made another image.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, create_model

from gen.errors import InputError
from gen.models import Spec
from gen.plan import draw_seed
from gen.settings import SAMPLERS
from gen.settings.request import (
    MODEL_SETTINGS,
    RANDOM_SEED,
    Request,
    find_setting,
    with_schedule,
)
from ui.api.answers import ParameterError
from ui.api.body import checked, setting_fields
from ui.api.images import Form
from ui.api.sdapi.options import Choice, find_checkpoint
from ui.api.sdapi.second_pass import read_second_pass
from ui.api.sizes import MAX_SIDE, can_draw, chosen_specs, fitted_size, nearest_size, size_settings
from ui.service.rules import LIMITS
from ui.service.service import Service
from ui.service.settings import offered

# What is not done here, with the values that ask for nothing.
REFUSED: Mapping[str, tuple[Any, ...]] = {
    "seed_resize_from_h": (0, -1),
    "seed_resize_from_w": (0, -1),
    "restore_faces": (False,),
    "tiling": (False,),
    "script_name": ("",),
    "refiner_checkpoint": ("", "None"),
    "infotext": ("",),
    "s_churn": (0,),
    "s_min_uncond": (0,),
    "s_noise": (1,),
    "eta": (0, 1),
}
# What makes no difference unless something above is asked for, or says where to save.
IDLE = (
    *("subseed", "denoising_strength", "refiner_switch_at", "script_args", "s_tmax", "s_tmin"),
    *("sampler_index", "save_images", "comments", "force_task_id", "disable_extra_networks"),
    *("url", "auth"),  # of SillyTavern's own
    *("subseed_strength", "styles", "enable_hr"),  # which `parse` reads
)
IDLE_BEGINNINGS = ("hr_", "firstphase_", "do_not_save_")
REFUSED_OPTIONS: Mapping[str, tuple[Any, ...]] = {
    "sd_vae": ("", "None", "Automatic"),
    "sd_hypernetwork": ("", "None"),
    "forge_additional_modules": ([],),
    "eta_noise_seed_delta": (0,),
}
HYPERNETWORK, LORAS = "<hypernet:", ("<lora:", "<lyco:")
NO_EDIT: Mapping[str, Any] = MappingProxyType({})
MOST_NOTED = 10  # keys that are not known


class TheirSettings(BaseModel):
    """Our settings that such tools send, by their names for them (aliases of ours)."""

    prompt: str = ""
    negative_prompt: str | None = None
    seed: int | None = -1
    steps: Annotated[int | None, Field(ge=1, le=LIMITS["steps"])] = None
    cfg_scale: Annotated[float | None, Field(ge=0, le=100)] = None
    sampler_name: Annotated[
        str | None, Field(description="in any spelling; sampler_index is read where it is missing")
    ] = None
    scheduler: str | None = None


THEIR_NAMES = {find_setting(name).name: name for name in TheirSettings.model_fields}
OWN_FIELDS = setting_fields(
    without={*THEIR_NAMES, "model", "width", "height", "candidates", "top_k"}
)


class TheirFields(TheirSettings):
    """What such tools send; of other keys, `info` notes those that are not known."""

    model_config = ConfigDict(extra="allow")

    width: Annotated[int | None, Field(ge=1)] = None
    height: Annotated[int | None, Field(ge=1)] = None
    batch_size: Annotated[int, Field(ge=1, le=LIMITS["candidates"])] = 1
    n_iter: Annotated[int, Field(ge=1, le=LIMITS["candidates"])] = 1
    candidates: Annotated[
        int | None,
        Field(ge=1, le=LIMITS["candidates"], description="of these the best are returned"),
    ] = None
    override_settings: Annotated[
        dict[str, Any] | None,
        Field(description="sd_model_checkpoint: which model draws; CLIP_stop_at_last_layers"),
    ] = None
    override_settings_restore_afterwards: bool | None = True
    alwayson_scripts: dict[str, Any] | None = None
    send_images: bool | None = True


if TYPE_CHECKING:
    TextToImage = TheirFields
else:
    TextToImage = create_model("TextToImage", __base__=TheirFields, **OWN_FIELDS)


@dataclass(frozen=True)
class ParsedRequest:
    """A request that was understood; `choice` is what holds for the client's next ones."""

    request: Request
    form: Form
    notes: tuple[str, ...]
    choice: Choice
    styles: tuple[str, ...] = ()


def parse(
    service: Service, body: TheirFields, choice: Choice, edit: Mapping[str, Any] = NO_EDIT
) -> ParsedRequest:
    """Return what is to be drawn, and how it goes out; `edit` are settings that go with an image.

    `choice` holds where the body says nothing. Raises InputError, which names what is not done.
    """
    notes = _other_keys(body)
    chosen, more = _overridden(service, body, choice)
    refused = (HYPERNETWORK,) if service.loras else (HYPERNETWORK, *LORAS)
    values = _values(body, chosen, refused)
    specs = chosen_specs(service, values.get("model"))
    styles = _apply_styles(service, body, values)
    _vary(body, values, specs)
    notes += more + _fit_sampler(values, specs) + _drop_foreign(values, specs)
    form, more = _fit_size(service, body, values, specs)
    second, again = read_second_pass(service, body.model_dump(), _drawn(values), specs, edit)
    if form.size is not None and second:
        width, height = (round(side * second["hires"]) for side in form.size)
        form = replace(form, size=(width, height))
    restored = body.override_settings_restore_afterwards is not False
    return ParsedRequest(
        Request.from_json({**values, **edit, **second}),
        form,
        (*notes, *more, *again),
        choice if restored else chosen,
        styles,
    )


def _drawn(values: Mapping[str, Any]) -> tuple[int, int] | None:
    """Return the size that is drawn first; None where the body leaves it to the model."""
    size = values.get("width"), values.get("height")
    return None if None in size else size  # type: ignore[return-value]


def _apply_styles(service: Service, body: TheirFields, values: dict[str, Any]) -> tuple[str, ...]:
    """Put the styles that the body names around the prompts, and return their names."""
    asked = (body.model_extra or {}).get("styles") or []
    known = {style.name: style for style in service.styles}
    for name in asked if isinstance(asked, list) else [asked]:
        if name not in known:
            there = ", ".join(known) or "none"
            raise ParameterError("styles", f"styles: no {str(name)[:40]!r} here; there are {there}")
        texts = values.get("prompt", ""), values.get("negative_prompt", "")
        prompt, negative_prompt = known[name].applied(*texts)
        values |= {"prompt": prompt, "negative_prompt": negative_prompt}
    return tuple(asked)


def _values(body: TheirFields, choice: Choice, refused: tuple[str, ...]) -> dict[str, Any]:
    """Return the settings that the body gives, by our names; `refused` are signs of prompts."""
    count = body.batch_size * body.n_iter
    if count > LIMITS["candidates"]:
        most = LIMITS["candidates"]
        raise ParameterError("n_iter", f"batch_size x n_iter is {count}: at most {most} are drawn")
    candidates = count if body.candidates is None else body.candidates
    values: dict[str, Any] = {"candidates": candidates, "top_k": count}
    for name, field in {**THEIR_NAMES, **{name: name for name in OWN_FIELDS}}.items():
        value = getattr(body, field)
        if name == "sampler" and value in (None, ""):
            value = (body.model_extra or {}).get("sampler_index")
        if value not in (None, ""):
            values[name] = _checked(name, field, value)
    for network in refused:
        if network in values.get("prompt", "").lower():
            raise ParameterError("prompt", f"prompt: {network}…> is not served: take it out")
    if choice.model is not None:
        values["model"] = choice.model
    if choice.clip_skip is not None:
        values.setdefault("clip_skip", choice.clip_skip)
    return values


def _checked(name: str, field: str, value: Any) -> Any:
    try:
        return checked(name, value)
    except ParameterError as error:
        raise ParameterError(field, str(error), error.code) from error


def _other_keys(body: TheirFields) -> list[str]:
    """Return notes on the keys that are not fields. Raises ParameterError for what is not done."""
    unknown = []
    for key, value in (body.model_extra or {}).items():
        if key in REFUSED:
            _refuse(key, value, REFUSED[key])
        elif key not in IDLE and not key.startswith(IDLE_BEGINNINGS):
            unknown.append(key[:40])
    for name, script in (body.alwayson_scripts or {}).items():
        arguments = script.get("args") if isinstance(script, dict) else script
        if not _is_off(arguments):
            raise ParameterError(
                "alwayson_scripts", f"alwayson_scripts: {name[:40]!r} is no script of this server"
            )
    return _noted(unknown)


def _overridden(service: Service, body: TheirFields, choice: Choice) -> tuple[Choice, list[str]]:
    """Return what `override_settings` choose, and notes on its other keys."""
    model, clip_skip, unknown = choice.model, choice.clip_skip, []
    for key, value in (body.override_settings or {}).items():
        if key == "sd_model_checkpoint":
            model = choice.model if value in (None, "") else find_checkpoint(service, value)
        elif key == "CLIP_stop_at_last_layers":
            clip_skip = choice.clip_skip if value is None else _checked("clip_skip", key, value)
        elif key in REFUSED_OPTIONS:
            _refuse(key, value, REFUSED_OPTIONS[key])
        else:
            unknown.append(f"override_settings.{key[:40]}")
    return Choice(model, clip_skip), _noted(unknown)


def _noted(unknown: list[str]) -> list[str]:
    if not unknown:
        return []
    more = "" if len(unknown) <= MOST_NOTED else f" and {len(unknown) - MOST_NOTED} more"
    return [f"not known here, so without effect: {', '.join(unknown[:MOST_NOTED])}{more}"]


def _refuse(key: str, value: Any, off: tuple[Any, ...]) -> None:
    if value is not None and value not in off:
        message = f"{key}: not done by this server: leave it out, or send {json.dumps(off[0])}"
        raise ParameterError(key, message)


def _is_off(arguments: Any) -> bool:
    """Return whether the arguments of a script ask for nothing: none, or each one switched off."""
    if isinstance(arguments, dict):
        return not arguments or arguments.get("enabled", arguments.get("enable")) is False
    return not arguments or (isinstance(arguments, list) and all(map(_is_off, arguments)))


def _vary(body: TheirFields, values: dict[str, Any], specs: list[Spec]) -> None:
    """Settle on the noise between that of their seed and that of their subseed.

    Ours lies between that of `base_seed`, which is their seed, and that of `seed`.
    """
    extra = body.model_extra or {}
    strength, subseed = extra.get("subseed_strength"), extra.get("subseed")
    if strength in (None, 0):
        return
    values["variation"] = _checked("variation", "subseed_strength", strength)
    if "variation" not in offered(specs):
        takers = ", ".join(spec.name for spec in specs)
        raise ParameterError(
            "subseed_strength", f"subseed_strength: {takers} has no noise to vary: send 0"
        )
    base = values.get("seed", RANDOM_SEED)
    values["base_seed"] = draw_seed() if base == RANDOM_SEED else base
    values["seed"] = _checked("seed", "subseed", RANDOM_SEED if subseed is None else subseed)


def _fit_sampler(values: dict[str, Any], specs: list[Spec]) -> list[str]:
    """Settle on a schedule that the sampler has; "Automatic" leaves it to the model.

    AUTOMATIC1111's web UI combines every sampler with every schedule, as its tools do.
    """
    if values.get("schedule") == "default":
        del values["schedule"]
    values.update(with_schedule(values))
    sampler = values.get("sampler")
    if sampler is None:
        return []
    known = SAMPLERS[sampler].schedules
    asked = values.get("schedule")
    if asked is None:
        if any(spec.defaults.get("schedule", "default") not in known for spec in specs):
            values["schedule"] = "default"
        return []
    if asked in known:
        return []
    values["schedule"] = "default"
    return [f"{sampler} has no schedule {asked}: drawn with its own"]


def _drop_foreign(values: dict[str, Any], specs: list[Spec]) -> list[str]:
    """Drop the settings that no chosen model takes: tools send the same whatever the model is."""
    foreign = sorted(values.keys() & set(MODEL_SETTINGS) - set(offered(specs)))
    for name in foreign:
        del values[name]
    takers = ", ".join(spec.name for spec in specs)
    return [f"{takers} takes no {', '.join(foreign)}: left out"] if foreign else []


def _fit_size(
    service: Service, body: TheirFields, values: dict[str, Any], specs: list[Spec]
) -> tuple[Form, list[str]]:
    """Settle on a size that the models draw: such tools cannot know it, and most send 512x512."""
    if body.width is None and body.height is None:
        return Form(), []
    if body.width is None or body.height is None:
        raise InputError("width and height: give both or none")
    size, model = (body.width, body.height), values.get("model")
    drawn, note = size, []
    if service.fit_size or all(can_draw(spec, *size) for spec in specs):
        drawn = fitted_size(service, model, *size)
    elif max(size) <= MAX_SIDE:
        drawn = fitted_size(service, model, *nearest_size(specs[0], *size))
    else:
        raise ParameterError("width", f"width and height: at most {MAX_SIDE} pixels a side")
    if drawn != size:
        note = ["{}x{} is not drawn by {}: drawn at {}x{}".format(*size, specs[0].name, *drawn)]
    values |= size_settings(service, model, drawn)
    return Form(size=size) if service.fit_size and drawn != size else Form(), note
