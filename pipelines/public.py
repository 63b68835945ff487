"""Public models that load here: what is known of them, and no more. Imports no torch.

Hashes, sizes and revisions are those of files that somebody had; where nobody had them, the fields
are empty. `generate --pull` checks and records those of the files that it fetches.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class PublicFile:
    """A file of a model."""

    name: str
    size: int  # bytes
    sha256: str


@dataclass(frozen=True)
class Public:
    """A model on the Hugging Face hub; `name` is where."""

    name: str
    draws: str
    licence: str | None  # as the hub calls it
    permits: str  # in a few words; the licence itself holds
    weights: float  # GB in half precision, counted from the sizes of the networks
    defaults: Mapping[str, Any]
    citation: str
    revision: str | None = None
    files: tuple[PublicFile, ...] = ()
    tried: bool = False  # whether Salon was run on the real files


PUBLIC = {
    model.name: model
    for model in (
        Public(
            name="stable-diffusion-v1-5/stable-diffusion-v1-5",
            draws="nearly anything, 512x512",
            licence="creativeml-openrail-m",
            permits="commercial use; forbids harmful uses that it lists",
            weights=2.13,
            defaults={"width": 512, "height": 512, "steps": 30, "guidance": 7.5},
            citation="Rombach et al., arXiv 2112.10752",
        ),
        Public(
            name="stabilityai/stable-diffusion-xl-base-1.0",
            draws="nearly anything, 1024x1024",
            licence="openrail++",
            permits="commercial use; forbids harmful uses that it lists",
            weights=6.94,
            defaults={"width": 1024, "height": 1024, "steps": 30, "guidance": 5.0},
            citation="Podell et al., arXiv 2307.01952",
        ),
    )
}
