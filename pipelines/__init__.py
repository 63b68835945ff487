"""How pictures are made. Importing this loads no torch; the networks load when they are used."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from pipelines.checkpoints.errors import WeightsError
from pipelines.checkpoints.specs import Spec
from pipelines.families import find, shipped

if TYPE_CHECKING:
    from pipelines.dalle.pipeline import Dalle
    from pipelines.diffusion.pipeline import LatentDiffusion
    from pipelines.drafts import Draft

__all__ = ["Dalle", "Draft", "LatentDiffusion", "Spec", "WeightsError", "find", "shipped"]

MODULES = {
    "Dalle": "dalle.pipeline",
    "Draft": "drafts",
    "LatentDiffusion": "diffusion.pipeline",
}


def __getattr__(name: str) -> Any:
    if name in MODULES:
        return getattr(import_module(f"pipelines.{MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
