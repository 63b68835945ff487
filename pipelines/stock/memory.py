"""Which tensors a stock pipeline loads, and which stay in float32. Loads no torch."""

from collections.abc import Mapping
from typing import Any

from pipelines.checkpoints.configs import read_config
from pipelines.checkpoints.memory import Header, all_shards
from pipelines.checkpoints.specs import Spec

# Encoders that transformers keeps partly in float32, since their MLPs leave the range of float16.
T5_CLASSES = ("T5EncoderModel", "UMT5EncoderModel")
T5_WHOLE = ".wo.weight"


def tensors(spec: Spec) -> dict[str, Header]:
    """Return what the files say of each part's weights."""
    return {part: header for part in _entries(spec) if (header := all_shards(spec.folder / part))}


def in_float32(spec: Spec) -> dict[str, tuple[str, ...]]:
    """Return how the keys end, by part, that stay in float32 where the rest is in float16."""
    classes = {part: entry[-1] for part, entry in _entries(spec).items()}
    return {part: (T5_WHOLE,) for part, name in classes.items() if name in T5_CLASSES}


def _entries(spec: Spec) -> dict[str, list[str]]:
    """Return the parts of a diffusers pipeline, with their libraries and classes."""
    return {
        part: [str(name) for name in entry]
        for part, entry in parts_of_index(read_config(spec.folder / "model_index.json")).items()
        if entry != [None, None]
    }


def parts_of_index(index: Mapping[str, Any]) -> dict[str, list[str | None]]:
    """Return the parts that a model_index.json lists: each a library and a class, or two nulls.

    Other lists are settings.
    """
    return {
        part: entry
        for part, entry in index.items()
        if isinstance(entry, list)
        and len(entry) == 2
        and (entry == [None, None] or all(isinstance(name, str) for name in entry))
    }
