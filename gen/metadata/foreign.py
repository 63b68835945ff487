"""Whichever tool made an image: which of its texts say how, and which reader understands them.

Salon, AUTOMATIC1111 and those that write as it does, ComfyUI, InvokeAI, Fooocus, SwarmUI, NovelAI,
Easy Diffusion, Draw Things. The two old formats of InvokeAI are read by sd-parsers.
"""

import html
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from PIL import Image

from gen.errors import InputError
from gen.metadata import parameters
from gen.metadata.comfyui import read_graph
from gen.metadata.hidden import hidden_text
from gen.metadata.record import Metadata
from gen.metadata.texts import Texts, texts_of_image
from gen.metadata.understood import MODEL, load_object, name_of, read_keyed
from pipelines.checkpoints.configs import parse_json

JSON_KEY, TEXT_KEY = "salon", "parameters"
FORMATS = ("PNG", "JPEG", "WEBP")
NOTHING = "has no metadata, so nobody knows how it was made"
EMPTY = frozenset({"", "none", "null", "undefined", "nan"})
NOVELAI_SOURCE = re.compile(r"(.{1,90}?) ([0-9A-F]{6,16})")  # "Stable Diffusion 1D44365E"
OLD_MAX = 20_000  # characters of a text that sd-parsers is given

Source = tuple[str, Callable[[], Metadata]]


def read_any(image: Image.Image) -> Metadata:
    """Read the record inside an opened image, whichever tool wrote it.

    Its pixels are decoded only where it has no text, and may have one hidden in them. Raises
    InputError if it says nothing about itself, or nothing that can be understood.
    """
    texts = texts_of_image(image)
    if not says_something(texts) and (text := hidden_text(image)):
        texts.by_key[TEXT_KEY] = text
    return from_texts(texts)


def says_something(texts: Texts) -> bool:
    """Tell whether a text may say how the image was made."""
    return any(True for _ in _sources(texts.by_key))


def from_texts(texts: Texts) -> Metadata:
    """Read the record of the texts in a file; raises what `read_any` raises."""
    partial: Metadata | None = None
    reason = ""
    for name, read in _sources(texts.by_key):
        try:
            record = read()
        except (ValueError, TypeError, AttributeError, RecursionError) as error:
            reason = reason or f"its metadata cannot be read: {name}: {error}"
            continue
        if record.request.prompt:
            return _with_notes(record, texts, reason)
        partial = record if partial is None else partial
    if partial is not None:
        return _with_notes(partial, texts, reason)
    if texts.too_long:
        reason = reason or f"its metadata is too long to be read: {', '.join(texts.too_long)[:80]}"
    raise InputError(reason or NOTHING)


def _with_notes(record: Metadata, texts: Texts, reason: str) -> Metadata:
    """Add what else there is in the file that was not understood."""
    notes = [reason] if reason else []
    notes += [f"{key[:40]}: too long to be read" for key in texts.too_long]
    return replace(record, unread=(*record.unread, *notes)) if notes else record


def _sources(texts: Mapping[str, str]) -> Iterator[Source]:
    """Yield what may say how the image was made, and how to read it, the surest first."""
    for key in (JSON_KEY, "MakerNote"):
        if (ours := texts.get(key, "")) and (key == JSON_KEY or _is_object(ours)):
            yield key, partial(_ours, ours)
    if "invokeai_metadata" in texts:
        yield "invokeai_metadata", partial(_object, texts["invokeai_metadata"])
    for key in ("sd-metadata", "Dream"):
        if key in texts:
            yield key, partial(_by_sd_parsers, {key: texts[key]})
    if "Comment" in texts and "NovelAI" in texts.get("Software", ""):
        yield "NovelAI's Comment", partial(_novelai, texts)
    for key in (TEXT_KEY, "UserComment", "generation_data", "Comment", "comment", "Model"):
        text = texts.get(key, "").strip().rstrip("\0")
        if _is_object(text):
            yield key, partial(_object, text)
        elif text.lower() not in EMPTY and key in (TEXT_KEY, "UserComment"):
            yield key, partial(parameters.from_text, text)
    if "seed" in {key.lower() for key in texts}:  # Easy Diffusion: a text for each setting
        yield "seed", partial(read_keyed, texts)
    if _is_object(graph := texts.get("prompt", "")):
        yield "prompt", partial(_object, graph)
    for key in ("XML:com.adobe.xmp", "xmp"):
        if "UserComment" in (text := texts.get(key, "")):
            yield key, partial(_draw_things, text)


def _ours(text: str) -> Metadata:
    return Metadata.from_json(parse_json(text))


def _object(text: str) -> Metadata:
    return from_object(load_object(text))


def from_object(values: Mapping[str, Any]) -> Metadata:
    """Read the JSON object of any tool. Raises InputError."""
    if isinstance(inner := values.get("sui_image_params"), dict):  # SwarmUI
        return read_keyed(inner)
    if any(isinstance(node, dict) and "class_type" in node for node in values.values()):
        return read_graph(values)
    graph = values.get("prompt")
    if isinstance(graph, str) and _is_object(graph):  # ComfyUI's two texts in one
        graph = load_object(graph)
    if isinstance(graph, dict):
        return read_graph(graph)
    if isinstance(image := values.get("image"), dict) and "app_id" in values:
        return _by_sd_parsers({"sd-metadata": json.dumps({**values, "image": image})})
    return read_keyed(values)


def _is_object(text: str) -> bool:
    return text.lstrip()[:1] == "{"


def _novelai(texts: Mapping[str, str]) -> Metadata:
    """Read NovelAI's JSON, which has the prompt beside it, or inside."""
    values = dict(load_object(texts["Comment"]))
    for key, name in (("v4_prompt", "prompt"), ("v4_negative_prompt", "uc")):
        inner = values.pop(key, None)
        caption = inner.get("caption") if isinstance(inner, dict) else None
        if isinstance(caption, dict):
            values.setdefault(name, caption.get("base_caption"))
    if texts.get("Description", "").strip():
        values["prompt"] = texts["Description"].strip()
    if source := NOVELAI_SOURCE.fullmatch(texts.get("Source", "")[:200]):
        values |= {"base_model": source[1], "model_hash": source[2]}
    return read_keyed(values)


def _draw_things(xmp: str) -> Metadata:
    """Read Draw Things' JSON inside XMP."""
    text = html.unescape(xmp[xmp.index("UserComment") :])
    text = text[text.index("{") : text.rindex("}") + 1]
    values = dict(load_object(text))
    return read_keyed({"prompt": values.pop("c", None), **values})


def _by_sd_parsers(texts: Mapping[str, str]) -> Metadata:
    """Read an old format of InvokeAI. Raises InputError."""
    from sd_parsers.exceptions import ParserError
    from sd_parsers.parsers import InvokeAIParser

    texts = {key: " ".join(text[:OLD_MAX].split()) for key, text in texts.items()}
    try:
        found = InvokeAIParser().parse(texts)
        [sampler, *_] = found.samplers
    except (ParserError, ValueError) as error:
        raise InputError("not as InvokeAI writes it") from error
    values = {
        **found.metadata,
        **sampler.parameters,
        MODEL: None if sampler.model is None else sampler.model.name,
        "model_hash": None if sampler.model is None else sampler.model.hash,
        "sampler": sampler.name,
        "prompt": ", ".join(prompt.value for prompt in sampler.prompts),
        "negative_prompt": ", ".join(prompt.value for prompt in sampler.negative_prompts),
    }
    return read_keyed({key: value for key, value in values.items() if name_of(key) is not None})
