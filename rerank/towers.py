"""The two towers of a model: pixels and token ids to vectors of length 1."""

import torch
from torch.nn.functional import normalize, scaled_dot_product_attention
from transformers import CLIPModel, SiglipModel


def image_features(model: CLIPModel | SiglipModel, pixels: torch.Tensor) -> torch.Tensor:
    """(B, 3, H, W) normalised pixels → (B, D)."""
    if isinstance(model, CLIPModel):
        features = model.visual_projection(class_token(model, pixels))
    else:
        features = model.get_image_features(pixels).pooler_output
    return normalize(features, dim=-1, eps=0)


def text_features(model: CLIPModel | SiglipModel, ids: torch.Tensor) -> torch.Tensor:
    """(B, L) token ids → (B, D)."""
    return normalize(model.get_text_features(ids).pooler_output, dim=-1, eps=0)


def class_token(model: CLIPModel, pixels: torch.Tensor) -> torch.Tensor:
    """(B, 3, H, W) → (B, W) of the vision tower.

    Only the first token is read in the end, so the last layer computes no other: a twelfth less
    work in the network for 12 layers, a seventh for 6.
    """
    tower = model.vision_model
    hidden = tower.pre_layrnorm(tower.embeddings(pixels))  # (B, T, W)
    *layers, last = tower.encoder.layers
    for layer in layers:
        hidden = layer(hidden, None)
    attention, normed = last.self_attn, last.layer_norm1(hidden)

    def heads(values: torch.Tensor) -> torch.Tensor:
        return values.unflatten(-1, (attention.num_heads, -1)).transpose(1, 2)  # (B, H, T, W / H)

    mixed = scaled_dot_product_attention(
        heads(attention.q_proj(normed[:, :1])),
        heads(attention.k_proj(normed)),
        heads(attention.v_proj(normed)),
        scale=attention.scale,
    )
    token = hidden[:, :1] + attention.out_proj(mixed.transpose(1, 2).flatten(2))
    token = token + last.mlp(last.layer_norm2(token))
    return tower.post_layernorm(token[:, 0])
