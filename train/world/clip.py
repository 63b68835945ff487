"""The reranker of the world: an image tower for the text encoder that both paths read.

The text tower stays as reading made it (`train.world.text`), so that one file serves all; its
projection and the image tower are trained together, by contrast with hard negatives as in
`train.clip`, and by one reader of facts that both features must serve.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch.nn import functional
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

from train.clip import (
    LARGEST_SCALE,
    SIZE,
    UNTOLD,
    pixel_values,
    save_preprocessing,
    sinusoids,
    spoil,
)
from train.loop import Task
from train.sheets import tile
from train.tokenizer import save_tokenizer
from train.world import words
from train.world.captions import Speaker
from train.world.facts import Told, change, describe, holds
from train.world.renderer import render
from train.world.scene import Scene, draw_scene, edit, size_of, stands_in, thirds
from train.world.text import HEADS, NOTHING, classes, in_order
from train.world.vocabulary import (
    ACCEPTED,
    BACKGROUNDS,
    FIRST,
    NOUN_NUMBERS,
    RELATIONS,
    SIZES,
    STYLES,
)

EVERYTHING = 0.35  # of the scenes have things that people seldom ask for, too
READ = [NOTHING, NOTHING, NOTHING, *HEADS.values()]  # all things; the first; the second; the rest


@dataclass(frozen=True)
class ClipConfigOfWorld:
    """Sizes of the image tower, and the batch."""

    width: int = 160
    layers: int = 6
    heads: int = 5
    patch: int = 8
    changed_captions: int = 2  # for each true caption
    spoilt_share: float = 0.35  # images with a spoilt twin
    reading_weight: float = 0.5


def build(config: ClipConfigOfWorld, text: Path) -> CLIPModel:
    """Return CLIP with the text tower of folder `text`, frozen, and a fresh image tower."""
    from transformers import CLIPTextModelWithProjection

    tower = CLIPTextModelWithProjection.from_pretrained(text)
    vision = {
        "hidden_size": config.width,
        "intermediate_size": 4 * config.width,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "image_size": SIZE,
        "patch_size": config.patch,
        "hidden_act": "gelu",
    }
    spoken = tower.config
    clip = CLIPModel(
        CLIPConfig(
            text_config=spoken.to_dict(),
            vision_config=vision,
            projection_dim=spoken.projection_dim,
            bos_token_id=spoken.bos_token_id,
            eos_token_id=spoken.eos_token_id,
            pad_token_id=spoken.pad_token_id,
            dtype="float32",
        )
    )
    clip.text_model.load_state_dict(tower.text_model.state_dict())
    clip.text_projection.load_state_dict(tower.text_projection.state_dict())
    clip.text_model.requires_grad_(False)
    places = clip.vision_model.embeddings.position_embedding.weight
    with torch.no_grad():
        places[1:] = sinusoids(SIZE // config.patch, config.width)
    return clip


@dataclass(frozen=True)
class ClipBatch:
    """B images with their captions first, then S spoilt images and C changed captions."""

    images: torch.Tensor  # (B + S, 3, H, W) uint8
    tokens: torch.Tensor  # (B + C, L) int64
    also_true: torch.Tensor  # (B, B + C) bool: caption holds for the image but is not its own
    things_seen: torch.Tensor  # (B, things) float32, sum 1
    seen: torch.Tensor  # (B, 2 + heads) int64, UNTOLD where it does not apply
    things_told: torch.Tensor
    told: torch.Tensor


class WorldClipTask(Task):
    """Trains the image tower and both projections."""

    def __init__(self, config: ClipConfigOfWorld, text: Path) -> None:
        super().__init__()
        self.config = config
        self.tokenizer = CLIPTokenizer.from_pretrained(text)
        self.clip = build(config, text)
        self.reader = torch.nn.Linear(self.clip.config.projection_dim, sum(READ))
        table = words.load()
        self.speaker = Speaker(table.unknown, table.adjectives, table.verbs)

    def batch(self, rng: random.Random, size: int, device: torch.device) -> ClipBatch:
        """Return `size` scenes, every second one its neighbour's sibling."""
        scenes: list[Scene] = []
        while len(scenes) < size:
            nouns = NOUN_NUMBERS if rng.random() < EVERYTHING else FIRST
            scene = draw_scene(rng, nouns)
            scenes += [scene, edit(scene, rng, nouns)]
        told = [describe(scene, rng) for scene in scenes]
        changed = [change(each, rng) for each in told for _ in range(self.config.changed_captions)]
        images = render(scenes)
        offered = told + changed
        own = torch.eye(len(scenes), len(offered), dtype=torch.bool)
        true = torch.tensor([[holds(each, scene) for each in offered] for scene in scenes])
        texts = [self.speaker.phrase(each, rng) for each in offered]
        tokens = self.tokenizer(texts, padding=True, truncation=True, return_tensors="pt")
        spoilt = spoil(images, rng, self.config.spoilt_share)
        return ClipBatch(
            torch.cat([images, spoilt]).to(device),
            tokens["input_ids"].to(device),
            (true & ~own).to(device),
            torch.stack([shares([{t} for t in s.things]) for s in scenes]).to(device),
            torch.tensor([facts_seen(scene) for scene in scenes], device=device),
            torch.stack([shares([ACCEPTED[w] for w in each.words]) for each in told]).to(device),
            torch.tensor([facts_told(each) for each in told], device=device),
        )

    def forward(self, batch: ClipBatch, generator: torch.Generator) -> dict[str, torch.Tensor]:
        number = len(batch.also_true)
        images = self.clip.get_image_features(pixel_values(batch.images)).pooler_output.float()
        texts = self.clip.get_text_features(batch.tokens).pooler_output.float()
        images, texts = (functional.normalize(each, dim=-1) for each in (images, texts))
        scale = self.clip.logit_scale.exp().clamp(max=LARGEST_SCALE)
        own = torch.arange(number, device=images.device)
        by_image = scale * images[:number] @ texts.T
        by_image = by_image.masked_fill(batch.also_true, -torch.inf)
        by_caption = scale * texts[:number] @ images.T  # (B, B + S)
        true = functional.pad(batch.also_true[:, :number].T, (0, len(images) - number))
        by_caption = by_caption.masked_fill(true, -torch.inf)
        contrast = functional.cross_entropy(by_image, own)
        contrast = (contrast + functional.cross_entropy(by_caption, own)) / 2
        seen = self._read(images[:number], batch.things_seen, batch.seen)
        told = self._read(texts[:number], batch.things_told, batch.told)
        return {
            "loss": contrast + self.config.reading_weight * (seen + told) / 2,
            "contrast": contrast,
            "seen": seen,
            "told": told,
            "caption found": (by_image.argmax(1) == own).float().mean(),
            "image found": (by_caption.argmax(1) == own).float().mean(),
        }

    def _read(
        self, features: torch.Tensor, things: torch.Tensor, facts: torch.Tensor
    ) -> torch.Tensor:
        """Return the loss of reading things and facts from unit features (B, D)."""
        logits = self.reader(features * features.shape[-1] ** 0.5).float()
        bag, *others = logits.split(READ, dim=1)
        losses = [-(things * bag.log_softmax(1)).sum(1).mean()]
        for each, wanted in zip(others, facts.T, strict=True):
            summed = functional.cross_entropy(each, wanted, ignore_index=UNTOLD, reduction="sum")
            losses.append(summed / (wanted != UNTOLD).sum().clamp(min=1))
        return torch.stack(losses).sum()

    def sheet(self) -> Image.Image:
        """Show scenes with the caption, of 192, that the network finds best for each."""
        batch = self.batch(random.Random(1), 64, self.clip.device)
        images = self.clip.get_image_features(pixel_values(batch.images[:48])).pooler_output
        texts = self.clip.get_text_features(batch.tokens).pooler_output
        best = functional.cosine_similarity(images[:, None], texts[None], dim=-1).argmax(1)
        spoken = self.tokenizer.batch_decode(batch.tokens[best], skip_special_tokens=True)
        return tile(batch.images[:48], columns=12, captions=spoken)

    def save(self, folder: Path) -> None:
        """Write a transformers CLIP folder: weights, tokenizer, preprocessing."""
        self.clip.save_pretrained(folder)
        save_tokenizer(self.tokenizer, folder)
        save_preprocessing(folder)


