"""The `parameters` text that AUTOMATIC1111's web UI introduced, and that many tools read."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import PurePath
from typing import Any

from gen.metadata.record import Metadata, without_control_characters
from gen.metadata.understood import MODEL, MODEL_HASH, READ, SIZE, UNREAD_MAX, make_record, name_of
from gen.settings.request import SETTINGS, Request
from pipelines.diffusion.samplers import SAMPLERS, SCHEDULES
from pipelines.settings import EditingSettings, settings_of

# The order in which AUTOMATIC1111 writes its keys; the ones that only we know come last.
ORDER = (
    "Steps",
    "Sampler",
    "Schedule type",
    "CFG scale",
    "Seed",
    "Size",
    "Model hash",
    "Model",
    "VAE",
    "Denoising strength",
    "Clip skip",
    "Hires upscale",
    "Hires steps",
    "Hires upscaler",
    "RNG",
    "Version",
    "Temperature",
    "Token top k",
    "Token top p",
    "Keep rows",
    "Attention",
    "Candidates",
    "Rerank model",
    "Rerank score",
    "Rerank scores",
    "Rerank rank",
    "Log likelihood",
    "Unfinished",
    "Template",
)
# What AUTOMATIC1111 says of an edit; what it does by default it leaves out.
EDITS: Mapping[tuple[str, object], str] = {
    ("invert_mask", True): "Inpaint not masked",
    ("mask_fill", "noise"): "latent noise",
    ("mask_fill", "blur"): "fill",
    ("inpaint_area", "masked"): "Only masked",
}
OF_EDITS = frozenset(each.label for each in settings_of(EditingSettings).values() if each.label)
ABOVE = ("Negative prompt",)  # has a line of its own
READ_KEYS = frozenset({*READ, MODEL, MODEL_HASH, SIZE}) - {"prompt", "negative_prompt"}
NEGATIVE = ("Negative prompt:", "Negative Prompt:")
BELOW = ("Template", "Negative Template")  # lines of sd-dynamic-prompts below the pairs
# What a model that draws tokens says for the two keys without which readers take a text for none,
# and one for the sampler of a pipeline that brings its own.
NO_STEPS, NO_SAMPLER, OWN_SAMPLER = "0", "Autoregressive", "Default"
# What says nothing of how an image was drawn, or says it twice.
REMARKS = frozenset(
    {*ORDER, *BELOW, "Hashes", "Lora hashes", "TI hashes", "Batch size", "Batch pos", "App", "User"}
)
PAIRS_MIN = 3  # a last line with fewer is part of the prompt
PAIRS_MAX = 500
KEY_MAX, VALUE_MAX = 100, 100_000  # characters


def to_text(record: Metadata, size: tuple[int, int] | None = None) -> str:
    """Write the text of a record: prompt, negative prompt, one line of keys and values.

    `size` is that of the image, for models that have but one.
    """
    lines = [record.request.prompt]
    if record.request.negative_prompt:
        lines.append(f"Negative prompt: {record.request.negative_prompt}")
    pairs = _pairs(record)
    if size is not None and "Size" not in pairs:
        pairs["Size"] = "x".join(str(side // record.upscale) for side in size)
    others = [each.label for each in SETTINGS.values() if each.label and each.label not in ABOVE]
    keys = dict.fromkeys([*ORDER, *others])  # a setting that has no place in the order comes last
    shown = {key: pairs[key] for key in keys if pairs.get(key) is not None}
    lines.append(", ".join(f"{key}: {_quoted(str(value))}" for key, value in shown.items()))
    return "\n".join(lines)


def _pairs(record: Metadata) -> dict[str, object]:
    request = record.request
    own = NO_SAMPLER if request.steps is None else OWN_SAMPLER
    pairs: dict[str, object] = {"Steps": NO_STEPS, "Sampler": own} | {
        SETTINGS[name].label: f"{value:g}" if isinstance(value, float) else value
        for name, value in request.given().items()
    }
    for name in ("invert_mask", "mask_fill", "inpaint_area"):
        pairs[SETTINGS[name].label] = EDITS.get((name, getattr(request, name)))
    if request.upscale_model is not None:
        enlarged = record.upscale > 1
        pairs["Postprocess upscaler"] = PurePath(request.upscale_model).stem if enlarged else None
    if request.hires_upscaler is not None:
        pairs["Hires upscaler"] = _hires_upscaler(request)
    if request.sampler is not None:
        pairs["Sampler"] = SAMPLERS[request.sampler].a1111
    if request.schedule is not None:
        pairs["Schedule type"] = SCHEDULES[request.schedule].a1111
    if request.width is not None and request.height is not None:
        pairs["Size"] = f"{request.width}x{request.height}"
    likelihood = record.log_likelihood
    parts = ", ".join(f"{name} {score:.4f}" for name, score in record.scores.items())
    return pairs | {
        "Model hash": record.model_hash or None,
        "Model": record.model or None,
        "RNG": "CPU",  # a seed's noise is always drawn on the CPU
        "Version": f"salon {record.versions['salon']}" if "salon" in record.versions else None,
        "Attention": record.attention or None,
        "Candidates": record.candidates,
        "Rerank model": record.rerank_model,
        "Rerank score": None if record.score is None else f"{record.score:.4f}",
        "Rerank scores": parts or None,
        "Rerank rank": record.rank,
        "Log likelihood": None if likelihood is None else f"{likelihood:.2f}",
        "Unfinished": record.unfinished,
    }


def _hires_upscaler(request: Request) -> str:
    """Return what enlarged between two passes, as their tools name it: a file by its name."""
    if request.hires_upscaler == "model" and request.upscale_model is not None:
        return PurePath(request.upscale_model).stem
    return str(request.hires_upscaler).capitalize()


def from_text(text: str) -> Metadata:
    """Read the text of any tool that writes one.

    Keys that we do not know, and values that we cannot use, survive in `extra`. Raises InputError
    if nothing of it is understood.
    """
    prompt, negative, pairs = _split(without_control_characters(text))
    if pairs.get("Steps") == NO_STEPS:
        del pairs["Steps"]
    if pairs.get("Sampler") in (NO_SAMPLER, OWN_SAMPLER):
        del pairs["Sampler"]
    if (near := pairs.pop("Variation seed", None)) is not None and "Seed" in pairs:
        pairs |= {"Variation of seed": pairs["Seed"], "Seed": near}  # theirs is ours, and back
    values: dict[str, Any] = {"prompt": prompt, "negative_prompt": negative}
    used = {}
    for key, value in pairs.items():
        name = name_of(key)
        if name in READ_KEYS and name not in values:
            values[name] = value
            used[name] = key
    record = make_record(values)
    there = {*record.request.given(), MODEL, MODEL_HASH}
    if {"width", "height"} <= there:
        there.add(SIZE)
    read = {key for name, key in used.items() if name in there}
    extra = {key: value for key, value in pairs.items() if key not in read}
    edits = [f"{key} {value}" for key, value in extra.items() if key in OF_EDITS]
    others = [k for k in extra if k not in REMARKS and k not in used.values() and k not in OF_EDITS]
    notes: tuple[str, ...] = ()
    notes += (f"it was made from another image: {', '.join(edits)}",) if edits else ()
    notes += (f"not read: {', '.join(others[:UNREAD_MAX])}",) if others else ()
    return replace(record, extra=extra, unread=record.unread + notes)


def _split(text: str) -> tuple[str, str, dict[str, str]]:
    """Return the prompt, the negative prompt, and the pairs of the line that has them."""
    lines = text.strip().split("\n")
    pairs: dict[str, str] = {}
    for place, line in _lines_of_pairs(lines):
        if len(pairs := split_pairs(line)) >= PAIRS_MIN:
            pairs |= _templates(lines[place + 1 :])
            lines = lines[:place]
            break
    negative = next((n for n, line in enumerate(lines) if line.startswith(NEGATIVE)), len(lines))
    said = "\n".join(lines[negative:])
    return "\n".join(lines[:negative]).strip(), said[len(NEGATIVE[0]) :].strip(), pairs


def _lines_of_pairs(lines: list[str]) -> Iterator[tuple[int, str]]:
    """Yield the lines that may hold the pairs, the likeliest first."""
    found = [(place, line) for place, line in enumerate(lines) if line.startswith("Steps: ")]
    yield from found[-1:]
    yield len(lines) - 1, lines[-1]


def _templates(lines: list[str]) -> dict[str, str]:
    """Read what extensions write below the pairs: templates of any number of lines, and more."""
    found: dict[str, str] = {}
    key = ""
    for line in lines:
        name, colon, value = line.partition(":")
        if colon and name in BELOW:
            key = name
            found[key] = value.strip()
        elif key:
            found[key] += f"\n{line}"
        else:
            found |= split_pairs(line)
    return found


def split_pairs(line: str) -> dict[str, str]:
    """Read `key: value, key: value`, in one pass.

    A value may be a text in quotes, or JSON in brackets; there commas and colons mean nothing.
    """
    pairs: dict[str, str] = {}
    place, closed = 0, True  # closed: whether quotes and brackets have found their ends so far
    while place < len(line) and len(pairs) < PAIRS_MAX:
        colon = line.find(":", place, place + KEY_MAX)
        comma = line.find(",", place)
        if colon < 0 or -1 < comma < colon:
            if comma < 0:
                return pairs
            place = comma + 1
            continue
        start = colon + 1
        while line[start : start + 1] == " ":
            start += 1
        end = _end_of_value(line, start) if closed and line[start : start + 1] in '"[{' else None
        if end is None:
            closed = closed and line[start : start + 1] not in ('"', "[", "{")
            comma = line.find(",", start)
            end = len(line) if comma < 0 else comma
        if key := line[place:colon].strip():
            pairs[key] = _unquoted(line[start:end].strip())
        comma = line.find(",", end)
        place = len(line) if comma < 0 else comma + 1
    return pairs


def _end_of_value(line: str, start: int) -> int | None:
    """Return where a quoted text or JSON in brackets ends; None if it does not."""
    depth, quoted, place = 0, False, start
    while place < min(len(line), start + VALUE_MAX):
        sign = line[place]
        if quoted and sign == "\\":
            place += 1
        elif sign == '"':
            quoted = not quoted
        elif not quoted:
            depth += (sign in "[{") - (sign in "]}")
        place += 1
        if not quoted and depth <= 0:
            return place
    return None


def _quoted(value: str) -> str:
    needs_quotes = any(character in value for character in ',:\n"')
    return json.dumps(value, ensure_ascii=False) if needs_quotes else value


def _unquoted(value: str) -> str:
    try:
        return str(json.loads(value)) if value.startswith('"') else value.strip()
    except ValueError:
        return value
