"""Whether bfloat16 pays in training on this processor: `python -m benchmarks.training_precision`.

Forward and backward passes of the layers that the world's networks are made of, on one thread, in
float32 and under autocast, in turns; prints the median of each and the median ratio.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

ROUNDS = 7


def tower(width: int) -> tuple[nn.Module, torch.Tensor]:
    """Return a text tower of 4 layers and 64 captions of 32 tokens."""
    layer = nn.TransformerEncoderLayer(
        width, width // 32, 4 * width, dropout=0, batch_first=True, norm_first=True
    )
    return nn.TransformerEncoder(layer, 4, enable_nested_tensor=False), torch.randn(64, 32, width)


def convolutions(width: int, side: int) -> tuple[nn.Module, torch.Tensor]:
    """Return four convolutions with their norms, and 16 images."""
    blocks = [
        nn.Sequential(nn.GroupNorm(8, width), nn.SiLU(), nn.Conv2d(width, width, 3, padding=1))
        for _ in range(4)
    ]
    return nn.Sequential(*blocks), torch.randn(16, width, side, side)


def seconds(step: Callable[[], None]) -> float:
    """Return how long one call takes."""
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


def measure(network: nn.Module, x: torch.Tensor) -> tuple[float, float]:
    """Return the median seconds of a step in float32 and in bfloat16."""

    def step(half: bool) -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            y = network(x)
        y.float().square().mean().backward()

    step(False)
    step(True)
    rows = [(seconds(lambda: step(False)), seconds(lambda: step(True))) for _ in range(ROUNDS)]
    whole, half = zip(*rows, strict=True)
    return statistics.median(whole), statistics.median(half)


def main() -> None:
    """Print one line for each kind of layers."""
    torch.set_num_threads(1)
    cases = {
        "text tower, 192 wide": tower(192),
        "text tower, 256 wide": tower(256),
        "convolutions, 128 wide at 8 × 8": convolutions(128, 8),
        "convolutions, 192 wide at 8 × 8": convolutions(192, 8),
        "convolutions, 32 wide at 64 × 64": convolutions(32, 64),
    }
    for name, (network, x) in cases.items():
        for backend in (SDPBackend.FLASH_ATTENTION, SDPBackend.MATH):
            if not isinstance(network, nn.TransformerEncoder) and backend is SDPBackend.MATH:
                continue
            with sdpa_kernel(backend):
                whole, half = measure(network, x)
            kind = f", {backend.name.lower()}" if isinstance(network, nn.TransformerEncoder) else ""
            print(f"{name}{kind}: {whole:.3f} s, {half:.3f} s in bfloat16, {whole / half:.2f} x")


if __name__ == "__main__":
    main()
