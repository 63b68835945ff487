"""The embedding of an image as tokens that a UNet reads beside those of a text."""

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import nn
from torch.nn import functional


class ImageTokens(ModelMixin, ConfigMixin):
    """Projects an embedding into tokens as wide as a UNet's cross-attention.

    Ramesh et al., arXiv 2204.06125, §2.1. An embedding of zeros stands for none.
    """

    @register_to_config
    def __init__(
        self, embedding_dim: int, cross_attention_dim: int, tokens: int = 8, hidden_dim: int = 192
    ) -> None:
        super().__init__()
        self.inner = nn.Linear(embedding_dim, hidden_dim)
        self.out = nn.Linear(hidden_dim, tokens * cross_attention_dim)
        self.norm = nn.LayerNorm(cross_attention_dim)

    def forward(self, embeddings: torch.Tensor) -> torch.Tensor:
        """Return tokens (N, tokens, cross_attention_dim) of embeddings (N, D) of any length."""
        D = self.config.embedding_dim
        x = functional.normalize(embeddings, dim=-1) * D**0.5
        x = self.out(functional.gelu(self.inner(x)))
        return self.norm(x.unflatten(1, (self.config.tokens, -1)))
