"""The layers of the transformer: attention to itself, to a context, and an MLP."""

from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional

from pipelines.dalle.attention import attend
from pipelines.dalle.rotary import rotate

FLOAT16_MAX = torch.finfo(torch.float16).max


class Activation(StrEnum):
    """What is between the two layers of an MLP."""

    GELU = "gelu"
    GELU_TANH = "gelu_tanh"  # its approximation by tanh
    SILU = "silu"


@dataclass(frozen=True)
class Context:
    """What cross-attention reads."""

    states: torch.Tensor  # (B, S, X)
    present: torch.Tensor  # (B, S) bool, False where there is nothing to read


class ContextKeys(NamedTuple):
    """A context as one layer sees it."""

    k: torch.Tensor  # (B, H, S, c)
    v: torch.Tensor
    shown: torch.Tensor  # (B, 1, 1, S) bool


class Layer(nn.Module):
    """Attention and an MLP, each behind a layer norm and added to what was there.

    Between them there may be attention to a context of `context_width`.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        mlp_width: int | None = None,
        activation: Activation = Activation.GELU_TANH,
        *,
        extra_norms: bool = False,
        gated_mlp: bool = False,
        rms_norm: bool = False,
        context_width: int | None = None,
    ) -> None:
        super().__init__()
        inside = 4 * width if mlp_width is None else mlp_width
        self.norm_1 = norm_layer(width, rms_norm)
        self.attention = SelfAttention(width, heads)
        self.post_1 = norm_layer(width, rms_norm) if extra_norms else nn.Identity()
        if context_width is not None:
            self.norm_cross = norm_layer(width, rms_norm)
            self.cross_attention = CrossAttention(width, context_width, heads)
            self.post_cross = norm_layer(width, rms_norm) if extra_norms else nn.Identity()
        self.norm_2 = norm_layer(width, rms_norm)
        self.mlp: Mlp | GatedMlp
        if gated_mlp:
            inner_norm = norm_layer(inside, rms_norm) if extra_norms else nn.Identity()
            self.mlp = GatedMlp(width, inside, activation, inner_norm)
        else:
            self.mlp = Mlp(width, inside, activation)
        self.post_2 = (
            norm_layer(width, rms_norm) if extra_norms and not gated_mlp else nn.Identity()
        )

    def forward(
        self,
        x: torch.Tensor,
        shown: torch.Tensor,
        context: Context | None,
        kernel: str,
        rotations: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Run the layer on x (B, L, C), with shown (L, L) bool and rotations (2, L, c / 2) for
        rotary positions."""
        q, k, v = self.attention.project(self.norm_1(x), rotations)
        return self.finish(x, attend(q, k, v, shown, kernel), self.project_context(context))

    def project_context(self, context: Context | None) -> ContextKeys | None:
        """Return the keys and values of the context for cross-attention, if there is one."""
        return None if context is None else self.cross_attention.project(context)

    def finish(
        self, x: torch.Tensor, attended: torch.Tensor, context: ContextKeys | None
    ) -> torch.Tensor:
        """Apply all that follows self-attention to x (B, L, C) and its output (B, H, L, c).

        The context may be of fewer rows: it is then shared by as many rows of x as it takes.
        """
        x = x + self.post_1(self.attention.join(attended))
        if context is not None:
            by_prompt = self.norm_cross(x).view(len(context.k), -1, x.shape[-1])
            crossed = self.cross_attention(by_prompt, context).view(x.shape)
            x = x + self.post_cross(crossed)
        return x + self.post_2(self.mlp(self.norm_2(x)))


class SelfAttention(nn.Module):
    """The projections around attention; `pipelines.dalle.attention` has what is between."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def project(self, x: torch.Tensor, rotations: torch.Tensor | None = None) -> torch.Tensor:
        """Project (B, L, C) to queries, keys and values (3, B, H, L, c); the first two are rotated
        by (2, L, c / 2) where positions are rotary."""
        B, L, _ = x.shape
        qkv = self.qkv(x).view(B, L, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        return qkv if rotations is None else torch.cat([rotate(qkv[:2], rotations), qkv[2:]])

    def join(self, x: torch.Tensor) -> torch.Tensor:
        """Join heads (B, H, L, c) to (B, L, C)."""
        x = self.out(x.transpose(1, 2).flatten(2))
        if x.dtype == torch.float16:  # large networks go beyond it, and a norm behind brings back
            x = x.clamp(min=-FLOAT16_MAX, max=FLOAT16_MAX)
        return x


class CrossAttention(nn.Module):
    """Attention of all positions to other hidden states (B, S, X)."""

    def __init__(self, width: int, context_width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q = nn.Linear(width, width)
        self.kv = nn.Linear(context_width, 2 * width)
        self.out = nn.Linear(width, width)

    def project(self, context: Context) -> ContextKeys:
        """Project the context to its keys and values."""
        B, S, _ = context.states.shape
        k, v = self.kv(context.states).view(B, S, 2, self.heads, -1).permute(2, 0, 3, 1, 4)
        return ContextKeys(k, v, context.present[:, None, None])

    def forward(self, x: torch.Tensor, context: ContextKeys) -> torch.Tensor:
        B, L, _ = x.shape
        q = self.q(x).view(B, L, self.heads, -1).transpose(1, 2)
        k, v, shown = context
        attended = functional.scaled_dot_product_attention(q, k, v, attn_mask=shown)
        return self.out(attended.transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    """Two layers, the one between them of another width."""

    def __init__(
        self, width: int, inside: int, activation: Activation, outputs: int | None = None
    ) -> None:
        super().__init__()
        self.activation = activation
        self.up = nn.Linear(width, inside)
        self.down = nn.Linear(inside, width if outputs is None else outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down(activate(self.activation, self.up(x)))


class GatedMlp(nn.Module):
    """A gated linear unit (Shazeer, arXiv 2002.05202), which may have a norm inside (Shleifer et
    al., NormFormer, arXiv 2110.09456)."""

    def __init__(self, width: int, inside: int, activation: Activation, norm: nn.Module) -> None:
        super().__init__()
        self.activation = activation
        self.gate = nn.Linear(width, inside)
        self.up = nn.Linear(width, inside)
        self.norm = norm
        self.down = nn.Linear(inside, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down(self.norm(activate(self.activation, self.gate(x)) * self.up(x)))


def activate(activation: Activation, x: torch.Tensor) -> torch.Tensor:
    """Apply the activation to each value."""
    if activation == Activation.SILU:
        return functional.silu(x)
    return functional.gelu(x, approximate="tanh" if activation == Activation.GELU_TANH else "none")


def norm_layer(width: int, rms: bool) -> nn.LayerNorm | nn.RMSNorm:
    return nn.RMSNorm(width, eps=1e-5) if rms else nn.LayerNorm(width)
