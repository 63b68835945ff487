"""The changes that LoRA files make to a weight, from their small tensors.

LoRA   ΔW = B A, in convolutions with a core C between them (Hu et al., arXiv 2106.09685)
LoHa   ΔW = (B₁ A₁) ⊙ (B₂ A₂)                          (Hyeon-Woo et al., arXiv 2108.06098)
LoKr   ΔW = W₁ ⊗ W₂, each whole or a product           (Yeh et al., arXiv 2309.14859)
DoRA   W' = m (W + ΔW) / ‖W + ΔW‖                      (Liu et al., arXiv 2402.09353)
"""

from collections.abc import Mapping
from math import prod

import torch

Parts = Mapping[str, torch.Tensor]  # by role, see `lora_keys.ENDINGS`


class MisfitError(ValueError):
    """Tensors make no change of a weight's shape."""


def change_of(
    kind: str, parts: Parts, shape: tuple[int, ...]
) -> tuple[torch.Tensor | None, int | None]:
    """Return ΔW in the shape of its weight, before it is scaled, and the rank that α is divided by.

    Both are None for a change of a bias alone; the rank is where no tensor is a product. Raises
    MisfitError before anything larger than the weight is made.
    """
    if kind == "bias":
        return None, None
    if kind == "difference":
        return _fitted(parts["difference"], shape), None
    if kind == "LoRA":
        return _lora(parts, shape), len(parts["down"])
    if kind == "LoHa":
        first, second = (
            _product(
                parts[f"hada_w{i}_a"], parts[f"hada_w{i}_b"], parts.get(f"hada_t{i}"), prod(shape)
            )
            for i in (1, 2)
        )
        if first.shape != second.shape:
            raise MisfitError
        return _fitted(first * second, shape), len(parts["hada_w1_b"])
    return _lokr(parts, shape)


def with_magnitude(
    weight: torch.Tensor, change: torch.Tensor, magnitude: torch.Tensor
) -> torch.Tensor:
    """Return ΔW of DoRA: what makes of a weight (out, in, ...) one of a given magnitude.

    It is learned for each output, or, in files of LyCORIS of shape (1, in, ...), for each input.
    Raises MisfitError.
    """
    whole = weight + change
    if whole.ndim < 2:
        raise MisfitError
    out, into = whole.shape[:2]
    per_input = magnitude.ndim > 1 and magnitude.shape[0] == 1 and magnitude.numel() == into
    is_peft = magnitude.ndim == 4 and magnitude.shape[1] == out  # (1, out, 1, 1), of convolutions
    if per_input and not (is_peft and whole.ndim == 4):
        dims, size = [0, *range(2, whole.ndim)], (1, into, *[1] * (whole.ndim - 2))
    elif magnitude.numel() == out:
        dims, size = [*range(1, whole.ndim)], (out, *[1] * (whole.ndim - 1))
    else:
        raise MisfitError
    norm = whole.norm(dim=dims, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
    return whole * (magnitude.reshape(size) / norm) - weight


def _lora(parts: Parts, shape: tuple[int, ...]) -> torch.Tensor:
    up, down, mid = parts["up"], parts["down"], parts.get("mid")
    if up.ndim < 2 or down.ndim < 2:
        raise MisfitError
    if mid is None:
        up, down = up.flatten(1), down.flatten(1)
        if up.shape[1] != len(down) or len(up) * down.shape[1] != prod(shape):
            raise MisfitError
        return _fitted(up @ down, shape)
    up, down = up.flatten(1).T, down.flatten(1)
    return _fitted(_with_core(mid, up, down, prod(shape)), shape)


def _lokr(parts: Parts, shape: tuple[int, ...]) -> tuple[torch.Tensor, int | None]:
    rank = None
    factors = []
    for i in (1, 2):
        whole = parts.get(f"lokr_w{i}")
        if whole is None:
            a, b = parts[f"lokr_w{i}_a"], parts[f"lokr_w{i}_b"]
            whole = _product(a, b, parts.get(f"lokr_t{i}"), prod(shape))
            rank = len(b) if rank is None else rank
        factors.append(whole)
    first, second = factors
    if first.numel() * second.numel() != prod(shape) or first.ndim > second.ndim:
        raise MisfitError
    first = first.reshape(*first.shape, *[1] * (second.ndim - first.ndim))
    return _fitted(torch.kron(first, second.contiguous()), shape), rank


def _product(
    a: torch.Tensor, b: torch.Tensor, core: torch.Tensor | None, most: int
) -> torch.Tensor:
    """Multiply a (out, r) by b (r, in · kernel); with a core (r, r, ...) a is (r, out)."""
    if a.ndim != 2 or b.ndim < 2:
        raise MisfitError
    if core is not None:
        return _with_core(core, a, b.flatten(1), most)
    b = b.flatten(1)
    if a.shape[1] != len(b) or len(a) * b.shape[1] > most:
        raise MisfitError
    return a @ b


def _with_core(core: torch.Tensor, up: torch.Tensor, down: torch.Tensor, most: int) -> torch.Tensor:
    """Return Σ core (p, q, ...) · up (p, out) · down (q, in), as (out, in, ...)."""
    if core.ndim < 3 or core.shape[:2] != (len(up), len(down)):
        raise MisfitError
    if up.shape[1] * down.shape[1] * prod(core.shape[2:]) > most:
        raise MisfitError
    return torch.einsum("pq...,po,qi->oi...", core, up, down)


def _fitted(change: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    if change.numel() != prod(shape) or len(change) != shape[0]:
        raise MisfitError
    return change.reshape(shape)
