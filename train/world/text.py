"""The text encoder of the world, first taught to read: captions to facts, without any image.

Both paths draw from the last hidden states of one CLIP text tower, so these must say what is asked
for. Reading is learned hundreds of captions a second, long before an image tower could teach it: a
reader that is not kept asks the hidden states which things are told, how many, where, on what and
in which style, and the pooled feature of CLIP the same. What is left open must be read as open,
whatever fillers and unknown words stand around it. Words without a drawing are read as their
nearest things (`train.world.words`), and of every thing its looks (`train.world.looks`).
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image, ImageDraw
from safetensors.torch import save_file
from torch.nn import functional
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, CLIPTokenizer

from train.loop import Task
from train.tokenizer import save_tokenizer
from train.world import words
from train.world.captions import Speaker
from train.world.facts import Told, describe
from train.world.looks import NUMBERS, looks
from train.world.scene import draw_scene
from train.world.tokenizer import CONTEXT
from train.world.vocabulary import (
    ACCEPTED,
    BACKGROUNDS,
    COLOURS,
    FIRST,
    NOUN_NUMBERS,
    NOUNS,
    PLACES,
    RELATIONS,
    SHAPES,
    SIZES,
    STYLES,
    THINGS,
)

READER = "reader.safetensors"
SLOTS = 3  # things that a caption tells at most
NOTHING = len(THINGS)
PARTS = len(NOUNS) + len(SHAPES) + len(COLOURS) + 1  # what a thing is read as, the last is nothing
# Classes of each fact; the first of all but the count says that it is left open.
HEADS = {"count": 5, "axis": 3, "size": 4, "column": 4, "row": 4, "background": 13, "style": 6}
FACTS = ("things", *HEADS)


@dataclass(frozen=True)
class TextConfig:
    """Sizes of the text tower, and what it reads."""

    width: int = 192
    layers: int = 4
    heads: int = 6
    projection: int = 192
    all_things_from: float = 0.15  # of the budget; before it only those asked for most
    first_share: float = 0.6  # of the scenes after that
    near_share: float = 0.15  # of the captions call a thing by a word that has no drawing
    pooled_weight: float = 0.5
    looks_weight: float = 2.0


def build(config: TextConfig, tokenizer: CLIPTokenizer) -> CLIPTextModelWithProjection:
    """Return the network with fresh weights."""
    return CLIPTextModelWithProjection(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=config.width,
            intermediate_size=4 * config.width,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            max_position_embeddings=CONTEXT,
            projection_dim=config.projection,
            hidden_act="gelu",
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


class Reader(torch.nn.Module):
    """Reads facts from hidden states: a query for each thing and one for all else."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.queries = torch.nn.Parameter(0.02 * torch.randn(SLOTS + 1, width))
        self.attention = torch.nn.MultiheadAttention(width, 4, batch_first=True)
        self.norm = torch.nn.LayerNorm(width)
        self.parts = torch.nn.Linear(width, PARTS)
        self.others = torch.nn.Linear(width, sum(HEADS.values()))
        self.looks = torch.nn.Linear(width, NUMBERS)

    def forward(self, states: torch.Tensor, absent: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """(B, L, D) states and (B, L) bool, True where no word is, to logits of the things
        (B, SLOTS, NOTHING + 1), of all heads (B, sum of classes), and looks (B, SLOTS, NUMBERS)."""
        queries = self.queries.expand(len(states), -1, -1)
        read = self.attention(
            queries, states, states, key_padding_mask=absent, need_weights=True
        )  # faster so
        slots = self.norm(read[0])
        things = whole_things(self.parts(slots[:, :SLOTS]))
        return things, self.others(slots[:, SLOTS]), self.looks(slots[:, :SLOTS])


def whole_things(parts: torch.Tensor) -> torch.Tensor:
    """(…, PARTS) logits of nouns, shapes, colours and nothing to those of all things and nothing
    (…, NOTHING + 1): a coloured shape is its shape and its colour, so that a shape can be read in a
    colour that it never had."""
    nouns, shapes, colours, nothing = parts.split((len(NOUNS), len(SHAPES), len(COLOURS), 1), -1)
    coloured = (shapes[..., :, None] + colours[..., None, :]).flatten(-2)  # as THINGS has them
    return torch.cat([nouns, coloured, nothing], dim=-1)


@dataclass(frozen=True)
class TextBatch:
    tokens: torch.Tensor  # (B, L) int64
    things: torch.Tensor  # (B, SLOTS, NOTHING + 1) float32: what each slot should read, sum 1
    others: torch.Tensor  # (B, heads) int64


class TextTask(Task):
    """Teaches a text tower to read."""

    def __init__(self, config: TextConfig, tokenizer: CLIPTokenizer) -> None:
        super().__init__()
        self.config, self.tokenizer = config, tokenizer
        self.text = build(config, tokenizer)
        self.reader = Reader(config.width)
        self.pooled = torch.nn.Linear(config.projection, SLOTS * PARTS)
        self.pooled_others = torch.nn.Linear(config.projection, sum(HEADS.values()))
        self.words = words.load()
        self.speaker = Speaker(self.words.unknown, self.words.adjectives, self.words.verbs)

    def batch(self, rng: random.Random, size: int, device: torch.device) -> TextBatch:
        """Return captions of `size` scenes."""
        texts, things, others = [], torch.zeros(size, SLOTS, NOTHING + 1), []
        for row in things:
            told = describe(draw_scene(rng, self._nouns(rng)), rng)
            spoken, near = told, None
            if rng.random() < self.config.near_share:
                near = self.words.draw_near(rng)
                spoken = _renamed(told, near[0])
            texts.append(self.speaker.phrase(spoken, rng))
            fill_things(row, told, near)
            others.append(classes(told))
        tokens = self.tokenizer(texts, padding=True, truncation=True, return_tensors="pt")
        return TextBatch(
            tokens["input_ids"].to(device), things.to(device), torch.tensor(others, device=device)
        )

    def _nouns(self, rng: random.Random) -> range | tuple[int, ...]:
        everything = self.fraction >= self.config.all_things_from
        return NOUN_NUMBERS if everything and rng.random() >= self.config.first_share else FIRST

    def forward(self, batch: TextBatch, generator: torch.Generator) -> dict[str, torch.Tensor]:
        output = self.text(batch.tokens)
        absent = after_end(batch.tokens, self.tokenizer.eos_token_id)
        read_facts = self.reader(output.last_hidden_state, absent)
        things, others, seen = (logits.float() for logits in read_facts)
        embeds = functional.normalize(output.text_embeds.float(), dim=-1)
        feature = embeds * embeds.shape[-1] ** 0.5
        again = whole_things(self.pooled(feature).float().view(len(feature), SLOTS, PARTS))
        read = _thing_loss(things, batch.things)
        rest = _head_loss(others, batch.others)
        pooled = _thing_loss(again, batch.things) + _head_loss(
            self.pooled_others(feature).float(), batch.others
        )
        unlike = _looks_loss(seen, batch)
        return {
            "loss": read
            + rest
            + self.config.pooled_weight * pooled
            + self.config.looks_weight * unlike,
            "looks": unlike,
            "things": read,
            "others": rest,
            "pooled": pooled,
            "things right": things_right(things, batch.things).float().mean(),
            "all right": all_right(things, others, batch).float().mean(),
        }

    def sheet(self) -> Image.Image:
        """Show captions of many kinds of speech, and what is read from them."""
        image = Image.new("RGB", (900, 640), "white")
        draw = ImageDraw.Draw(image)
        for row, text in enumerate(SHEET):
            draw.text((8, 8 + 24 * row), f"{text}   =>   {self.read(text)}", fill="black")
        return image

    @torch.no_grad()
    def read(self, text: str) -> str:
        """Return what is read from a caption, in words."""
        tokens = self.tokenizer([text], truncation=True, return_tensors="pt")["input_ids"]
        states = self.text(tokens.to(self.reader.queries.device)).last_hidden_state
        things, others, _ = self.reader(states, after_end(tokens, self.tokenizer.eos_token_id))
        best = [int(number) for number in things[0].argmax(1)]
        names = [THINGS[number].name for number in best if number != NOTHING]
        heads = {
            name: int(logits.argmax())
            for name, logits in zip(HEADS, others[0].split(tuple(HEADS.values())), strict=True)
        }
        heads["count"] += 1
        facts = [f"{name} {_fact(name, value)}" for name, value in heads.items() if value > 0]
        return f"{names} {', '.join(facts)}"

    def save(self, folder: Path) -> None:
        """Write a CLIPTextModelWithProjection folder with its tokenizer, and the reader."""
        self.text.save_pretrained(folder)
        save_tokenizer(self.tokenizer, folder)
        save_file(self.reader.state_dict(), folder / READER)


SHEET = (
    "a panda", "three apples", "draw me a brown star, please", "show an airplane on its own",
    "an orange diamond together with a green circle", "a 3d render of a fox",
    "flat icon of two mugs", "a schnauzer", "a dachshund wearing nothing special",
    "A robot above a car", "car with a cat to its right", "sedan", "five strawberries on white",
    "large sunflower on a navy background", "a kettle", "a picture of a violinist",
    "glossy icon of a whale at the bottom", "tiger, elephant and a fish", "a cup of joe",
    "i'd love to have four little bees on mint", "poster of freedom", "a lighthouse",
    "an astronaut in a supermarket", "a horse riding an astronaut",
)  # fmt: skip


def _fact(name: str, value: int) -> str:
    if name == "count":
        return str(value)
    tables = {"axis": ("row", "column"), "size": tuple(SIZES)}
    tables |= {"column": ("left", "middle", "right"), "row": ("top", "middle", "bottom")}
    tables |= {"background": tuple(BACKGROUNDS), "style": tuple(STYLES)}
    return tables[name][value - 1]


def after_end(tokens: torch.Tensor, end: int) -> torch.Tensor:
    """Return (B, L) bool: True behind the first end token, which also pads."""
    ends = (tokens == end).long()
    return ends.cumsum(1) - ends > 0


def _renamed(told: Told, word: str) -> Told:
    """Return what is told with the first thing called by another word."""
    return Told(**{**told.__dict__, "words": (word, *told.words[1:])})


def in_order(told: Told) -> tuple[int, ...]:
    """Return the indices of the things as slots have them: from left to right or from top to bottom
    where a relation is told, else in the order of mention."""
    order = tuple(range(len(told.words)))
    if told.relation is not None and sum(RELATIONS[told.relation]) > 0:
        return (1, 0, *order[2:])
    return order


def fill_things(
    row: torch.Tensor, told: Told, near: tuple[str, object, object] | None = None
) -> None:
    """Write into `row` (SLOTS, NOTHING + 1) which things each slot should read; `near` are a word
    for the first thing told, its nearest things and their shares."""
    order = in_order(told)
    for slot in range(SLOTS):
        if slot >= len(order):
            row[slot, NOTHING] = 1
        elif near is not None and order[slot] == 0:
            row[slot, torch.as_tensor(near[1])] = torch.as_tensor(near[2])
        else:
            accepted = list(ACCEPTED[told.words[order[slot]]])
            row[slot, accepted] = 1 / len(accepted)


def classes(told: Told) -> tuple[int, ...]:
    """Return the class of each of `HEADS`."""
    axis = 0
    if told.relation is not None:
        axis = 1 if RELATIONS[told.relation][0] != 0 else 2
    column, row = (None, None) if told.place is None else PLACES[told.place]
    return (
        told.count - 1,
        axis,
        0 if told.size is None else 1 + tuple(SIZES).index(told.size),
        0 if column is None else 1 + column,
        0 if row is None else 1 + row,
        0 if told.background is None else 1 + tuple(BACKGROUNDS).index(told.background),
        0 if told.style is None else 1 + tuple(STYLES).index(told.style),
    )


def _thing_loss(logits: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Return the divergence of what the slots read from what they should, summed over slots."""
    entropy = -(wanted * wanted.clamp(min=1e-9).log()).sum(-1)
    return (-(wanted * logits.log_softmax(-1)).sum(-1) - entropy).sum(1).mean()


def _head_loss(logits: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    parts = zip(logits.split(tuple(HEADS.values()), 1), wanted.T, strict=True)
    return torch.stack([functional.cross_entropy(each, told) for each, told in parts]).sum()


def _looks_loss(seen: torch.Tensor, batch: TextBatch) -> torch.Tensor:
    """Return the squared error of what the slots see, per number, of those that have a thing; about
    1 for who sees nothing."""
    styles = batch.others[:, list(HEADS).index("style")]
    table = looks().to(seen.device)[styles]  # (B, NOTHING + 1, NUMBERS)
    error = (seen - batch.things @ table).square().mean(-1)
    told = 1 - batch.things[..., NOTHING]
    return (error * told).sum() / told.sum()


def things_right(logits: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Return (B,) bool: every slot's best thing is one that was meant."""
    return (wanted.gather(2, logits.argmax(2, keepdim=True)) > 0.02).all(1)[:, 0]


def all_right(logits: torch.Tensor, others: torch.Tensor, batch: TextBatch) -> torch.Tensor:
    """Return (B,) bool: things and all other facts are read right."""
    parts = zip(others.split(tuple(HEADS.values()), 1), batch.others.T, strict=True)
    heads = torch.stack([each.argmax(1) == told for each, told in parts])
    return things_right(logits, batch.things) & heads.all(0)
