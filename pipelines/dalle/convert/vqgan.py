"""VQGANs of the taming-transformers layout, which most public models draw their codes with."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

import torch

from pipelines.dalle.convert.recipe import Plan, Rows, refuse, shape_of
from pipelines.dalle.convert.writing import build
from pipelines.dalle.vqgan import VqganConfig

# What trained the network, and is no part of it.
TRAINING = ("loss.", "model_ema.")


def read_config(
    config: VqganConfig, source: Mapping[str, torch.Tensor], path: Path, codebook: str
) -> VqganConfig:
    """Complete `config` with the widths and levels that the shapes of a download's decoder
    determine.

    `codebook` is the key of the codes. Raises WeightsError naming what does not tell them.
    """
    vocabulary, code_width = shape_of(source, path, codebook, 2)
    _, z_channels, _, _ = shape_of(source, path, "decoder.conv_in.weight", 4)
    levels = range(len(_numbers(r"decoder\.up\.(\d+)\.", source)))
    firsts = (f"decoder.up.{level}.block.0.conv1.weight" for level in levels)
    widths = [shape_of(source, path, key, 4)[0] for key in firsts]
    if not widths:
        refuse(path, "is missing keys", ["decoder.up.0.block.0.conv1.weight"])
    return replace(
        config,
        vocabulary=vocabulary,
        code_width=code_width,
        z_channels=z_channels,
        width=widths[0],
        multipliers=tuple(width // widths[0] for width in widths),
        blocks=len(_numbers(r"decoder\.up\.0\.block\.(\d+)\.", source)) - 1,
        attention_levels=tuple(_numbers(r"decoder\.up\.(\d+)\.attn\.", source)),
    )


def plan(
    config: VqganConfig, source: Iterable[str], codebook: str, code_logits: str | None
) -> Plan:
    """Plan our VQGAN from a download with these keys for its codes and their logits."""
    names = {"codebook.weight": codebook}
    if code_logits is not None:
        names |= {f"code_logits.{end}": f"{code_logits}.{end}" for end in ("weight", "bias")}
    recipe = {
        key: (Rows(names.get(key, key), 0, value.shape[0]),)
        for key, value in build(config).state_dict().items()
    }
    return Plan(recipe, ignored=frozenset(key for key in source if key.startswith(TRAINING)))


def _numbers(pattern: str, keys: Iterable[str]) -> list[int]:
    """Collect the different numbers in the first group of a pattern, in order."""
    found = (re.match(pattern, key) for key in keys)
    return sorted({int(match[1]) for match in found if match is not None})
