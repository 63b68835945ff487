"""How pictures are made. Importing this loads no torch; the networks load when they are used."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from pipelines.checkpoints.errors import WeightsError
from pipelines.checkpoints.specs import Spec
from pipelines.families import SPECS, find

if TYPE_CHECKING:
    from pipelines.dalle.pipeline import Dalle
    from pipelines.diffusion.pipeline import LatentDiffusion
    from pipelines.drafts import Draft

__all__ = ["SPECS", "Dalle", "Draft", "LatentDiffusion", "Spec", "WeightsError", "find"]

MODULES = {"Dalle": "dalle", "Draft": "drafts", "LatentDiffusion": "latent_diffusion"}


def __getattr__(name: str) -> Any:
    if name in MODULES:
        return getattr(import_module(f"pipelines.{MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
