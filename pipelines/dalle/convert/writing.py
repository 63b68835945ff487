"""The folder that a checkpoint becomes."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from pipelines.dalle.bart import BartConfig, BartEncoder
from pipelines.dalle.convert.recipe import Plan, carry_out
from pipelines.dalle.dvae import DiscreteVae, DvaeConfig
from pipelines.dalle.spec import DALLE_CLASS
from pipelines.dalle.transformer import Transformer, TransformerConfig
from pipelines.dalle.vqgan import Vqgan, VqganConfig

Config = BartConfig | DvaeConfig | TransformerConfig | VqganConfig


def write_network(
    folder: Path, config: Config, plan: Plan, source: Mapping[str, torch.Tensor], path: Path
) -> None:
    """Write one network of ours, made of the tensors `source` of the file at `path`.

    Raises WeightsError if they do not fit each other; see `carry_out`.
    """
    network = build(config)
    tensors = dict(carry_out(plan, source, path, network))
    folder.mkdir(parents=True, exist_ok=True)
    entries = {"_class_name": type(network).__name__, **asdict(config)}
    (folder / "config.json").write_text(json.dumps(entries, indent=2) + "\n", encoding="utf-8")
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def build(config: Config) -> torch.nn.Module:
    """Build the network of a config, without weights."""
    with torch.device("meta"):
        if isinstance(config, BartConfig):
            return BartEncoder(config)
        if isinstance(config, DvaeConfig):
            return DiscreteVae(config)
        if isinstance(config, VqganConfig):
            return Vqgan(config)
        return Transformer(config)


def write_index(folder: Path, *, licence: str, draws: str, defaults: Mapping[str, Any]) -> None:
    """Write what makes a folder a model: what it is, and how its authors advise to draw with it."""
    index = {
        "_class_name": DALLE_CLASS,
        "licence": licence,
        "draws": draws,
        "defaults": dict(defaults),
    }
    (folder / "model_index.json").write_text(
        json.dumps(index, indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
    )
