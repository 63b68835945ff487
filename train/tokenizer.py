"""The tokenizer: byte-pair encoding in CLIP's format, learned on the world's captions.

The vocabulary is laid out like OpenAI's: 256 byte symbols, the same with `</w>`, one piece a
merge, then start and end. All byte symbols must be there, since CLIP's unknown token *is* its end
token, at which the text features are taken; and the end token must not have the number 2, which
makes transformers take a legacy branch.
"""

from __future__ import annotations

import json
import random
from collections import Counter, defaultdict
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import CLIPTokenizer

from train.stickers.captions import phrase
from train.stickers.facts import describe
from train.stickers.scene import draw_scene

START, END = "<|startoftext|>", "<|endoftext|>"
CONTEXT = 32  # tokens, start and end included
SAMPLES = 30_000
PIECES = 1_536


def caption_samples(seed: int, number: int = SAMPLES) -> list[str]:
    """Return `number` captions of training scenes."""
    rng = random.Random(seed)
    return [phrase(describe(draw_scene(rng), rng), rng) for _ in range(number)]


def learn_merges(captions: list[str], pieces: int) -> list[tuple[str, str]]:
    """Byte-pair merges for a vocabulary of at most `pieces`; fewer when every word is one piece."""
    tokenizer = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Whitespace(), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=pieces - 256,  # it makes only those `</w>` forms that it meets
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        end_of_word_suffix="</w>",
        show_progress=False,
    )
    tokenizer.train_from_iterator(captions, trainer)
    return [tuple(merge) for merge in json.loads(tokenizer.to_str())["model"]["merges"]]


def build_vocabulary(merges: list[tuple[str, str]]) -> dict[str, int]:
    """Piece → number, in OpenAI's order."""
    symbols = sorted(pre_tokenizers.ByteLevel.alphabet())
    pieces = symbols + [f"{symbol}</w>" for symbol in symbols]
    pieces += [first + second for first, second in merges]
    pieces += [START, END]
    return {piece: number for number, piece in enumerate(dict.fromkeys(pieces))}


def train_tokenizer(seed: int = 0) -> CLIPTokenizer:
    """Learn a tokenizer from captions of training scenes."""
    return _clip_tokenizer(learn_merges(caption_samples(seed), PIECES), CONTEXT)


def extend_tokenizer(
    tokenizer: CLIPTokenizer, words: Mapping[str, int], pieces: int, context: int
) -> CLIPTokenizer:
    """Return a tokenizer with more merges behind those of `tokenizer`, up to `pieces` in all, for
    `words` and how often each occurs. What was one piece stays that piece; only its number moves.
    """
    state = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    merges = [(first, second) for first, second in state["merges"]]
    room = pieces - len(build_vocabulary(merges))
    merges += more_merges([(tokenizer.tokenize(word), n) for word, n in words.items()], room)
    return _clip_tokenizer(merges, context)


def more_merges(words: list[tuple[list[str], int]], number: int) -> list[tuple[str, str]]:
    """Return up to `number` byte-pair merges for words, each as its pieces and how often it occurs
    (Sennrich et al., arXiv 1508.07909, §3.2): the most frequent pair each time."""
    counts: Counter[tuple[str, str]] = Counter()
    places: dict[tuple[str, str], set[int]] = defaultdict(set)
    for index, (pieces, often) in enumerate(words):
        for pair in pairwise(pieces):
            counts[pair] += often
            places[pair].add(index)
    merges: list[tuple[str, str]] = []
    while counts and len(merges) < number:
        best = max(counts, key=lambda pair: (counts[pair], pair))
        if counts[best] <= 0:
            break
        merges.append(best)
        for index in places.pop(best):
            pieces, often = words[index]
            for pair in pairwise(pieces):
                counts[pair] -= often
            words[index] = (merged(pieces, best), often)
            for pair in pairwise(words[index][0]):
                counts[pair] += often
                places[pair].add(index)
        del counts[best]
    return merges


def merged(pieces: list[str], pair: tuple[str, str]) -> list[str]:
    """Return `pieces` with each occurrence of `pair` made one, from the left."""
    made: list[str] = []
    for piece in pieces:
        if made and (made[-1], piece) == pair:
            made[-1] += piece
        else:
            made.append(piece)
    return made


def _clip_tokenizer(merges: list[tuple[str, str]], context: int) -> CLIPTokenizer:
    return CLIPTokenizer(
        vocab=build_vocabulary(merges),
        merges=merges,
        unk_token=END,
        bos_token=START,
        eos_token=END,
        pad_token=END,
        model_max_length=context,
    )


def save_tokenizer(tokenizer: CLIPTokenizer, folder: Path) -> None:
    """tokenizer.json for new tools, vocab.json and merges.txt for older ones."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(folder)
    state = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["model"]
    vocabulary = json.dumps(state["vocab"], ensure_ascii=False)
    (folder / "vocab.json").write_text(vocabulary, encoding="utf-8")
    lines = ["#version: 0.2", *(" ".join(merge) for merge in state["merges"])]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
