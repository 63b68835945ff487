"""How a model is to be loaded, whatever its family."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

OFFLOAD = ("none", "model", "sequential")

Report = Callable[[int, int], None]  # is called with the bytes loaded, and their total


def ignore_progress(loaded: int, total: int) -> None:
    """Ignore the progress of loading."""


@dataclass(frozen=True)
class LoadOptions:
    """Where and how networks run. None chooses the best available.

    device: auto, cpu, cuda, cuda:1, mps; dtype: float32, float16, bfloat16; attention: auto,
    xformers, sdpa (flex for image tokens). With `safety` an image that the model's own safety
    checker flags has failed. `offload` keeps what is not running off the GPU: none, model,
    sequential. With `vae_tiling` large images are decoded in tiles, which takes less memory and may
    change their tones a little; `compiled` spends minutes of the first image on faster ones.
    """

    device: Any = None
    dtype: Any = None
    attention: str | None = None
    safety: bool = False
    offload: str | None = None
    vae_tiling: bool = False
    compiled: bool = False

    @property
    def special(self) -> list[str]:
        """The options asked for that not every family understands."""
        asked = {
            "safety": self.safety,
            "offload": self.offload not in (None, "none"),
            "vae_tiling": self.vae_tiling,
            "compiled": self.compiled,
        }
        return [name for name, is_asked in asked.items() if is_asked]
