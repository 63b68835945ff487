"""Latent diffusion. Importing this loads no torch; taking `LatentDiffusion` from it does."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipelines.diffusion.pipeline import LatentDiffusion

__all__ = ["LatentDiffusion"]


def __getattr__(name: str) -> Any:
    if name == "LatentDiffusion":
        from pipelines.diffusion import pipeline

        return pipeline.LatentDiffusion
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
