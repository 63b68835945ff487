"""The arithmetic of diffusion that families share: schedulers, noise, and what is clean."""

import copy
import math
from collections import deque
from typing import Any

import torch


def predict_clean(
    x_t: torch.Tensor, output: torch.Tensor, alpha_bar: float, prediction_type: str
) -> torch.Tensor:
    """Predict the clean latents from a network's output, for variance-preserving x_t (B, C, h, w).

    x_t = α x_0 + σ ε with α² = ᾱ, σ² = 1 − ᾱ. v: x_0 = α x_t − σ v (Salimans and Ho, arXiv
    2202.00512, appendix D); ε: x_0 = (x_t − σ ε) / α; a sample is x_0 itself.
    """
    if prediction_type == "sample":
        return output
    alpha, sigma = math.sqrt(alpha_bar), math.sqrt(1 - alpha_bar)
    if prediction_type == "v_prediction":
        return alpha * x_t - sigma * output
    return (x_t - sigma * output) / alpha


def predict_output(
    x_t: torch.Tensor, clean: torch.Tensor, alpha_bar: float, prediction_type: str
) -> torch.Tensor:
    """Return the network's output of which `predict_clean` makes these clean latents."""
    if prediction_type == "sample":
        return clean
    alpha, sigma = math.sqrt(alpha_bar), math.sqrt(1 - alpha_bar)
    if prediction_type == "v_prediction":
        return (alpha * x_t - clean) / sigma
    return (x_t - alpha * clean) / sigma


def interpolate(alphas_cumprod: torch.Tensor, timesteps: torch.Tensor) -> list[float]:
    """Interpolate ᾱ at each timestep, which some samplers place between the trained ones."""
    table = alphas_cumprod.tolist()
    values = []
    for t in timesteps.tolist():
        low = min(max(int(t), 0), len(table) - 1)
        high = min(low + 1, len(table) - 1)
        values.append(table[low] + (t - low) * (table[high] - table[low]))
    return values


def clone_generator(generator: torch.Generator) -> torch.Generator:
    """Clone a generator, so that both go on with the same numbers."""
    clone = torch.Generator()
    clone.set_state(generator.get_state())
    return clone


def copy_scheduler(
    scheduler: Any, index: torch.Tensor | None = None, shape: torch.Size | None = None
) -> Any:
    """Copy a scheduler with its state, so that the copy can step without changing the original.

    With `index`, every tensor of the latents' `shape` is cut down to those rows, also inside the
    lists where multistep samplers hold earlier outputs: what is left whole would be broadcast, and
    bring dropped candidates back without an error.
    """

    def copied(value: Any) -> Any:
        if isinstance(value, (list, tuple)):
            return type(value)(copied(item) for item in value)
        if isinstance(value, deque):
            return deque((copied(item) for item in value), maxlen=value.maxlen)
        if index is not None and isinstance(value, torch.Tensor) and value.shape == shape:
            return value[index]
        return value

    twin = copy.copy(scheduler)
    vars(twin).update({name: copied(value) for name, value in vars(scheduler).items()})
    return twin


def join_schedulers(scheduler: Any, other: Any, shape: torch.Size) -> Any:
    """Join two schedulers at the same step; tensors like latents of `shape` have the rows of both.

    Of their shape (N, C, h, w), N may be another in the second scheduler.
    """

    def joined(value: Any, beside: Any) -> Any:
        if isinstance(value, (list, tuple)):
            return type(value)(map(joined, value, beside))
        if isinstance(value, deque):
            return deque(map(joined, value, beside), maxlen=value.maxlen)
        if isinstance(value, torch.Tensor) and value.shape == shape:
            return torch.cat([value, beside])
        return value

    twin = copy.copy(scheduler)
    others = vars(other)
    vars(twin).update({name: joined(value, others[name]) for name, value in vars(twin).items()})
    return twin


def slerp(a: torch.Tensor, b: torch.Tensor, t: float) -> torch.Tensor:
    """Return what is t of the way from a to b along the arc between them (Shoemake, 1985).

    Noise on a straight line between two would be too weak. At 0 and 1 it is a and b, to the bit.
    """
    if t in (0, 1):
        return b if t else a
    cosine = (a * b).sum() / (a.norm() * b.norm())
    angle = cosine.clamp(-1, 1).acos()
    if angle < 1e-3:
        return torch.lerp(a, b, t)
    return (((1 - t) * angle).sin() * a + (t * angle).sin() * b) / angle.sin()
