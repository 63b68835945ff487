"""How pictures are made. Importing this loads no torch; the networks load when they are used."""

from typing import TYPE_CHECKING, Any

from pipelines.specs import SPECS, Spec, WeightsError, find

if TYPE_CHECKING:
    from pipelines.latent_diffusion import Draft, LatentDiffusion

__all__ = ["SPECS", "Draft", "LatentDiffusion", "Spec", "WeightsError", "find"]


def __getattr__(name: str) -> Any:
    if name in ("Draft", "LatentDiffusion"):
        from pipelines import latent_diffusion

        return getattr(latent_diffusion, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
