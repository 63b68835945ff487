"""The encoder of DALL·E mini: a prompt becomes hidden states that the transformer reads by
cross-attention.

Lewis et al., BART (arXiv 1910.13461), with the gated MLPs and extra norms of Dayma et al., DALL·E
Mini. It is made of the same layers as the transformer.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

import torch
from torch import nn

from pipelines.dalle.layers import Activation, Layer


@dataclass(frozen=True)
class BartConfig:
    """The defaults are those of DALL·E mega. Raises ValueError for what does not fit together."""

    vocabulary: int = 50272
    length: int = 64  # of the longest prompt, in tokens
    width: int = 2048
    heads: int = 32
    layers: int = 24
    mlp_width: int = 4096

    def __post_init__(self) -> None:
        if self.heads < 1 or self.width % self.heads:
            raise ValueError(f"width {self.width} is no multiple of {self.heads} heads")


class BartEncoder(nn.Module):
    """Tokens to hidden states; each sees all."""

    def __init__(self, config: BartConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocabulary, config.width)
        self.position = nn.Embedding(config.length, config.width)
        self.embedding_norm = nn.LayerNorm(config.width)
        self.layers = nn.ModuleList(
            Layer(
                config.width,
                config.heads,
                config.mlp_width,
                Activation.GELU,
                extra_norms=True,
                gated_mlp=True,
            )
            for _ in range(config.layers)
        )
        self.norm = nn.LayerNorm(config.width)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Encode tokens (B, n) int64, without padding, as (B, n, C)."""
        n = tokens.shape[1]
        x = self.embedding_norm(self.embedding(tokens) + self.position.weight[:n])
        shown = torch.ones(n, n, dtype=torch.bool, device=tokens.device)
        for layer in cast(Iterator[Layer], iter(self.layers)):
            x = layer(x, shown, None, "sdpa")
        return self.norm(x)