def shares(meant: Sequence[set[int] | frozenset[int]]) -> torch.Tensor:
    """Return (things,) float32: what may be meant shares each part alike."""
    row = torch.zeros(NOTHING)
    for each in meant:
        row[list(each)] += 1 / (len(each) * len(meant))
    return row


def facts_seen(scene: Scene) -> tuple[int, ...]:
    """Return the classes of a scene: first and second of two unlike things in a row or column, then
    those of `HEADS`; UNTOLD where it does not apply."""
    first, *others = scene.sprites
    things = set(scene.things)
    axis = before = behind = UNTOLD
    if len(things) == 2 and len(scene.sprites) == 2:
        relation = next((name for name in RELATIONS if stands_in(name, first, others[0])), None)
        if relation is not None:
            pair = (first.thing, others[0].thing)
            before, behind = pair if sum(RELATIONS[relation]) < 0 else pair[::-1]
            axis = 1 if RELATIONS[relation][0] != 0 else 2
    size = column = row = UNTOLD
    if not others:
        size = 1 + tuple(SIZES).index(size_of(first))
        column, row = (1 + third for third in thirds(first))
    return (
        before,
        behind,
        len(scene.sprites) - 1 if len(things) == 1 else UNTOLD,
        axis,
        size,
        column,
        row,
        1 + tuple(BACKGROUNDS).index(scene.background),
        1 + tuple(STYLES).index(scene.style),
    )


def facts_told(told: Told) -> tuple[int, ...]:
    """Return the same classes, as far as a caption tells them."""
    before = behind = UNTOLD
    if told.relation is not None and len(told.words) == 2:
        before, behind = (told.things[number] for number in in_order(told)[:2])
    count, *rest = classes(told)
    if len(told.words) > 1:
        count = UNTOLD
    return (before, behind, count, *(value if value > 0 else UNTOLD for value in rest))
