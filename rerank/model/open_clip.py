"""Checkpoints of OpenCLIP, read as the transformers model that computes the same.

OpenCLIP (github.com/mlfoundations/open_clip) describes a model in open_clip_config.json and calls
its weights as OpenAI's code did; the projections to queries, keys and values are stacked there.
"""

from collections.abc import Mapping
from typing import Any

import torch
from transformers import CLIPConfig

from pipelines.checkpoints.errors import WeightsError

CONFIG, WEIGHTS = "open_clip_config.json", "open_clip_model.safetensors"
HEAD_WIDTH = 64  # of the vision tower, where its config is silent
MLP_RATIO = 4.0
HIGHEST_ID = 2  # as eos_token_id: "the highest", which is where OpenCLIP reads a text's feature

# What a config may say; anything else builds a network that CLIP's code does not compute.
VISION = {"image_size", "layers", "width", "patch_size", "head_width", "mlp_ratio"}
TEXT = {"context_length", "vocab_size", "width", "heads", "layers", "mlp_ratio"}
MODEL = {"embed_dim", "vision_cfg", "text_cfg", "quick_gelu"}

_NAMES = {
    "visual.class_embedding": "vision_model.embeddings.class_embedding",
    "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "visual.ln_pre.weight": "vision_model.pre_layrnorm.weight",
    "visual.ln_pre.bias": "vision_model.pre_layrnorm.bias",
    "visual.ln_post.weight": "vision_model.post_layernorm.weight",
    "visual.ln_post.bias": "vision_model.post_layernorm.bias",
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "ln_final.weight": "text_model.final_layer_norm.weight",
    "ln_final.bias": "text_model.final_layer_norm.bias",
    "logit_scale": "logit_scale",
}
_TRANSPOSED = {
    "visual.proj": "visual_projection.weight",
    "text_projection": "text_projection.weight",
}
_TOWERS = {
    "visual.transformer.resblocks.": "vision_model.encoder.layers.",
    "transformer.resblocks.": "text_model.encoder.layers.",
}
_IN_LAYER = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
    "attn.out_proj": "self_attn.out_proj",
}
_STACKED = ("q_proj", "k_proj", "v_proj")
_UNREAD = "attn_mask"  # a constant


def read_config(values: Mapping[str, Any], path: object) -> CLIPConfig:
    """Return the config of what open_clip_config.json describes; WeightsError if that is no
    CLIP."""
    try:
        model = values["model_cfg"]
        vision, text = model["vision_cfg"], model["text_cfg"]
        foreign = [*(model.keys() - MODEL), *(vision.keys() - VISION), *(text.keys() - TEXT)]
        if foreign or not isinstance(vision["layers"], int):
            raise WeightsError(
                f"{path}: not a plain CLIP, of which only vision transformers are read: "
                f"{', '.join(sorted(foreign)) or 'a residual network'}"
            )
        activation = "quick_gelu" if model.get("quick_gelu", False) else "gelu"
        return CLIPConfig(
            projection_dim=model["embed_dim"],
            vision_config={
                "image_size": vision["image_size"],
                "patch_size": vision["patch_size"],
                "num_hidden_layers": vision["layers"],
                "hidden_size": vision["width"],
                "num_attention_heads": vision["width"] // vision.get("head_width", HEAD_WIDTH),
                "intermediate_size": int(vision["width"] * vision.get("mlp_ratio", MLP_RATIO)),
                "hidden_act": activation,
            },
            text_config={
                "max_position_embeddings": text["context_length"],
                "vocab_size": text["vocab_size"],
                "num_hidden_layers": text["layers"],
                "hidden_size": text["width"],
                "num_attention_heads": text["heads"],
                "intermediate_size": int(text["width"] * text.get("mlp_ratio", MLP_RATIO)),
                "hidden_act": activation,
                "eos_token_id": HIGHEST_ID,
            },
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise WeightsError(f"{path}: not a configuration of OpenCLIP ({error!r})") from error


def read_preprocessing(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return what preprocessor_config.json would say. Raises KeyError, TypeError or ValueError."""
    size, said = values["model_cfg"]["vision_cfg"]["image_size"], values["preprocess_cfg"]
    modes = {"bicubic": 3, "bilinear": 2}
    if said.get("resize_mode", "shortest") != "shortest":
        raise ValueError(f"resize_mode is {said['resize_mode']}")
    return {
        "size": {"shortest_edge": size},
        "crop_size": {"height": size, "width": size},
        "resample": modes[said.get("interpolation", "bicubic")],
        "image_mean": said["mean"],
        "image_std": said["std"],
    }


def converted(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Weights under the names of transformers; those that are nobody's keep theirs."""
    weights: dict[str, torch.Tensor] = {}
    for key, value in tensors.items():
        if key in _TRANSPOSED:
            weights[_TRANSPOSED[key]] = value.T.contiguous()
        elif key != _UNREAD:
            weights.update(_layer(key, value) or {_NAMES.get(key, key): value})
    return weights


def _layer(key: str, value: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return the weights of a layer that one key holds; none if it is another key."""
    for theirs, ours in _TOWERS.items():
        if not key.startswith(theirs):
            continue
        number, _, rest = key.removeprefix(theirs).partition(".")
        if rest in ("attn.in_proj_weight", "attn.in_proj_bias"):
            kind = rest.removeprefix("attn.in_proj_")
            parts = zip(_STACKED, value.chunk(3), strict=False)
            return {
                f"{ours}{number}.self_attn.{name}.{kind}": part.contiguous() for name, part in parts
            }
        module, _, kind = rest.rpartition(".")
        if module in _IN_LAYER:
            return {f"{ours}{number}.{_IN_LAYER[module]}.{kind}": value}
    return {}
