"""What other tools say, as a record of ours: what fits is kept, what does not is said."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from gen.errors import InputError
from gen.metadata.record import Metadata, without_control_characters
from gen.settings.request import SETTINGS, Request, WithoutPrompt, with_schedule
from pipelines.checkpoints.configs import parse_json
from pipelines.diffusion.samplers import SAMPLERS
from pipelines.settings import Setting, Value

# The settings that other tools' images say of themselves; the rest is ours alone.
READ = (
    "prompt",
    "negative_prompt",
    "seed",
    "steps",
    "guidance",
    "sampler",
    "schedule",
    "clip_skip",
    "width",
    "height",
    "temperature",
    "token_top_k",
    "token_top_p",
    "base_seed",
    "variation",
    "hires",
    "hires_strength",
    "hires_steps",
    "hires_upscaler",
)
MODEL, MODEL_HASH, SIZE = "model", "model_hash", "size"
UNREAD_MAX = 20  # lines
TEXT_KEPT = 1000  # characters of a value that is only kept
SIZE_TEXT = re.compile(r"\D{0,3}(\d{1,5})\D{1,5}(\d{1,5})\D{0,20}")


def plain(key: str) -> str:
    """Return a key without what tools write differently: capitals and what joins words."""
    return re.sub(r"[\s_-]", "", key.lower())


# What other tools call settings, beside the names that flags and prompt files know as well.
_OTHERS = {
    "uc": "negative_prompt",  # NovelAI
    "scale": "guidance",  # NovelAI
    "numsteps": "steps",  # InvokeAI
    "noiseschedule": "schedule",  # NovelAI
    "modelname": MODEL,
    "basemodel": MODEL,  # Fooocus
    "basemodelname": MODEL,
    "usestablediffusionmodel": MODEL,  # Easy Diffusion
    "stablediffusionmodel": MODEL,
    "modelhash": MODEL_HASH,
    "basemodelhash": MODEL_HASH,
    "resolution": SIZE,  # Fooocus
    "size": SIZE,
}
_NAMES = {
    plain(key): name
    for name in (*READ, MODEL)
    for key in (name, *SETTINGS[name].aliases, SETTINGS[name].label)
    if key
} | _OTHERS


def name_of(key: str) -> str | None:
    """Return what a key of another tool says: a setting, MODEL, MODEL_HASH or SIZE; else None."""
    return _NAMES.get(plain(key)) if len(key) < 60 else None


def read_keyed(values: Mapping[str, Any], unread: Iterable[str] = ()) -> Metadata:
    """Read a flat record with the keys of any tool. Raises InputError if nothing in it fits."""
    found: dict[str, Any] = {}
    others = []
    for key, value in values.items():
        name = name_of(key)
        if value in (None, "", [], {}):
            continue
        if name is None:
            others.append(key)
        elif name == "guidance" and found.get(name) not in (None, 1, 1.0, "1"):
            continue  # distilled models have both, of which one is 1
        elif name == "guidance" or name not in found:
            found[name] = value
    if "sampler" not in found and _is_sampler(found.get("schedule")):  # as InvokeAI calls it
        found["sampler"] = found.pop("schedule")
    notes = [*unread, f"not read: {', '.join(others[:UNREAD_MAX])}"] if others else unread
    return make_record(found, notes)


def make_record(values: Mapping[str, Any], unread: Iterable[str] = ()) -> Metadata:
    """Make a record of values by our names, MODEL, MODEL_HASH and SIZE.

    What does not fit is said in `unread`, and kept as it is in `extra`. Raises InputError if
    nothing fits.
    """
    values = without_control_characters(values)
    notes = list(unread)
    if size := SIZE_TEXT.fullmatch(str(values.get(SIZE, ""))[:40]):
        values = {"width": size[1], "height": size[2], **values}
    known: dict[str, Any] = {}
    left: dict[str, Any] = {}
    for name in READ:
        value = values.get(name)
        if value in (None, ""):
            continue
        try:
            known[name] = _fitted(SETTINGS[name], value)
        except InputError as error:
            left[SETTINGS[name].label or name] = str(value)[:TEXT_KEPT]
            is_name = SETTINGS[name].names is not None
            notes.append(f"{name} {value!s:.60}: there is none here" if is_name else str(error))
    known = _that_go_together(known, notes)
    if not known:
        raise InputError("nothing in its metadata is understood")
    prompt = known.pop("prompt", "")
    if not prompt.strip():
        notes.insert(0, "it does not say its prompt")
    request = Request(prompt, **known) if prompt.strip() else WithoutPrompt("", **known)
    return Metadata(
        request,
        model=_model(values.get(MODEL)),
        model_hash=_model(values.get(MODEL_HASH)),
        extra=left,
        unread=tuple(notes[:UNREAD_MAX]),
    )


def load_object(text: str) -> Mapping[str, Any]:
    """Read a JSON object. Raises InputError."""
    try:
        values: dict[str, Any] = parse_json(text)
    except ValueError as error:
        raise InputError("its metadata is no JSON object that can be read") from error
    return values


def _fitted(setting: Setting, value: Any) -> Value:
    """Return a value in the type of its setting; tools write numbers as text, and 20 as 20.0."""
    if isinstance(value, str):
        return setting.read(value.strip()) if setting.kind is not str else setting.check(value)
    if setting.kind is int and isinstance(value, float) and value.is_integer():
        value = int(value)
    if setting.name == "seed" and value == -1:
        raise InputError("seed -1: which one it came to is not said")
    return setting.check(value)


def _that_go_together(values: dict[str, Any], notes: list[str]) -> dict[str, Any]:
    """Return the values without those that the sampler does not have here."""
    known: dict[str, Any]
    try:
        known = {**with_schedule(values)}
    except InputError as error:
        notes.append(str(error))
        del values["schedule"]
        known = {**with_schedule(values)}
    for name in ("hires_strength", "hires_steps", "hires_upscaler"):
        if "hires" not in known or not known.get(name, 1):
            known.pop(name, None)
    row = SAMPLERS.get(known.get("sampler", ""))
    if row is not None and known.get("schedule", "default") not in row.schedules:
        schedule = known.pop("schedule")
        notes.append(f"schedule {schedule}: {known['sampler']} has none here")
    if row is not None and known.get("steps", 1) > row.max_steps:
        steps = known.pop("steps")
        notes.append(f"steps {steps}: {known['sampler']} takes at most {row.max_steps} here")
    return known


def _is_sampler(value: Any) -> bool:
    find = SETTINGS["sampler"].find
    return isinstance(value, str) and find is not None and find(value) is not None


def _model(value: Any) -> str:
    """Return a model's name or hash, which InvokeAI has inside an object."""
    if isinstance(value, Mapping):
        value = value.get("name", value.get("model_name", value.get("key")))
    return str(value)[:500] if isinstance(value, str | int) else ""
