"""The `parameters` text that AUTOMATIC1111's web UI introduced, and that many tools read."""

import json
import re
from collections.abc import Mapping

from gen.errors import InputError
from gen.metadata.record import Metadata, without_control_characters
from gen.settings.request import SETTINGS, Request
from pipelines.diffusion.samplers import SAMPLERS, SCHEDULES
from pipelines.settings import Value

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
    "Clip skip",
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
ABOVE = ("Negative prompt",)  # has a line of its own
READ_SETTINGS = ("steps", "sampler", "schedule", "guidance", "seed", "clip_skip")
PAIR = re.compile(r'\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])*"|[^,]*)(?:,|$)')
PAIRS_MIN = 3  # a last line with fewer is part of the prompt


def to_text(record: Metadata) -> str:
    """Write the text of a record: prompt, negative prompt, one line of keys and values."""
    lines = [record.request.prompt]
    if record.request.negative_prompt:
        lines.append(f"Negative prompt: {record.request.negative_prompt}")
    pairs = _pairs(record)
    others = [each.label for each in SETTINGS.values() if each.label and each.label not in ABOVE]
    keys = dict.fromkeys([*ORDER, *others])  # a setting that has no place in the order comes last
    shown = {key: pairs[key] for key in keys if pairs.get(key) is not None}
    lines.append(", ".join(f"{key}: {_quoted(str(value))}" for key, value in shown.items()))
    return "\n".join(lines)


def _pairs(record: Metadata) -> dict[str, object]:
    request = record.request
    pairs: dict[str, object] = {
        SETTINGS[name].label: f"{value:g}" if isinstance(value, float) else value
        for name, value in request.given().items()
    }
    for name in ("invert_mask", "mask_fill", "inpaint_area"):
        pairs[SETTINGS[name].label] = EDITS.get((name, getattr(request, name)))
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


def from_text(text: str) -> Metadata:
    """Read the text of any tool that writes one.

    Keys that we do not know, and values that we cannot use, survive in `extra`. Raises InputError
    if there is no prompt in it.
    """
    prompt, negative, pairs = _split(without_control_characters(text))
    values: dict[str, Value] = {"prompt": prompt}
    if negative:
        values["negative_prompt"] = negative
    if size := re.fullmatch(r"(\d+)x(\d+)", pairs.get("Size", "")):
        values |= {"width": int(size[1]), "height": int(size[2])}
        del pairs["Size"]
    pairs |= _split_sampler(pairs.get("Sampler", ""))
    for name in READ_SETTINGS:
        setting = SETTINGS[name]
        try:
            values[name] = setting.read(pairs[setting.label])
            del pairs[setting.label]
        except (KeyError, InputError):
            continue
    model, model_hash = pairs.pop("Model", ""), pairs.pop("Model hash", "")
    return Metadata(Request.from_json(values), model, model_hash, extra=pairs)


def _split(text: str) -> tuple[str, str, dict[str, str]]:
    """Return the prompt, the negative prompt, and the pairs of the last line."""
    *lines, last = text.strip().split("\n")
    pairs = {key: _unquoted(value) for key, value in PAIR.findall(last)}
    if len(pairs) < PAIRS_MIN:
        lines, pairs = [*lines, last], {}
    prompt, *negative = re.split(r"(?m)^Negative prompt:", "\n".join(lines), maxsplit=1)
    return prompt.strip(), "".join(negative).strip(), pairs


def _split_sampler(sampler: str) -> dict[str, str]:
    """Split "DPM++ 2M Karras" of older images; newer ones have a key for the schedule."""
    for schedule in SCHEDULES.values():
        if sampler.endswith(f" {schedule.a1111}"):
            name = sampler.removesuffix(f" {schedule.a1111}")
            return {"Sampler": name, "Schedule type": schedule.a1111}
    return {}


def _quoted(value: str) -> str:
    needs_quotes = any(character in value for character in ',:\n"')
    return json.dumps(value, ensure_ascii=False) if needs_quotes else value


def _unquoted(value: str) -> str:
    try:
        return str(json.loads(value)) if value.startswith('"') else value.strip()
    except ValueError:
        return value
