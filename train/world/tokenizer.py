"""The tokenizer of the world: CLIP's format, pieces learned on captions and on common English.

Every byte is a piece, so any English can be read. `measure` prints what a size costs.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

from transformers import CLIPTokenizer

from train.tokenizer import END, START, build_vocabulary, learn_merges
from train.world import words
from train.world.captions import Speaker
from train.world.facts import describe
from train.world.lexicon import common_words
from train.world.scene import draw_scene
from train.world.vocabulary import ACCEPTED, NOUN_NUMBERS, NOUNS

PIECES = 6_144
CONTEXT = 40  # tokens, start and end included
CAPTIONS = 40_000
WORD_WEIGHT = 3  # how often each word of the world stands in the corpus beside the captions


def corpus(merges: Path, seed: int = 0) -> list[str]:
    """Return captions, the world's words, and common English words once each."""
    rng = random.Random(seed)
    table = words.load()
    speaker = Speaker(table.unknown, table.adjectives, table.verbs)
    scenes = [draw_scene(rng, NOUN_NUMBERS) for _ in range(CAPTIONS)]
    captions = [speaker.phrase(describe(scene, rng), rng) for scene in scenes]
    world = [*ACCEPTED, *(thing.plural for thing in NOUNS), *table.near]
    return captions + world * WORD_WEIGHT + sorted(common_words(merges))


def learn(texts: Sequence[str], pieces: int = PIECES) -> CLIPTokenizer:
    """Learn a tokenizer of at most `pieces` pieces."""
    merges = learn_merges(list(texts), pieces)
    return CLIPTokenizer(
        vocab=build_vocabulary(merges),
        merges=merges,
        unk_token=END,
        bos_token=START,
        eos_token=END,
        pad_token=END,
        model_max_length=CONTEXT,
    )
