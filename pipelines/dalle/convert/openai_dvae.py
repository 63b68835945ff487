"""OpenAI's discrete VAE, the one part of DALL·E that was published
(https://github.com/openai/DALL-E): two pickled networks, encoder.pkl and decoder.pkl."""

import re
from collections.abc import Mapping
from pathlib import Path

import torch

from pipelines.checkpoints.pickles import read_network
from pipelines.dalle.convert.recipe import Plan, Rows, shape_of
from pipelines.dalle.convert.writing import build, write_network
from pipelines.dalle.dvae import DvaeConfig, TowerConfig

GRID = 32  # codes in a row of the images that it was trained on
FILES = ("encoder.pkl", "decoder.pkl")


def convert(folder: Path, dest: Path) -> None:
    """Convert a folder with both files into one that `load_dvae` reads.

    Raises WeightsError if something is missing or does not fit.
    """
    source: dict[str, torch.Tensor] = {}
    for name in FILES:
        part = name.removesuffix(".pkl")
        source |= {f"{part}.{key}": value for key, value in read_network(folder / name).items()}
    config = read_config(source, folder)
    write_network(dest, config, plan(config), source, folder)


def read_config(source: Mapping[str, torch.Tensor], folder: Path) -> DvaeConfig:
    """Derive the config from the shapes of both networks. Raises WeightsError if they do not
    determine it."""
    _, _, first_kernel, _ = shape_of(source, folder, "encoder.blocks.input.w", 4)
    code_width, vocabulary, _, _ = shape_of(source, folder, "decoder.blocks.input.w", 4)
    encoder, decoder = _tower(source, folder, "encoder"), _tower(source, folder, "decoder")
    return DvaeConfig(
        vocabulary=vocabulary,
        size=GRID * encoder.factor,
        code_width=code_width,
        first_kernel=first_kernel,
        encoder=encoder,
        decoder=decoder,
    )


def _tower(source: Mapping[str, torch.Tensor], folder: Path, part: str) -> TowerConfig:
    """Derive the widths of one half from the last convolution of the first block of each group."""
    pattern = re.compile(rf"{part}\.blocks\.group_(\d+)\.block_(\d+)\.res_path\.conv_4\.w")
    found = {
        (int(match[1]), int(match[2])): shape_of(source, folder, key, 4)[0]
        for key in source
        if (match := pattern.fullmatch(key)) is not None
    }
    groups = sorted({group for group, _ in found})
    widths = tuple(found.get((group, 1), 0) for group in groups)
    blocks = max((block for _, block in found), default=1)
    return TowerConfig(widths=widths if part == "encoder" else widths[::-1], blocks=blocks)


def plan(config: DvaeConfig) -> Plan:
    """Plan our network from theirs: it has the same parts, with other names for their numbers."""
    short = {".weight": ".w", ".bias": ".b"}
    recipe = {}
    for key, value in build(config).state_dict().items():
        stem, dot, end = key.rpartition(".")
        recipe[key] = (Rows(stem + short[dot + end], 0, value.shape[0]),)
    return Plan(recipe)
