"""How images are made.

Importing this loads nothing else: each name brings its module when it is used, and the networks
come with the first pipeline.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipelines.checkpoints.errors import WeightsError
    from pipelines.checkpoints.specs import Spec
    from pipelines.dalle.pipeline import Dalle
    from pipelines.diffusion.pipeline import LatentDiffusion
    from pipelines.drafts import Draft
    from pipelines.families import find, shipped
    from pipelines.unclip.pipeline import Unclip

__all__ = ["Dalle", "Draft", "LatentDiffusion", "Spec", "Unclip", "WeightsError", "find", "shipped"]

MODULES = {
    "Dalle": "dalle.pipeline",
    "Draft": "drafts",
    "LatentDiffusion": "diffusion.pipeline",
    "Spec": "checkpoints.specs",
    "Unclip": "unclip.pipeline",
    "WeightsError": "checkpoints.errors",
    "find": "families",
    "shipped": "families",
}


def __getattr__(name: str) -> Any:
    if name in MODULES:
        return getattr(import_module(f"pipelines.{MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
