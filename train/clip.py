"""The reranker: a small CLIP (`transformers.CLIPModel`) trained on images and captions.

Symmetric cross-entropy with a learned temperature (Radford et al., arXiv 2103.00020, §2.3), made
hard in both directions. Every scene comes with a sibling that differs in one respect, every caption
with a few that have one fact changed, and every image with a corrupted one (two siblings blended),
so that the features must tell left from right, three from four, and a fox from half a fox. Pairs
that happen to be true of each other are left out of the denominator, by the world's own logic.

Contrast alone does not find out about places: while one tower does not tell them, the other gains
nothing by it (a saddle; measured: chance after 1,300 steps). So one linear layer, which is not
kept, reads them from the features of both towers alike. Which of two things is first also depends
on the order in which a caption names them; that too is a saddle, passed after 40,000 captions, so
some captions without an image are read on top.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch.nn import functional
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPTokenizer

from train.loop import Task
from train.sheets import tile
from train.stickers.captions import phrase
from train.stickers.drawn import Shown, seen
from train.stickers.facts import Description, change, describe, holds, possible_changes
from train.stickers.renderer import SIZE, render
from train.stickers.scene import Scene, draw_scene, edit, stands_in, thirds
from train.stickers.vocabulary import PLACES, RELATIONS, THING_INDEX, THINGS
from train.stickers.wording import Wording
from train.tokenizer import save_tokenizer

MEAN, STD = 0.5, 0.25  # of a pixel, the same for the three colours
UNTOLD = -100
PLACE_CLASSES = [2, len(THINGS), len(THINGS), 3, 3]
LARGEST_SCALE = 100.0  # of the logits: clipped as in the paper


@dataclass(frozen=True)
class ClipConfig:
    text_width: int = 160
    text_layers: int = 4
    text_heads: int = 4
    vision_width: int = 192
    vision_layers: int = 6
    vision_heads: int = 4
    patch: int = 8
    projection: int = 128
    changed_captions: int = 2  # for each true caption
    spoilt_share: float = 0.5  # images with a corrupted twin
    places_weight: float = 1.0  # of the loss of reading places from the features
    recited_captions: int = 96  # that tell places, and come without an image
    snap: bool = True
    free: float = 0.0  # of the captions are in free wordings
    drawn_share: float = 0.25  # of the images were drawn by our networks, where there are some
    again_share: float = 0.0  # of the others were made again by an autoencoder
    taught: bool = False  # the text tower alone learns, from itself (train.clip_words)


def build(config: ClipConfig, tokenizer: CLIPTokenizer) -> CLIPModel:
    """Return the network with fresh weights; token numbers are those of `tokenizer`."""
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": config.text_width,
        "intermediate_size": 4 * config.text_width,
        "num_hidden_layers": config.text_layers,
        "num_attention_heads": config.text_heads,
        "max_position_embeddings": tokenizer.model_max_length,
        "hidden_act": "gelu",
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    vision = {
        "hidden_size": config.vision_width,
        "intermediate_size": 4 * config.vision_width,
        "num_hidden_layers": config.vision_layers,
        "num_attention_heads": config.vision_heads,
        "image_size": SIZE,
        "patch_size": config.patch,
        "hidden_act": "gelu",
    }
    clip = CLIPModel(
        CLIPConfig(
            text_config=text,
            vision_config=vision,
            projection_dim=config.projection,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            dtype="float32",
        )
    )
    # The usual start, 0.02, drowns in the patches' own values: places would never be learned.
    places = clip.vision_model.embeddings.position_embedding.weight
    with torch.no_grad():
        places[1:] = sinusoids(SIZE // config.patch, config.vision_width)
    return clip


def sinusoids(side: int, width: int) -> torch.Tensor:
    """(side², width): sines and cosines of the row in the first half, of the column in the second
    (Vaswani et al., arXiv 1706.03762, §3.5, in two dimensions, for short distances)."""
    frequencies = 100.0 ** -torch.linspace(0, 1, width // 4)
    angles = torch.arange(side)[:, None] * frequencies
    one = torch.cat([angles.sin(), angles.cos()], dim=1)  # (side, width / 2)
    rows, columns = one[:, None].expand(-1, side, -1), one[None].expand(side, -1, -1)
    return torch.cat([rows, columns], dim=2).reshape(side**2, width)


@dataclass(frozen=True)
class ClipBatch:
    """B images with their captions first, then S corrupted images and C changed captions; R
    captions to recite."""

    pictures: torch.Tensor  # (B + S, 3, H, W) uint8
    tokens: torch.Tensor  # (B + C + R, L) int64
    also_true: torch.Tensor  # (B, B + C) bool: caption holds for image but is not its own
    seen: torch.Tensor  # (B, 5) int64: `places_seen` in the images
    told: torch.Tensor  # (B, 5) int64: `places_told` in their captions
    recited: torch.Tensor  # (R, 5) int64: and in those to recite


class ClipTask(Task):
    """Trains both towers together."""

    def __init__(
        self,
        config: ClipConfig,
        tokenizer: CLIPTokenizer,
        drawn: Sequence[Sequence[Shown]] = (),
        decoders: Sequence[Callable[[torch.Tensor], torch.Tensor]] = (),
    ) -> None:
        """`drawn` are candidates prompt by prompt; `decoders` make uint8 images (B, 3, H, W) again
        as an autoencoder does."""
        super().__init__()
        self.config, self.tokenizer, self.drawn, self.decoders = config, tokenizer, drawn, decoders
        self.clip = build(config, tokenizer)
        self.places = torch.nn.Linear(config.projection, sum(PLACE_CLASSES))
        self.say = Wording(config.free).say if config.free else phrase

    def batch(self, rng: random.Random, size: int, device: torch.device) -> ClipBatch:
        drawn, unclear = self._drawn(rng, round(size * self.config.drawn_share))
        scenes: list[Scene] = []
        while len(scenes) < size - len(drawn):
            snap = self.config.snap or rng.random() < 0.5
            scene = draw_scene(rng, snap=snap)
            scenes += [scene, edit(scene, rng, snap=snap)]
        rendered = render(scenes, device=device)
        spoilt = torch.cat([spoil(rendered, rng, self.config.spoilt_share), *unclear])
        pictures = torch.cat([self._made_again(rendered, rng), *(s.image[None] for s, _ in drawn)])
        told = [describe(scene, rng) for scene in scenes] + [true for _, true in drawn]
        scenes += [shown.scene for shown, _ in drawn if shown.scene is not None]
        changed = [
            false
            for description in told
            for false in changed_captions(description, self.config.changed_captions, rng)
        ]
        changed += [shown.asked for shown, true in drawn if true != shown.asked]
        own = torch.eye(len(scenes), len(told) + len(changed), dtype=torch.bool)
        true = torch.tensor([[holds(each, scene) for each in told + changed] for scene in scenes])
        recited = recitations(self.config.recited_captions, rng)
        texts = [self.say(each, rng) for each in told + changed + recited]
        tokens = self.tokenizer(texts, padding=True, truncation=True, return_tensors="pt")[
            "input_ids"
        ]
        return ClipBatch(
            torch.cat([pictures, spoilt]),
            tokens.to(device),
            (true & ~own).to(device),
            torch.tensor([places_seen(scene) for scene in scenes], device=device),
            torch.tensor([places_told(each) for each in told], device=device),
            torch.tensor([places_told(each) for each in recited], device=device),
        )

    def _drawn(
        self, rng: random.Random, number: int
    ) -> tuple[list[tuple[Shown, Description]], list[torch.Tensor]]:
        """Return `number` drawn images, if there are any, with what is true of them, and other
        candidates (1, 3, H, W) of the same prompts that show no clear scene."""
        found: list[tuple[Shown, Description]] = []
        unclear: list[torch.Tensor] = []
        while self.drawn and len(found) < number:
            for each in rng.choice(self.drawn):
                true = seen(each, rng)
                if each.scene is None:
                    unclear.append(each.image[None])
                elif true is not None and len(found) < number:
                    found.append((each, true))
        return found, unclear[: number // 2]

    def _made_again(self, pictures: torch.Tensor, rng: random.Random) -> torch.Tensor:
        """Return uint8 images (B, 3, H, W), some of them as an autoencoder leaves them."""
        pictures = pictures.clone()
        for again in self.decoders:
            share = self.config.again_share / len(self.decoders)
            chosen = [i for i in range(len(pictures)) if rng.random() < share]
            if chosen:
                with torch.inference_mode():
                    made = again(pictures[chosen])
                pictures[chosen] = made.clone()
        return pictures

    def forward(self, batch: ClipBatch, generator: torch.Generator) -> dict[str, torch.Tensor]:
        number, offered = batch.also_true.shape
        images = functional.normalize(
            self.clip.get_image_features(pixel_values(batch.pictures)).pooler_output, dim=-1
        )
        texts = functional.normalize(
            self.clip.get_text_features(batch.tokens).pooler_output, dim=-1
        )
        scale = self.clip.logit_scale.exp().clamp(max=LARGEST_SCALE)
        own = torch.arange(number, device=images.device)
        by_picture = (scale * images[:number] @ texts[:offered].T).masked_fill(
            batch.also_true, -torch.inf
        )
        by_caption = scale * texts[:number] @ images.T  # (B, B + S)
        by_caption[:, :number].masked_fill_(batch.also_true[:, :number].T, -torch.inf)
        loss = functional.cross_entropy(by_picture, own) + functional.cross_entropy(by_caption, own)
        read = self._read(images[:number], batch.seen) + self._read(
            torch.cat([texts[:number], texts[offered:]]), torch.cat([batch.told, batch.recited])
        )
        right = (by_picture.argmax(1) == own).float().mean()
        found = (by_caption.argmax(1) == own).float().mean()
        return {
            "loss": loss / 2 + self.config.places_weight * read,
            "contrast": loss / 2,
            "places": read,
            "caption found": right,
            "picture found": found,
            "scale": scale,
        }

    def _read(self, features: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
        """Return the mean loss of reading five `classes` (B, 5) from unit features (B, D)."""
        logits = self.places(features * features.shape[-1] ** 0.5).split(PLACE_CLASSES, dim=1)
        losses = [
            functional.cross_entropy(each, wanted, ignore_index=UNTOLD, reduction="sum")
            / (wanted != UNTOLD).sum().clamp(min=1)
            for each, wanted in zip(logits, classes.T, strict=True)
        ]
        return torch.stack(losses).mean()

    def sheet(self) -> Image.Image:
        """Scenes with the caption, of 256, that the network finds best for each."""
        rng = random.Random(1)
        batch = self.batch(rng, 256, self.clip.device)
        images = self.clip.get_image_features(pixel_values(batch.pictures[:48])).pooler_output
        texts = self.clip.get_text_features(batch.tokens).pooler_output
        best = functional.cosine_similarity(images[:, None], texts[None], dim=-1).argmax(1)
        words = self.tokenizer.batch_decode(batch.tokens[best], skip_special_tokens=True)
        return tile(batch.pictures[:48], columns=12, captions=words)

    def save(self, folder: Path) -> None:
        """Write a transformers CLIP folder: weights, tokenizer, preprocessing."""
        save_clip(self.clip, self.tokenizer, folder)


def places_seen(scene: Scene) -> tuple[int, ...]:
    """Classes of what stands where, `UNTOLD` where it does not apply: for two things, whether they
    stand in a row or a column, which is first and which second in it; for a single one, in which
    third of the width and of the height it is."""
    if scene.size is not None:
        return (UNTOLD, UNTOLD, UNTOLD, *thirds(scene.sprites[0]))
    if len(scene.sprites) != 2 or len(set(scene.things)) == 1:
        return (UNTOLD,) * 5
    first, second = scene.sprites
    relation = next((name for name in RELATIONS if stands_in(name, first, second)), None)
    return places_told(Description((first.thing, second.thing), relation=relation))


def places_told(description: Description) -> tuple[int, ...]:
    """Return the same classes, as far as a caption tells them."""
    if description.place is not None:
        told = PLACES[description.place]
        return (UNTOLD, UNTOLD, UNTOLD, *(UNTOLD if third is None else third for third in told))
    if description.relation is None or len(description.things) != 2:
        return (UNTOLD,) * 5
    dx, dy = RELATIONS[description.relation]
    first, second = (THING_INDEX[thing] for thing in description.things)
    if dx + dy > 0:
        first, second = second, first
    return (int(dx == 0), first, second, UNTOLD, UNTOLD)


def changed_captions(
    description: Description, number: int, rng: random.Random
) -> list[Description]:
    facts = possible_changes(description)
    chosen = [rng.choice(facts) for _ in range(number)]
    changed = [change(description, fact, rng) for fact in chosen]
    return [each for each in changed if each is not None]


def recitations(number: int, rng: random.Random) -> list[Description]:
    """Descriptions of scenes, only such as tell a place."""
    found: list[Description] = []
    while len(found) < number:
        description = describe(draw_scene(rng), rng)
        if places_told(description) != (UNTOLD,) * 5:
            found.append(description)
    return found


def spoil(images: torch.Tensor, rng: random.Random, share: float) -> torch.Tensor:
    """Return what a generator gets wrong: blends of two siblings, evenly or cut along a line.

    images (B, 3, H, W) uint8, siblings next to each other; returns about `share` × B of them.
    """
    spoilt = []
    for index in range(len(images)):
        if rng.random() >= share:
            continue
        image, sibling = images[index].float(), images[index ^ 1].float()
        ramp = torch.linspace(-1, 1, image.shape[-1]) * rng.choice((-8, 8)) + rng.uniform(-4, 4)
        across, along = torch.sigmoid(ramp).view(1, -1), torch.sigmoid(ramp).view(-1, 1)
        weight = rng.choice((across, along, torch.tensor(rng.uniform(0.4, 0.6))))
        weight = weight.to(image.device)
        spoilt.append((image * weight + sibling * (1 - weight)).to(torch.uint8))
    return torch.stack(spoilt) if spoilt else images[:0]


def pixel_values(images: torch.Tensor) -> torch.Tensor:
    """uint8 to the range that the network sees."""
    return (images.float() / 255 - MEAN) / STD


def save_clip(clip: CLIPModel, tokenizer: CLIPTokenizer, folder: Path) -> None:
    """Write a transformers CLIP folder: weights, tokenizer, preprocessing."""
    clip.save_pretrained(folder)
    save_tokenizer(tokenizer, folder)
    save_preprocessing(folder)


def save_preprocessing(folder: Path) -> None:
    """preprocessor_config.json: images to `SIZE` px, bicubic, then `pixel_values`."""
    CLIPImageProcessorPil(
        size={"shortest_edge": SIZE},
        crop_size={"height": SIZE, "width": SIZE},
        image_mean=[MEAN] * 3,
        image_std=[STD] * 3,
    ).save_pretrained(folder)
