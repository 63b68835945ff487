"""minDALL-E by Kakao Brain (https://github.com/kakaobrain/minDALL-E): a dense transformer over text
and image tokens, and a VQGAN. Not to be confused with min-dalle.

Its weights are under CC-BY-NC-SA-4.0, which forbids commercial use.
"""

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from pipelines.checkpoints.errors import WeightsError
from pipelines.checkpoints.pickles import read_tensors
from pipelines.dalle.convert import vqgan
from pipelines.dalle.convert.recipe import Fill, Piece, Plan, Rows, choose_heads, shape_of
from pipelines.dalle.convert.tokenizer import read_merges, read_words, save_tokenizer
from pipelines.dalle.convert.writing import write_index, write_network
from pipelines.dalle.layers import Activation
from pipelines.dalle.masks import Mask
from pipelines.dalle.transformer import TransformerConfig
from pipelines.dalle.vqgan import VqganConfig

TRANSFORMER, VQGAN = "stage2_last.ckpt", "stage1_last.ckpt"
FILES = (TRANSFORMER, VQGAN)
WORDS, MERGES = "tokenizer/bpe-16k-vocab.json", "tokenizer/bpe-16k-merges.txt"
LICENCE = "cc-by-nc-sa-4.0"
HEADS = {(42, 1536): 24}  # by layers and width
UNKNOWN, PADDING, WORD_END = "[UNK]", "[PAD]", "</w>"
NEVER = -10_000.0  # the logit of a token that cannot be: its probability is exactly zero
# Our name of each part of a layer: theirs below each other, and their rows in units of the width.
LAYER = {
    "norm_1": (("ln1", 1),),
    "attention.qkv": (("attn.query", 1), ("attn.key", 1), ("attn.value", 1)),
    "attention.out": (("attn.proj", 1),),
    "norm_2": (("ln2", 1),),
    "mlp.up": (("mlp.0", 4),),
    "mlp.down": (("mlp.2", 1),),
}


def convert(folder: Path, dest: Path, *, heads: int | None, accept_noncommercial: bool) -> None:
    """Convert the unpacked download into one of our folders.

    `heads` is needed where the widths do not tell it. Raises WeightsError if the licence is not
    accepted, and if something is missing or does not fit.
    """
    if not accept_noncommercial:
        raise WeightsError(
            f"the licence of these weights, {LICENCE}, forbids commercial use: if yours is none, "
            "add --accept-noncommercial"
        )
    path = folder / TRANSFORMER
    source = read_tensors(path)
    config = read_transformer_config(source, path, heads)
    assert config.text_vocabulary is not None
    words = read_words(folder / WORDS, (UNKNOWN, PADDING), config.text_vocabulary)
    network = dest / "transformer"
    write_network(network, config, transformer_plan(config, words[PADDING]), source, path)

    path = folder / VQGAN
    source = read_tensors(path)
    nearest = VqganConfig(nearest_code=True)
    codes = vqgan.read_config(nearest, source, path, "quantize.embedding.weight")
    codes = replace(codes, size=config.grid * codes.factor)
    codes_plan = vqgan.plan(codes, source, "quantize.embedding.weight", None)
    write_network(dest / "dvae", codes, codes_plan, source, path)

    save_tokenizer(
        dest / "tokenizer",
        build_tokenizer(words, read_merges(folder / MERGES, words)),
        padding=PADDING,
        length=config.text_length,
    )
    write_index(
        dest,
        licence=LICENCE,
        draws=f"what an English prompt says, {codes.size}x{codes.size}",
        defaults={"temperature": 1.0, "token_top_k": 256},
    )


def read_transformer_config(
    source: Mapping[str, torch.Tensor], path: Path, heads: int | None
) -> TransformerConfig:
    """Derive the config from the shapes of a download. Raises WeightsError if they do not determine
    it."""
    vocabulary, width = shape_of(source, path, "tok_emb_txt.weight", 2)
    image_vocabulary, _ = shape_of(source, path, "tok_emb_img.weight", 2)
    text_length, _ = shape_of(source, path, "pos_emb_txt.weight", 2)
    image_length, _ = shape_of(source, path, "pos_emb_img.weight", 2)
    grid = math.isqrt(image_length)
    if grid**2 != image_length:
        raise WeightsError(f"{path} has {image_length} image positions, which are no square")
    layers = len({key.split(".")[1] for key in source if key.startswith("blocks.")})
    return TransformerConfig(
        grid=grid,
        image_vocabulary=image_vocabulary,
        text_length=text_length,
        text_vocabulary=vocabulary,
        width=width,
        heads=choose_heads(HEADS, layers, width, path, heads),
        masks=(Mask.FULL,) * layers,
        activation=Activation.GELU,
        raster_positions=True,
    )


def transformer_plan(config: TransformerConfig, padding: int) -> Plan:
    """Plan our transformer from one of theirs, which has one padding token for all positions."""
    width, T = config.width, config.text_length
    words, codes = config.text_vocabulary, config.image_vocabulary
    assert words is not None
    pad = Rows("tok_emb_txt.weight", padding, padding + 1, shared=True)
    recipe: dict[str, tuple[Piece, ...]] = {
        "text_embedding.weight": (Rows("tok_emb_txt.weight", 0, words),),
        "padding.weight": (pad,) * T,
        "text_position.weight": (Rows("pos_emb_txt.weight", 0, T),),
        "image_embedding.weight": (Rows("tok_emb_img.weight", 0, codes),),
        "image_position.weight": (Rows("pos_emb_img.weight", 0, config.image_length),),
        # Padding is predicted as the word that it is among theirs.
        "head.weight": (
            Rows("head_txt.weight", 0, words),
            Fill(T, 0.0),
            Rows("head_img.weight", 0, codes),
        ),
        "head.bias": (Fill(words, 0.0), Fill(T, NEVER), Fill(codes, 0.0)),
    }
    for end in ("weight", "bias"):
        recipe[f"norm.{end}"] = (Rows(f"ln_f.{end}", 0, width),)
        for index in range(len(config.masks)):
            for ours, parts in LAYER.items():
                recipe[f"layers.{index}.{ours}.{end}"] = tuple(
                    Rows(f"blocks.{index}.{theirs}.{end}", 0, rows * width)
                    for theirs, rows in parts
                )
    return Plan(recipe)


def build_tokenizer(words: Mapping[str, int], merges: list[tuple[str, str]]) -> Tokenizer:
    """Build a tokenizer of byte pairs (Sennrich et al., arXiv 1508.07909) of lower-cased words that
    keep their accents; punctuation stands alone. Nothing begins or ends a prompt."""
    tokenizer = Tokenizer(
        models.BPE(dict(words), merges, unk_token=UNKNOWN, end_of_word_suffix=WORD_END)
    )
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.BertNormalizer(lowercase=False), normalizers.Lowercase()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return tokenizer
