"""Scenes with what a frozen network makes of their images, made once, in chunks, as training goes.

The pool grows while it is used: a short training does not wait for scenes that it would never see,
a long one sees ever more of them. Scenes of chunk k are a function of k alone, and what was made of
them is kept in a folder, so a training that goes on finds the same pool.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from train.world.renderer import render
from train.world.scene import STYLE_WEIGHTS, Scene, draw_scene
from train.world.vocabulary import EARLY, FIRST, NOUN_NUMBERS

CHUNK = 1024
TOGETHER = 16  # images: what still fits the cache of a CPU core
FIRST_CHUNKS = 2  # before the first step
USES = 3  # of each scene, before the pool grows by another

Encode = Callable[[torch.Tensor], torch.Tensor]  # (B, 3, 64, 64) uint8 to (B, …)


@dataclass(frozen=True)
class Stage:
    """How large the world is, while networks learn to draw it."""

    things: Sequence[int]
    others: float  # the share of scenes that have all other things, too
    styles: Mapping[str, int]  # their weights


# A network that draws 125 things in three styles learns the rest from there.
STAGES = {
    "early": Stage(EARLY, 0.0, {"glossy": 1, "flat": 1, "3d": 1}),
    "whole": Stage(FIRST, 0.35, STYLE_WEIGHTS),
}


class Pool:
    """Pairs of a scene and its tensor. `maker` tells one network's tensors from another's.

    `stage` is one of `STAGES`; each needs a folder of its own.
    """

    def __init__(
        self,
        encode: Encode,
        maker: str,
        folder: Path | None,
        largest: int,
        stage: str = "whole",
    ) -> None:
        self.encode, self.maker, self.folder, self.largest = encode, maker, folder, largest
        self.stage = STAGES[stage]
        self.scenes: list[Scene] = []
        self.parts: list[torch.Tensor] = []
        self.used = 0
        known = 0 if folder is None else len(list(folder.glob("*.safetensors")))
        for _ in range(max(FIRST_CHUNKS, known)):
            self.grow()
        self.used = USES * (len(self.scenes) - FIRST_CHUNKS * CHUNK)  # so that it goes on growing

    def grow(self) -> None:
        """Add a chunk.

        Raises
        ------
        ValueError : the folder's chunk was made by another network.
        """
        number = len(self.parts)
        rng = random.Random(f"pool:{number}")
        stage = self.stage
        scenes = []
        for _ in range(CHUNK):
            things = NOUN_NUMBERS if rng.random() < stage.others else stage.things
            scenes.append(draw_scene(rng, things, styles=stage.styles))
        self.scenes += scenes
        path = None if self.folder is None else self.folder / f"{number:05d}.safetensors"
        if path is not None and path.is_file():
            with safe_open(path, framework="pt") as file:
                if file.metadata()["maker"] != self.maker:
                    raise ValueError(f"{path} was made by another network: remove the folder")
                self.parts.append(file.get_tensor("made"))
            return
        made = self._made(scenes)
        self.parts.append(made)
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            save_file({"made": made}, path, {"maker": self.maker})

    @torch.no_grad()
    def _made(self, scenes: Sequence[Scene]) -> torch.Tensor:
        parts = [
            self.encode(render(scenes[start : start + TOGETHER]))
            for start in range(0, len(scenes), TOGETHER)
        ]
        return torch.cat(parts).cpu().contiguous()

    def sample(self, rng: random.Random, size: int) -> tuple[list[Scene], torch.Tensor]:
        """Return `size` scenes and their tensors (size, …), growing when it is time."""
        self.used += size
        if self.used > USES * len(self.scenes) and len(self.scenes) < self.largest:
            self.grow()
        numbers = [rng.randrange(len(self.scenes)) for _ in range(size)]
        made = torch.stack([self.parts[n // CHUNK][n % CHUNK] for n in numbers])
        return [self.scenes[number] for number in numbers], made
