"""VQGANs of the taming-transformers layout, which most public models draw their codes with."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace

import torch

from pipelines.convert.recipe import Plan, Rows
from pipelines.convert.writing import build
from pipelines.vqgan import VqganConfig

# What trained the network, and is no part of it.
TRAINING = ("loss.", "model_ema.")


def read_config(
    config: VqganConfig, source: Mapping[str, torch.Tensor], codebook: str
) -> VqganConfig:
    """`config` with the widths and levels that the shapes of a download's decoder tell.

    `codebook` is the key of the codes. A download that lacks what tells them gives a config that
    will not fit, so that its keys are named then.
    """
    shapes = {key: tuple(value.shape) for key, value in source.items()}
    vocabulary, code_width = shapes.get(codebook, (config.vocabulary, config.code_width))[:2]
    into = shapes.get("decoder.conv_in.weight", (0, config.z_channels))
    levels = _numbers(r"decoder\.up\.(\d+)\.", shapes) or range(len(config.multipliers))
    widths = [
        shapes.get(f"decoder.up.{n}.block.0.conv1.weight", (config.width,))[0] for n in levels
    ]
    blocks = _numbers(r"decoder\.up\.0\.block\.(\d+)\.", shapes)
    return replace(
        config,
        vocabulary=vocabulary,
        code_width=code_width,
        z_channels=into[1],
        width=widths[0],
        multipliers=tuple(width // max(1, widths[0]) for width in widths),
        blocks=len(blocks) - 1 if blocks else config.blocks,
        attention_levels=tuple(_numbers(r"decoder\.up\.(\d+)\.attn\.", shapes)),
    )


def plan(
    config: VqganConfig, source: Iterable[str], codebook: str, code_logits: str | None
) -> Plan:
    """How our VQGAN is made of a download with these keys for its codes and their logits."""
    names = {"codebook.weight": codebook}
    if code_logits is not None:
        names |= {f"code_logits.{end}": f"{code_logits}.{end}" for end in ("weight", "bias")}
    recipe = {
        key: (Rows(names.get(key, key), 0, value.shape[0]),)
        for key, value in build(config).state_dict().items()
    }
    return Plan(recipe, ignored=frozenset(key for key in source if key.startswith(TRAINING)))


def _numbers(pattern: str, keys: Iterable[str]) -> list[int]:
    """The different numbers in the first group of a pattern, in order."""
    found = (re.match(pattern, key) for key in keys)
    return sorted({int(match[1]) for match in found if match is not None})
