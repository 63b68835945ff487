"""A reranker's text tower learns new wordings from itself; its image tower stays as it is.

Whatever the wording, the pupil must say what the old tower said of plain words that tell the same,
both the direction itself and how near it is to what was said of the other captions of the batch,
with a changed one for each (as CLIP is distilled by Wu et al., arXiv 2309.12314, §3.1, with the
relations of texts among themselves). No image is needed, so that a caption costs a hundredth of
what it costs in `train.clip`; what images score with plain words, and so the calibration, stays
nearly as it was.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch.nn import functional
from transformers import CLIPModel, CLIPTokenizer

from train.clip import LARGEST_SCALE, ClipConfig, changed_captions, pixel_values, save_clip
from train.loop import Task
from train.sheets import tile
from train.stickers.captions import phrase
from train.stickers.facts import describe
from train.stickers.renderer import render
from train.stickers.scene import draw_scene
from train.stickers.wording import Wording

TEACHER = "teacher"  # the folder beside a run's weights of the CLIP that is learned from
SHOWN = 48  # scenes on a contact sheet


@dataclass(frozen=True)
class ClipWordsBatch:
    """C captions, true and changed ones, each in two wordings."""

    tokens: torch.Tensor  # (C, L) int64: in free wordings
    plain: torch.Tensor  # (C, L') int64: in those of the own grammar, as the teacher reads them


class ClipWordsTask(Task):
    """Trains the text tower and its projection; all that is saved is a whole CLIP."""

    def __init__(
        self,
        config: ClipConfig,
        clip: CLIPModel,
        tokenizer: CLIPTokenizer,
        teacher: CLIPModel,
        plain_tokenizer: CLIPTokenizer,
    ) -> None:
        """`clip` begins with the image tower of `teacher`, and reads the pieces of `tokenizer`."""
        super().__init__()
        self.config, self.tokenizer, self.plain_tokenizer = config, tokenizer, plain_tokenizer
        self.clip = clip
        for kept in (clip.vision_model, clip.visual_projection):
            kept.requires_grad_(False)
        clip.logit_scale.requires_grad_(False)
        self.frozen = (teacher.eval(),)  # a tuple hides it from parameters()
        self.wording = Wording(config.free)

    def batch(self, rng: random.Random, size: int, device: torch.device) -> ClipWordsBatch:
        told = [describe(draw_scene(rng), rng) for _ in range(size)]
        told += [
            false
            for description in told
            for false in changed_captions(description, self.config.changed_captions, rng)
        ]
        free = [self.wording.say(each, rng) for each in told]
        plain = [phrase(each, rng) for each in told]
        return ClipWordsBatch(
            _tokens(self.tokenizer, free).to(device),
            _tokens(self.plain_tokenizer, plain).to(device),
        )

    def forward(self, batch: ClipWordsBatch, generator: torch.Generator) -> dict[str, torch.Tensor]:
        texts = text_features(self.clip, batch.tokens)
        with torch.no_grad():
            wanted = text_features(self.frozen[0].to(batch.plain.device), batch.plain)
            scale = self.clip.logit_scale.exp().clamp(max=LARGEST_SCALE)
            near = functional.softmax(scale * wanted @ wanted.T, dim=1)
        apart = 1 - (texts * wanted).sum(1).mean()
        says = functional.log_softmax(scale * texts @ wanted.T, dim=1)
        divergence = functional.kl_div(says, near, reduction="batchmean")
        return {"loss": divergence + scale * apart, "divergence": divergence, "cosine": 1 - apart}

    def sheet(self) -> Image.Image:
        """Scenes with the free caption, of their own, that the network finds best for each."""
        rng = random.Random(1)
        scenes = [draw_scene(rng) for _ in range(SHOWN)]
        captions = [self.wording.say(describe(scene, rng), rng) for scene in scenes]
        pictures = render(scenes, device=self.clip.device)
        images = self.clip.get_image_features(pixel_values(pictures)).pooler_output
        tokens = _tokens(self.tokenizer, captions).to(self.clip.device)
        best = (functional.normalize(images, dim=-1) @ text_features(self.clip, tokens).T).argmax(1)
        return tile(pictures, columns=12, captions=[captions[index] for index in best])

    def save(self, folder: Path) -> None:
        """Write a transformers CLIP folder: weights, tokenizer, preprocessing."""
        save_clip(self.clip, self.tokenizer, folder)


def load_words_task(config: ClipConfig, run: Path) -> ClipWordsTask:
    """Return the task of a run in which `train.stickers.start` has laid pupil and teacher."""
    folders = run / "clip" / "weights", run / "clip" / TEACHER
    pupil, teacher = (CLIPModel.from_pretrained(folder) for folder in folders)
    read, plain = (CLIPTokenizer.from_pretrained(folder) for folder in folders)
    return ClipWordsTask(config, pupil, read, teacher, plain)


def text_features(clip: CLIPModel, tokens: torch.Tensor) -> torch.Tensor:
    """(B, L) int64 to unit features (B, D)."""
    return functional.normalize(clip.get_text_features(tokens).pooler_output.float(), dim=-1)


def _tokens(tokenizer: CLIPTokenizer, texts: list[str]) -> torch.Tensor:
    return tokenizer(texts, padding=True, truncation=True, return_tensors="pt")["input_ids"]
