"""Muon (Jordan et al., 2024, kellerjordan.github.io/posts/muon): momentum whose matrix is made
orthogonal before each step, for the hidden matrices and convolutions; AdamW for everything else.

torch.optim.Muon takes no convolutions and multiplies in bfloat16, which a CPU without AVX-512 does
a hundred times slower than float32; hence this one, in float32.
"""

from __future__ import annotations

import math
from typing import Any

import torch

from train.sharding import shard_like, whole

State = dict[str, Any]


class Muon(torch.optim.Optimizer):
    """Both rules under one learning rate: orthogonal updates are scaled to the root mean square of
    AdamW's (Liu et al., arXiv 2502.16982, §2.2)."""

    def __init__(
        self,
        network: torch.nn.Module,
        lr: float,
        *,
        momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.01,
    ) -> None:
        hidden = hidden_matrices(network)
        others = [p for p in network.parameters() if all(p is not matrix for matrix in hidden)]
        groups: list[dict[str, Any]] = [
            {"params": hidden, "orthogonal": True},
            {"params": others, "orthogonal": False},
        ]
        super().__init__(
            [group for group in groups if group["params"]],
            {"lr": lr, "momentum": momentum, "betas": betas, "weight_decay": weight_decay},
        )

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        for group in self.param_groups:
            rule = self._orthogonal if group["orthogonal"] else self._adamw
            for parameter in group["params"]:
                if parameter.grad is not None:
                    parameter.mul_(1 - group["lr"] * group["weight_decay"])
                    rule(parameter, parameter.grad, self.state[parameter], group)

    def _orthogonal(
        self, parameter: torch.Tensor, gradient: torch.Tensor, state: State, group: State
    ) -> None:
        if not state:
            state["momentum"] = torch.zeros_like(gradient)
        state["momentum"].lerp_(gradient, 1 - group["momentum"])
        update = gradient.lerp(state["momentum"], group["momentum"])  # Nesterov
        matrix = whole(update).reshape(len(update), -1)
        scale = 0.2 * math.sqrt(max(matrix.shape))
        step = shard_like(orthogonalise(matrix).view(parameter.shape), parameter)
        parameter.sub_(step, alpha=group["lr"] * scale)

    def _adamw(
        self, parameter: torch.Tensor, gradient: torch.Tensor, state: State, group: State
    ) -> None:
        if not state:
            state["step"] = torch.zeros(())
            state["mean"], state["square"] = torch.zeros_like(gradient), torch.zeros_like(gradient)
        state["step"] += 1
        first, second = group["betas"]
        state["mean"].lerp_(gradient, 1 - first)
        state["square"].mul_(second).addcmul_(gradient, gradient, value=1 - second)
        step = state["step"].item()
        root = (state["square"] / (1 - second**step)).sqrt_().add_(1e-8)
        parameter.addcdiv_(state["mean"], root, value=-group["lr"] / (1 - first**step))


def hidden_matrices(network: torch.nn.Module) -> list[torch.Tensor]:
    """Weights of linear layers and convolutions, but of those that touch pixels or latents (fewer
    than 16 inputs or outputs); embedding tables are none of them."""
    return [
        module.weight
        for module in network.modules()
        if isinstance(module, torch.nn.Linear | torch.nn.Conv2d)
        and module.weight.requires_grad
        and min(module.weight.shape[:2]) >= 16
    ]


def orthogonalise(matrix: torch.Tensor, iterations: int = 5) -> torch.Tensor:
    """About U Vᵀ of `matrix` (rows, columns) = U S Vᵀ, by the quintic Newton–Schulz iteration whose
    constants push small singular values up fast; all end between 0.7 and 1.2.

    The iteration multiplies X by polynomials of X Xᵀ: they are gathered on that smaller matrix and
    applied once, three times as fast for 128 × 1152. That needs float32; bfloat16 would not do."""
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.float().T if tall else matrix.float()
    x = x / (x.norm() + 1e-7)
    gram = x @ x.T  # small: every further product is of this size
    product: torch.Tensor | None = None
    for _ in range(iterations):
        factor = torch.addmm(gram, gram, gram, beta=-4.7750, alpha=2.0315)
        factor.diagonal().add_(3.4445)
        product = factor if product is None else factor @ product
        gram = factor @ gram @ factor  # polynomials of one matrix commute
    assert product is not None
    x = product @ x
    return (x.T if tall else x).to(matrix.dtype)
