"""Models of the true architectures with few channels and random weights, in both file layouts."""

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from pipelines.checkpoints import single_file
from pipelines.checkpoints.single_file import LAYOUTS, Layout
from pipelines.diffusion.networks import openai_tokenizer

VAE = {"block_out_channels": [8, 8, 16, 16], "norm_num_groups": 8, "sample_size": 64}
TEXT = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2, "projection_dim": 16}
TEXT_2 = {**TEXT, "hidden_size": 24, "projection_dim": 24, "num_hidden_layers": 3}
FOUR_BLOCKS = {"block_out_channels": [8, 16, 16, 16], "norm_num_groups": 8, "sample_size": 8}
REDUCED: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    "sd1": {
        "unet": {**FOUR_BLOCKS, "cross_attention_dim": 16},
        "vae": VAE,
        "text_encoder": {**TEXT, "num_hidden_layers": 3},
    },
    "sd2": {
        "unet": {**FOUR_BLOCKS, "cross_attention_dim": 16, "attention_head_dim": [2, 2, 4, 4]},
        "vae": VAE,
        "text_encoder": {**TEXT, "num_hidden_layers": 3},
    },
    "sdxl": {
        "unet": {
            "block_out_channels": [8, 16, 16],
            "norm_num_groups": 8,
            "sample_size": 8,
            "cross_attention_dim": 40,
            "attention_head_dim": [2, 2, 4],
            "transformer_layers_per_block": [1, 1, 2],
            "addition_time_embed_dim": 8,
            "projection_class_embeddings_input_dim": 6 * 8 + 24,
        },
        "vae": VAE,
        "text_encoder": {**TEXT, "num_hidden_layers": 3},
        "text_encoder_2": TEXT_2,
    },
}
CLASSES = {
    "unet": UNet2DConditionModel,
    "vae": AutoencoderKL,
    "text_encoder": CLIPTextModel,
    "text_encoder_2": CLIPTextModelWithProjection,
}


def layout_named(name: str) -> Layout:
    return next(layout for layout in LAYOUTS if layout.name == name)


def write_configs(name: str, folder: Path) -> Path:
    """The configs of a layout with fewer channels, but for those as many blocks as the true one."""
    shutil.copytree(layout_named(name).configs, folder)
    for part, changes in REDUCED[name].items():
        path = folder / part / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return folder


def build(configs: Path) -> dict[str, Any]:
    """The networks of a folder of configs, with random weights."""
    networks = {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for path in sorted(configs.glob("*/config.json")):
            config = json.loads(path.read_text())
            kind = CLASSES[path.parent.name]
            if kind in (CLIPTextModel, CLIPTextModelWithProjection):
                networks[path.parent.name] = kind(CLIPTextConfig.from_dict(config)).eval()
            else:
                networks[path.parent.name] = kind.from_config(config).eval()
    return networks


def write_folder(
    configs: Path,
    networks: Mapping[str, Any],
    folder: Path,
    write_tokenizer: Callable[..., Any] | None = None,
) -> Path:
    """A diffusers folder that the stock pipelines load too; the tokenizer is by default CLIP's."""
    shutil.copytree(configs, folder)
    for part, network in networks.items():
        network.save_pretrained(folder / part)
    for path in configs.glob("tokenizer*/tokenizer_config.json"):
        config = json.loads(path.read_text())
        if write_tokenizer is None:
            openai_tokenizer(config).save_pretrained(folder / path.parent.name)
        else:
            write_tokenizer(folder / path.parent.name, config["pad_token"])
    return folder


def write_single_file(
    name: str, configs: Path, networks: Mapping[str, Any], path: Path, **extra: torch.Tensor
) -> Path:
    """The same weights in one file in the original layout."""
    layout, state = layout_named(name), dict(extra)
    stacked: dict[str, dict[int, torch.Tensor]] = {}
    for part, network in networks.items():
        config = json.loads((configs / part / "config.json").read_text())
        weights = network.state_dict()
        pieces = single_file.pieces(layout, part, config, weights)
        for key, value in weights.items():
            piece = pieces[key]
            if piece.third is not None:
                stacked.setdefault(piece.key, {})[piece.third] = value
            elif ".attn_1." in piece.key and value.ndim == 2:
                state[piece.key] = value[:, :, None, None].clone()  # a convolution there
            else:
                state[piece.key] = (value.T if piece.transposed else value).contiguous()
    for key, thirds in stacked.items():
        state[key] = torch.cat([thirds[i] for i in range(3)])
    save_file(state, path)
    return path
