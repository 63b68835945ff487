"""How pictures are made. Importing this loads no torch; the networks load when they are used."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from pipelines.specs import SPECS, Spec, WeightsError, find

if TYPE_CHECKING:
    from pipelines.dalle import Dalle
    from pipelines.drafts import Draft
    from pipelines.latent_diffusion import LatentDiffusion

__all__ = ["SPECS", "Dalle", "Draft", "LatentDiffusion", "Spec", "WeightsError", "find"]

MODULES = {"Dalle": "dalle", "Draft": "drafts", "LatentDiffusion": "latent_diffusion"}


def __getattr__(name: str) -> Any:
    if name in MODULES:
        return getattr(import_module(f"pipelines.{MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
