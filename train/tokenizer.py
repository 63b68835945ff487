"""The tokenizer: byte-pair encoding in CLIP's format, learned on the world's captions.

The vocabulary is laid out like OpenAI's: 256 byte symbols, the same with `</w>`, one piece a
merge, then start and end. All byte symbols must be there, since CLIP's unknown token *is* its end
token, at which the text features are taken; and the end token must not have the number 2, which
makes transformers take a legacy branch.
"""

from __future__ import annotations

import json
import random
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
    merges = learn_merges(caption_samples(seed), PIECES)
    return CLIPTokenizer(
        vocab=build_vocabulary(merges),
        merges=merges,
        unk_token=END,
        bos_token=START,
        eos_token=END,
        pad_token=END,
        model_max_length=CONTEXT,
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
