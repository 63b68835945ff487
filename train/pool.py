"""Scenes with what a frozen network makes of their images, made once, in chunks, as training goes.

The pool grows while it is used: a short training does not wait for scenes that it would never see,
a long one sees ever more of them. Scenes of chunk k are a function of k alone, and what was made of
them is kept in a folder, so a training that goes on finds the same pool.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

CHUNK = 1024
TOGETHER = 16  # images: what still fits the cache of a CPU core
FIRST_CHUNKS = 2  # before the first step
USES = 3  # of each scene, before the pool grows by another

Encode = Callable[[torch.Tensor], torch.Tensor]  # (B, 3, 64, 64) uint8 to (B, …)


@dataclass(frozen=True)
class Source:
    """What a world gives to learn from: scenes, images of them, and captions."""

    draw: Callable[[random.Random], Any]  # a scene
    render: Callable[[Sequence[Any]], torch.Tensor]  # to uint8 (B, 3, 64, 64)
    caption: Callable[[Any, random.Random], str]  # of a scene, in one of many wordings
    prompts: tuple[str, ...]  # a dozen, for sheets

    def captions(self, scenes: Sequence[Any], rng: random.Random, drop: float) -> list[str]:
        """Return new captions of scenes, a share `drop` of them empty."""
        return ["" if rng.random() < drop else self.caption(scene, rng) for scene in scenes]


class Pool:
    """Pairs of a scene and its tensor. `maker` tells one network's tensors from another's."""

    def __init__(
        self, source: Source, encode: Encode, maker: str, folder: Path | None, largest: int
    ) -> None:
        self.source, self.encode = source, encode
        self.maker, self.folder, self.largest = maker, folder, largest
        self.scenes: list[Any] = []
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
        scenes = [self.source.draw(rng) for _ in range(CHUNK)]
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
    def _made(self, scenes: Sequence[Any]) -> torch.Tensor:
        parts = [
            self.encode(self.source.render(scenes[start : start + TOGETHER]))
            for start in range(0, len(scenes), TOGETHER)
        ]
        return torch.cat(parts).cpu().contiguous()

    def sample(self, rng: random.Random, size: int) -> tuple[list[Any], torch.Tensor]:
        """Return `size` scenes and their tensors (size, …), growing when it is time."""
        self.used += size
        if self.used > USES * len(self.scenes) and len(self.scenes) < self.largest:
            self.grow()
        numbers = [rng.randrange(len(self.scenes)) for _ in range(size)]
        made = torch.stack([self.parts[n // CHUNK][n % CHUNK] for n in numbers])
        return [self.scenes[number] for number in numbers], made
