"""What ComfyUI and InvokeAI write into their images, read as a record of ours.

Both write JSON into text chunks of a PNG: ComfyUI the graph of nodes that made the image
(`prompt`), InvokeAI a flat record (`invokeai_metadata`). Values that we cannot use are left out.
"""

import json
from collections.abc import Mapping
from typing import Any

from PIL import Image

from gen import metadata
from gen.errors import InputError
from gen.metadata import Metadata
from gen.settings.request import SETTINGS, Request
from pipelines.settings import UNREADABLE, Value

COMFYUI_KEY, INVOKEAI_KEY = "prompt", "invokeai_metadata"
DEEPEST = 20  # nodes between a sampler and the text that it was given
# Their names of samplers and schedules, where ours differ.
SAMPLERS: Mapping[str, str] = {
    "euler_ancestral": "euler_a",
    "dpm_2": "kdpm2",
    "dpm_2_ancestral": "kdpm2_a",
    "uni_pc": "unipc",
    "uni_pc_bh2": "unipc",
    "kdpm_2": "kdpm2",
    "kdpm_2_a": "kdpm2_a",
}
SCHEDULES: Mapping[str, str] = {"normal": "default", "simple": "default", "sgm_uniform": "trailing"}
KARRAS = "_k"  # ends InvokeAI's names of samplers with that schedule

Node = Mapping[str, Any]


def read_any(image: Image.Image) -> Metadata:
    """Read the record inside an opened image of ours, AUTOMATIC1111's, ComfyUI's or InvokeAI's.

    Raises InputError if it says nothing about itself, or nothing that can be understood.
    """
    if not any(metadata.read_texts(image)):
        for key, read in ((INVOKEAI_KEY, from_invokeai), (COMFYUI_KEY, from_comfyui)):
            text = image.info.get(key)
            if isinstance(text, str):
                try:
                    return read(text)
                except (ValueError, TypeError, RecursionError) as error:
                    raise InputError(f"its metadata cannot be read: {error}") from error
    return metadata.read_image(image)


def from_comfyui(text: str) -> Metadata:
    """Read ComfyUI's `prompt` chunk. Raises InputError if no sampler is in the graph."""
    graph = _object(text)
    node = next((n for n in graph.values() if _is_sampler(n)), None)
    if node is None:
        raise InputError("no sampler that we know is in its ComfyUI graph")
    inputs = node["inputs"]
    size = _linked(graph, inputs.get("latent_image"))
    values = {
        "prompt": _text(graph, inputs.get("positive")),
        "negative_prompt": _text(graph, inputs.get("negative")),
        "seed": inputs.get("seed", inputs.get("noise_seed")),
        "steps": inputs.get("steps"),
        "guidance": inputs.get("cfg"),
        "sampler": _known(SAMPLERS, inputs.get("sampler_name")),
        "schedule": _known(SCHEDULES, inputs.get("scheduler")),
        "width": size.get("width"),
        "height": size.get("height"),
    }
    return _record(values, _checkpoint(graph))


def from_invokeai(text: str) -> Metadata:
    """Read InvokeAI's `invokeai_metadata` chunk. Raises InputError."""
    record = _object(text)
    sampler, schedule = record.get("scheduler"), None
    if isinstance(sampler, str) and sampler.endswith(KARRAS):
        sampler, schedule = sampler.removesuffix(KARRAS), "karras"
    values = {
        "prompt": record.get("positive_prompt"),
        "negative_prompt": record.get("negative_prompt"),
        "seed": record.get("seed"),
        "steps": record.get("steps"),
        "guidance": record.get("cfg_scale"),
        "sampler": _known(SAMPLERS, sampler),
        "schedule": schedule,
        "width": record.get("width"),
        "height": record.get("height"),
    }
    model = record.get("model")
    name = model.get("name", model.get("model_name")) if isinstance(model, dict) else ""
    return _record(values, str(name))


def _record(values: Mapping[str, Any], model: str) -> Metadata:
    """Make a record of those values that can be ours."""
    known: dict[str, Value] = {}
    for name, value in values.items():
        if isinstance(value, str):
            value = UNREADABLE.sub("", value)
        if value in (None, ""):
            continue
        try:
            known[name] = SETTINGS[name].check(value)
        except InputError:
            continue
    return Metadata(Request.from_json(known), model=UNREADABLE.sub("", model))


def _object(text: str) -> Mapping[str, Any]:
    values = json.loads(text)
    if not isinstance(values, dict):
        raise InputError("its metadata is no JSON object")
    return values


def _is_sampler(node: Any) -> bool:
    return (
        isinstance(node, dict)
        and isinstance(node.get("inputs"), dict)
        and {"sampler_name", "steps", "positive"} <= node["inputs"].keys()
    )


def _linked(graph: Mapping[str, Any], link: Any) -> Node:
    """Return the inputs of the node that a link, `[id, output]`, leads to; empty if to none."""
    if not isinstance(link, list) or not link:
        return {}
    node = graph.get(str(link[0]))
    inputs = node.get("inputs") if isinstance(node, dict) else None
    return inputs if isinstance(inputs, dict) else {}


def _text(graph: Mapping[str, Any], link: Any) -> str:
    """Return the text that a conditioning was encoded from, through nodes that pass it on."""
    for _ in range(DEEPEST):
        inputs = _linked(graph, link)
        text = inputs.get("text", inputs.get("text_g", inputs.get("string")))
        if isinstance(text, str):
            return text
        link = text if isinstance(text, list) else inputs.get("conditioning")
    return ""


def _checkpoint(graph: Mapping[str, Any]) -> str:
    for node in graph.values():
        inputs = node.get("inputs") if isinstance(node, dict) else None
        if isinstance(inputs, dict) and isinstance(inputs.get("ckpt_name"), str):
            return str(inputs["ckpt_name"])
    return ""


def _known(names: Mapping[str, str], name: Any) -> Any:
    return names.get(name, name) if isinstance(name, str) else name
