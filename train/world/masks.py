"""The network that finds things by name: it learns on scenes, whose masks are known.

What is asked for is one of a scene's things, in any of its words, or, now and then, something that
is not there. The text encoder is that of the models that draw, and stays as it is.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.nn import functional
from transformers import CLIPTextModel, CLIPTokenizer

from pipelines.checkpoints.hashes import files_hash
from pipelines.checkpoints.loading import save_network
from pipelines.segmentation.named import encode
from pipelines.segmentation.network import MaskConfig, MaskNetwork
from train.loop import Task
from train.world.dvae import draw_images
from train.world.facts import word_for
from train.world.renderer import CELL, render, sprite_pixels
from train.world.scene import CELLS, Scene, draw_scene
from train.world.vocabulary import ACCEPTED, FIRST

HALF = 128  # of 255: from here on a pixel belongs to a thing
DETERMINERS = ("the {}", "the {}", "a {}", "{}", "this {}", "every {}", "the {} there")


@dataclass(frozen=True)
class MasksRecipe:
    """The network, and what it sees."""

    network: MaskConfig = field(default_factory=MaskConfig)
    packed_share: float = 0.2  # of the scenes
    absent_share: float = 0.12  # of the questions
    noise: float = 6.0  # of 255, the most: decoders' images are not as clean as drawings


@dataclass(frozen=True)
class MasksBatch:
    """Images, what is looked for, and where it is."""

    images: torch.Tensor  # (B, 3, side, side) float32 in [0, 1]
    names: tuple[str, ...]  # B
    masks: torch.Tensor  # (B, side, side) float32, 0 or 1


class MasksTask(Task):
    """Trains the network that finds things; the text encoder stays as it is."""

    def __init__(
        self,
        encoder: CLIPTextModel,
        tokenizer: CLIPTokenizer,
        recipe: MasksRecipe | None = None,
        reader: Path | None = None,
    ) -> None:
        """Build the network; `reader` is the folder of the text encoder, whose hash it keeps."""
        super().__init__()
        self.recipe = MasksRecipe() if recipe is None else recipe
        known = "" if reader is None else files_hash(reader)
        width = int(encoder.config.hidden_size)
        config = replace(self.recipe.network, text=width, text_encoder=known)
        self.frozen = (encoder.eval().requires_grad_(False),)  # hidden from parameters()
        self.tokenizer = tokenizer
        self.finder = MaskNetwork(config)

    def batch(self, rng: random.Random, size: int, device: torch.device) -> MasksBatch:
        """Return `size` images, each with a question and its answer."""
        scenes = draw_images(rng, size, self.recipe.packed_share)
        questions = [self._question(scene, rng) for scene in scenes]
        images = render(scenes).float()
        amount = self.recipe.noise * rng.random()
        generator = torch.Generator().manual_seed(rng.getrandbits(63))
        images = (images + amount * torch.randn(images.shape, generator=generator)).clamp(0, 255)
        masks = [
            mask_of(scene, accepted) for scene, (_, accepted) in zip(scenes, questions, strict=True)
        ]
        return MasksBatch(
            images.to(device) / 255,
            tuple(name for name, _ in questions),
            torch.stack(masks).to(device).float(),
        )

    def forward(self, batch: MasksBatch, generator: torch.Generator) -> dict[str, torch.Tensor]:
        logits = self.finder(batch.images, self.encode(batch.names)).float()
        wanted = batch.masks
        entropy = functional.binary_cross_entropy_with_logits(logits, wanted)
        chances = logits.sigmoid()
        shared = 2 * (chances * wanted).sum((1, 2)) + 1
        dice = 1 - (shared / (chances.sum((1, 2)) + wanted.sum((1, 2)) + 1)).mean()
        return {
            "loss": entropy + 0.5 * dice,
            "entropy": entropy,
            "dice": dice,
            "iou": intersection_over_union(logits > 0, wanted > 0.5).mean(),
        }

    @torch.no_grad()
    def encode(self, names: Sequence[str]) -> torch.Tensor:
        """Return the encodings (B, width) of what is looked for."""
        encoder = self.frozen[0].to(next(self.parameters()).device)
        return encode(encoder, self.tokenizer, list(names)).float()

    def _question(self, scene: Scene, rng: random.Random) -> tuple[str, frozenset[int]]:
        """Return what is asked for, and the numbers of the things that it may mean."""
        absent = rng.random() < self.recipe.absent_share  # or, by chance, it is there
        return self._named(rng.choice(FIRST if absent else scene.things), rng)

    def _named(self, thing: int, rng: random.Random) -> tuple[str, frozenset[int]]:
        word = word_for(thing, rng)
        accepted = ACCEPTED.get(word, frozenset()) | {thing}
        return rng.choice(DETERMINERS).format(word), accepted

    def sheet(self) -> Image.Image:
        """Show scenes, what is found of one of their things in the middle, and what is there."""
        batch = self.batch(random.Random(1), 12, next(self.parameters()).device)
        found = (self.finder(batch.images, self.encode(batch.names)) > 0).float()
        rows = [batch.images, *(m[:, None].expand(-1, 3, -1, -1) for m in (found, batch.masks))]
        lines = [torch.cat(list((row.cpu() * 255).byte()), dim=2) for row in rows]
        return Image.fromarray(torch.cat(lines, dim=1).permute(1, 2, 0).numpy())

    def save(self, folder: Path) -> None:
        """Write config.json and model.safetensors, in float16."""
        half = MaskNetwork(self.finder.config)
        half.load_state_dict(self.finder.state_dict())
        save_network(half.half(), self.finder.config, folder)


def mask_of(scene: Scene, things: frozenset[int]) -> torch.Tensor:
    """Return where these things are in a scene, bool (side, side)."""
    whole = np.zeros((CELLS * CELL, CELLS * CELL), bool)
    for sprite in scene.sprites:
        side = sprite.side * CELL
        covered = sprite_pixels(sprite.thing, scene.style, side)[..., 3] >= HALF
        x, y = round(sprite.x * CELL), round(sprite.y * CELL)
        under = whole[y : y + side, x : x + side]
        under[covered] = sprite.thing in things
    return torch.from_numpy(whole)


def intersection_over_union(found: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Return how well masks (B, h, w) agree, (B,) from 0 to 1; 1 where both are empty."""
    both, either = (found & wanted).sum((1, 2)), (found | wanted).sum((1, 2))
    return torch.where(either == 0, 1.0, both / either.clamp(min=1))


@torch.inference_mode()
def measure(task: MasksTask, scenes: int = 500, seed: int = 7) -> dict[str, float]:
    """Return the mean agreement over held-out scenes, for what is there and for what is not."""
    rng = random.Random(seed)
    there: list[float] = []
    absent: list[float] = []
    for _ in range(0, scenes, 50):
        drawn = [draw_scene(rng, held_out=True) for _ in range(50)]
        questions = [task._question(scene, rng) for scene in drawn]
        wanted = torch.stack([mask_of(s, q[1]) for s, q in zip(drawn, questions, strict=True)])
        logits = task.finder(render(drawn).float() / 255, task.encode([q[0] for q in questions]))
        for agreed, mask in zip(intersection_over_union(logits > 0, wanted), wanted, strict=True):
            (there if mask.any() else absent).append(float(agreed))
    means = {"there": there, "absent": absent}
    return {name: sum(values) / max(1, len(values)) for name, values in means.items()}
