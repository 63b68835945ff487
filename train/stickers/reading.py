"""Captions read without an image: a reader that is not kept asks a text encoder's states for facts.

What a caption changes in an image is a weak teacher of words: most of the loss of an image does not
depend on them. Captions alone cost a tenth of an image each, and tell at once which things are
asked for, how many, where, and that the other words mean nothing. The reader is that of the world
of a thousand things (`train.world.text`).
"""

from __future__ import annotations

import random
from dataclasses import dataclass

import torch
from torch.nn import functional
from transformers import CLIPTextModel, CLIPTokenizer

from train.stickers.facts import describe
from train.stickers.scene import draw_scene
from train.stickers.wording import Wording, told
from train.world.text import (
    HEADS,
    NOTHING,
    SLOTS,
    Reader,
    after_end,
    classes,
    in_order,
    things_right,
)

FREE = 0.8  # of the captions that are read
READER_ALONE = 0.06  # of the budget: a reader that cannot read yet has nothing to teach


@dataclass(frozen=True)
class Recitation:
    """R captions, and what they tell."""

    tokens: torch.Tensor  # (R, L) int64
    things: torch.Tensor  # (R, SLOTS) int64
    others: torch.Tensor  # (R, heads) int64

    def to(self, device: torch.device) -> Recitation:
        """Return the same on a device."""
        return Recitation(self.tokens.to(device), self.things.to(device), self.others.to(device))


class Recital(torch.nn.Module):
    """Draws captions and says how badly they are read."""

    def __init__(self, width: int, tokenizer: CLIPTokenizer, number: int) -> None:
        super().__init__()
        self.reader = Reader(width)
        self.reader.looks.requires_grad_(False)  # of no use here
        self.tokenizer, self.number = tokenizer, number
        self.wording = Wording(FREE)

    def draw(self, rng: random.Random) -> Recitation:
        """Return captions of scenes that training may see."""
        described = [describe(draw_scene(rng), rng) for _ in range(self.number)]
        texts = [self.wording.say(each, rng) for each in described]
        facts = [told(each, rng) for each in described]
        tokens = self.tokenizer(texts, padding=True, truncation=True, return_tensors="pt")
        things = torch.full((self.number, SLOTS), NOTHING)
        for row, each in zip(things, facts, strict=True):
            order = in_order(each)
            row[: len(order)] = torch.tensor([each.things[place] for place in order])
        others = torch.tensor([classes(each) for each in facts])
        return Recitation(tokens["input_ids"], things, others)

    def forward(
        self, text: CLIPTextModel, recited: Recitation, spent: float
    ) -> dict[str, torch.Tensor]:
        """Return the loss of reading, and the share of captions whose things are read right, when
        a share of the training's budget is `spent`."""
        with torch.set_grad_enabled(spent > READER_ALONE and torch.is_grad_enabled()):
            states = text(recited.tokens).last_hidden_state
        absent = after_end(recited.tokens, self.tokenizer.eos_token_id)
        things, others, _ = self.reader(states, absent)
        things, others = things.float(), others.float()
        losses = [functional.cross_entropy(things.flatten(0, 1), recited.things.flatten()) * SLOTS]
        for each, wanted in zip(
            others.split(tuple(HEADS.values()), 1), recited.others.T, strict=True
        ):
            losses.append(functional.cross_entropy(each, wanted))
        one_hot = functional.one_hot(recited.things, NOTHING + 1).float()
        return {
            "reading": torch.stack(losses).sum(),
            "things read": things_right(things, one_hot).float().mean(),
        }
