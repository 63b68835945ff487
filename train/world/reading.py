"""What a trained text encoder reads from prompts, and how much of it is right: no image is drawn.

    salon-train world reading --run runs/world

Both paths can be no better than what their text encoder reads, and this takes seconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers import CLIPTextModelWithProjection, CLIPTokenizer

from train.stickers.trial import Rate, count, rate_lines
from train.world import words
from train.world.facts import Told
from train.world.measure import GROUPS, groups_of
from train.world.prompts import Prompt, read_prompts
from train.world.text import HEADS, NOTHING, READER, SLOTS, Reader, after_end, classes, in_order
from train.world.vocabulary import ACCEPTED, article

TOGETHER = 64


@dataclass(frozen=True)
class Read:
    """What is read from one prompt: things by slot, and the class of each of `HEADS`."""

    things: tuple[int, ...]
    classes: tuple[int, ...]


class TextReader:
    """A text encoder of folder `folder` with the reader that it was taught with."""

    def __init__(self, folder: Path) -> None:
        self.tokenizer = CLIPTokenizer.from_pretrained(folder)
        self.text = CLIPTextModelWithProjection.from_pretrained(folder).eval()
        self.reader = Reader(self.text.config.hidden_size).eval()
        self.reader.load_state_dict(load_file(folder / READER))

    @torch.inference_mode()
    def read(self, texts: Sequence[str]) -> list[Read]:
        """Return what is read from each of `texts`."""
        found = []
        for start in range(0, len(texts), TOGETHER):
            part = list(texts[start : start + TOGETHER])
            tokens = self.tokenizer(part, padding=True, truncation=True, return_tensors="pt")
            ids = tokens["input_ids"]
            states = self.text(ids).last_hidden_state
            things, others, _ = self.reader(states, after_end(ids, self.tokenizer.eos_token_id))
            heads = [each.argmax(1) for each in others.split(tuple(HEADS.values()), 1)]
            for slots, values in zip(
                things.argmax(2).tolist(), zip(*heads, strict=True), strict=True
            ):
                meant = tuple(thing for thing in slots if thing != NOTHING)
                found.append(Read(meant, tuple(int(value) for value in values)))
        return found


def is_right(read: Read, told: Told) -> bool:
    """Tell whether all that is told was read, and nothing else."""
    if len(read.things) != min(len(told.words), SLOTS) or read.classes != classes(told):
        return False
    order = in_order(told)
    orders = [order] if told.relation is not None else permutations(order)
    return any(
        all(thing in ACCEPTED[told.words[n]] for thing, n in zip(read.things, each, strict=True))
        for each in orders
    )


def main_figures(folder: Path) -> str:
    """Return how much is read right of the evaluation's prompts and of held-out words, as lines."""
    reader, prompts = TextReader(folder), read_prompts()
    reads = reader.read([prompt.text for prompt in prompts])
    right = [is_right(read, p.description) for read, p in zip(reads, prompts, strict=True)]
    rates = {"overall": count(right)}
    for group in GROUPS:
        pairs = zip(right, prompts, strict=True)
        rates[group] = count([each for each, prompt in pairs if group in groups_of(prompt)])
    same = _unchanged(reader, prompts, reads)
    sections = {
        "prompts read right": rates,
        "an unknown word changes nothing": {"things and facts": same},
        "words that training never had": {"a near thing is read": _near(reader)},
    }
    return "\n".join(line for title, r in sections.items() for line in (title, *rate_lines(r)))


def _unchanged(reader: TextReader, prompts: Sequence[Prompt], reads: Sequence[Read]) -> Rate:
    pairs = [(p.twin, read) for p, read in zip(prompts, reads, strict=True) if p.twin is not None]
    again = reader.read([twin for twin, _ in pairs])
    return count([read == other for (_, read), other in zip(pairs, again, strict=True)])


def _near(reader: TextReader) -> Rate:
    """Return how often the one thing read from a held-out word is among its nearest."""
    table = words.load(held_out=True)
    reads = reader.read([f"{article(word)} {word}" for word in table.near])
    pairs = zip(reads, table.neighbours.tolist(), strict=True)
    return count([len(r.things) == 1 and r.things[0] in nearest for r, nearest in pairs])
