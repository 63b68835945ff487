"""The two towers of a model: pixels and token ids to vectors of length 1."""

import torch
from torch.nn.functional import normalize
from transformers import AltCLIPModel, ChineseCLIPModel, CLIPModel, Siglip2Model

from rerank.model.weights import Model


def image_features(model: Model, pixels: torch.Tensor) -> torch.Tensor:
    """(B, 3, H, W) normalised pixels → (B, D)."""
    if isinstance(model, CLIPModel):
        features = model.visual_projection(class_token(model, pixels))
    elif isinstance(model, Siglip2Model):
        features = _of_any_shape(model, pixels)
    else:
        features = model.get_image_features(pixels).pooler_output
    return normalize(features, dim=-1, eps=0)


def _of_any_shape(model: Siglip2Model, pixels: torch.Tensor) -> torch.Tensor:
    """(B, 3, H, W), whose sides are multiples of the patch → (B, D). NaFlex (Dehghani et al., arXiv
    2307.06304; Tschannen et al., arXiv 2502.14786)."""
    size = int(model.config.vision_config.patch_size)
    patches = pixels.unflatten(3, (-1, size)).unflatten(2, (-1, size))  # (B, 3, h, P, w, P)
    shape = torch.tensor([[patches.shape[2], patches.shape[4]]] * len(pixels))  # on the CPU: read
    patches = patches.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)  # (B, h w, P P 3)
    mask = torch.ones(patches.shape[:2], dtype=torch.int32, device=pixels.device)
    return model.get_image_features(patches, mask, shape).pooler_output


def text_features(model: Model, ids: torch.Tensor) -> torch.Tensor:
    """(B, L) token ids → (B, D). BERT and its kin see what fills a row, unless it is masked."""
    mask = None
    if isinstance(model, AltCLIPModel | ChineseCLIPModel):
        mask = (ids != model.config.text_config.pad_token_id).long()
    features = model.get_text_features(ids, attention_mask=mask).pooler_output
    return normalize(features, dim=-1, eps=0)


def class_token(model: CLIPModel, pixels: torch.Tensor) -> torch.Tensor:
    """(B, 3, H, W) → (B, W) of the vision tower.

    Only the first token is read in the end, so the last layer computes no other: a sixth less
    work in a network of 6 layers. Its keys and values are not made either, since
    q · (K x) = (qᵀK) · x, and the sum of the weighted V x is V times the weighted sum of x.
    """
    tower = model.vision_model
    hidden = tower.pre_layrnorm(tower.embeddings(pixels))  # (B, T, W)
    *layers, last = tower.encoder.layers
    for layer in layers:
        hidden = layer(hidden, None)
    attention, normed = last.self_attn, last.layer_norm1(hidden)

    def per_head(values: torch.Tensor) -> torch.Tensor:
        return values.unflatten(-1, (attention.num_heads, -1))  # (…, W) → (…, H, W / H)

    queries = per_head(attention.q_proj(normed[:, 0]))
    keys, values = (per_head(each.weight.T) for each in (attention.k_proj, attention.v_proj))
    queries = torch.einsum("bhd,whd->bhw", queries, keys)  # K's bias is the same for each token
    weights = (attention.scale * queries @ normed.mT).softmax(-1)  # (B, H, T)
    mixed = torch.einsum("bhw,whd->bhd", weights @ normed, values).flatten(1)
    token = hidden[:, 0] + attention.out_proj(mixed + attention.v_proj.bias)
    token = token + last.mlp(last.layer_norm2(token))
    return tower.post_layernorm(token)
