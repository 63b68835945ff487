"""DALL·E mini and mega, as min-dalle stores them.

Dayma et al., DALL·E Mini (https://github.com/borisdayma/dalle-mini); in PyTorch by Brett Kuprel
(https://github.com/kuprel/min-dalle). The token that drawing starts with is not in the files: the
published configs say 16384, which comes after the image codes, and min-dalle from 0.4.11 on starts
with 16383, which is a code.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from pipelines.checkpoints.errors import WeightsError
from pipelines.checkpoints.loading import AGAIN
from pipelines.checkpoints.pickles import read_tensors
from pipelines.dalle.bart import BartConfig
from pipelines.dalle.convert import vqgan
from pipelines.dalle.convert.recipe import Fill, Piece, Plan, Rows, choose_heads, shape_of
from pipelines.dalle.convert.tokenizer import read_merges, read_words, write_tokenizer
from pipelines.dalle.convert.writing import write_index, write_network
from pipelines.dalle.layers import Activation
from pipelines.dalle.masks import Mask
from pipelines.dalle.transformer import TransformerConfig
from pipelines.dalle.vqgan import VqganConfig

HEADS = {(12, 1024): 16, (24, 2048): 32}  # by layers and width
# What tells the widths.
TOKENS, POSITIONS, GATE = "embed_tokens.weight", "embed_positions.weight", "layers.0.glu.fc0.weight"
WORD_START = "Ġ"
VQGAN = VqganConfig(norm_eps=1e-5, signed=False, has_encoder=False)


@dataclass(frozen=True)
class Files:
    """Where a download has what."""

    encoder: Path
    decoder: Path
    words: Path
    merges: Path
    detokenizer: Path


def find_files(folder: Path, variant: str | None) -> Files:
    """Find the files of one model: in a copy of the hub repository, where `variant` says "mini" or
    "mega" if both are there, or in the folder that min-dalle fills.

    Raises WeightsError if there is none, or two to choose from.
    """
    layouts = (
        ("mini", folder, "_mini", folder),
        ("mega", folder, "", folder),
        ("mini", folder / "dalle_bart_mini", "", folder / "vqgan"),
        ("mega", folder / "dalle_bart_mega", "", folder / "vqgan"),
    )
    there = [
        Files(
            place / f"encoder{suffix}.pt",
            place / f"decoder{suffix}.pt",
            place / f"vocab{suffix}.json",
            place / f"merges{suffix}.txt",
            vqgan_folder / "detoker.pt",
        )
        for name, place, suffix, vqgan_folder in layouts
        if variant in (None, name) and (place / f"encoder{suffix}.pt").is_file()
    ]
    if len(there) == 1:
        return there[0]
    wanted = "encoder.pt or encoder_mini.pt" if variant is None else f"encoder of {variant}"
    raise WeightsError(
        f"{folder} holds both mini and mega: choose one by --variant"
        if there
        else f"{folder} holds no {wanted}: {AGAIN}"
    )


def convert(
    folder: Path, dest: Path, *, variant: str | None, heads: int | None, start_token: int | None
) -> None:
    """Convert a download into one of our folders.

    `heads` is needed where the widths do not tell it; `start_token` None is the first one after the
    image codes. Raises WeightsError if something is missing or does not fit.
    """
    files = find_files(folder, variant)
    encoder = read_tensors(files.encoder)
    bart = read_encoder_config(encoder, files.encoder, heads)
    write_network(dest / "text_encoder", bart, encoder_plan(bart), encoder, files.encoder)

    source = read_tensors(files.detokenizer)
    codes = vqgan.read_config(VQGAN, source, files.detokenizer, "embedding.weight")
    codes_plan = vqgan.plan(codes, source, "embedding.weight", None)
    write_network(dest / "dvae", codes, codes_plan, source, files.detokenizer)

    decoder = read_tensors(files.decoder)
    config = read_decoder_config(decoder, files.decoder, bart, codes, heads)
    start = codes.vocabulary if start_token is None else start_token
    rows = len(decoder[TOKENS])
    if not 0 <= start < rows:
        raise WeightsError(f"{files.decoder} has {rows} tokens: it cannot start with {start}")
    network = dest / "transformer"
    write_network(network, config, decoder_plan(config, rows, start), decoder, files.decoder)

    words = read_words(files.words, ("<s>", "<pad>", "</s>", "<unk>", WORD_START), bart.vocabulary)
    write_tokenizer(
        dest / "tokenizer",
        words,
        read_merges(files.merges, words),
        unknown="<unk>",
        padding="<pad>",
        begin=["<s>"],
        end="</s>",
        word_start=WORD_START,
        spaces=" +",
        dropped="[^\\x00-\\x7f]",
        fuse_unknown=False,
        length=bart.length,
    )
    write_index(
        dest,
        licence="MIT; after DALL·E mini, Apache-2.0",
        draws=f"what an English prompt says, {codes.size}x{codes.size}",
        defaults={"guidance": 16.0, "temperature": 1.0, "token_top_k": 256},
    )


def read_encoder_config(
    source: Mapping[str, torch.Tensor], path: Path, heads: int | None
) -> BartConfig:
    """Derive the config from the shapes of an encoder. Raises WeightsError if they do not determine
    it."""
    vocabulary, width = shape_of(source, path, TOKENS, 2)
    length, _ = shape_of(source, path, POSITIONS, 2)
    inside, _ = shape_of(source, path, GATE, 2)
    layers = _layers(source)
    return BartConfig(
        vocabulary=vocabulary,
        length=length,
        width=width,
        heads=choose_heads(HEADS, layers, width, path, heads),
        layers=layers,
        mlp_width=inside,
    )


def read_decoder_config(
    source: Mapping[str, torch.Tensor],
    path: Path,
    encoder: BartConfig,
    codes: VqganConfig,
    heads: int | None,
) -> TransformerConfig:
    """Derive the config from the shapes of a decoder. Raises WeightsError if they do not determine
    it."""
    _, width = shape_of(source, path, TOKENS, 2)
    inside, _ = shape_of(source, path, GATE, 2)
    layers = _layers(source)
    return TransformerConfig(
        grid=codes.grid,
        image_vocabulary=codes.vocabulary,
        text_length=1,  # the start token, as the padding of an empty text
        text_vocabulary=None,
        width=width,
        heads=choose_heads(HEADS, layers, width, path, heads),
        masks=(Mask.FULL,) * layers,
        cross_attention_width=encoder.width,
        extra_norms=True,
        gated_mlp=True,
        mlp_width=inside,
        activation=Activation.GELU,
        embedding_norm=True,
        raster_positions=True,
    )


def _layers(source: Mapping[str, torch.Tensor]) -> int:
    found = (re.match(r"layers\.(\d+)\.", key) for key in source)
    return len({match[1] for match in found if match is not None})


def encoder_plan(config: BartConfig) -> Plan:
    """Plan our encoder from theirs."""
    width = config.width
    recipe: dict[str, tuple[Piece, ...]] = {
        "embedding.weight": (Rows(TOKENS, 0, config.vocabulary),),
        "position.weight": (Rows(POSITIONS, 0, config.length),),
        **_norm("embedding_norm", "layernorm_embedding", width),
        **_unscaled_norm("norm", "final_ln", width),
    }
    for index in range(config.layers):
        recipe |= _layer(f"layers.{index}", width, config.mlp_width)
    return Plan(recipe)


def decoder_plan(config: TransformerConfig, rows: int, start: int) -> Plan:
    """Plan our transformer from a decoder that embeds `rows` tokens, one of them the start."""
    width, codes, places, inside = (
        config.width,
        config.image_vocabulary,
        config.image_length,
        config.mlp_width,
    )
    assert inside is not None
    head = "lm_head.weight"
    recipe: dict[str, tuple[Piece, ...]] = {
        "padding.weight": (Rows(TOKENS, start, start + 1, shared=start < codes),),
        "text_position.weight": (Rows(POSITIONS, 0, 1),),
        "image_embedding.weight": (Rows(TOKENS, 0, codes),),
        # The last image token is only drawn, so there is no position for it.
        "image_position.weight": (Rows(POSITIONS, 1, places), Fill(1, 0.0)),
        **_norm("embedding_norm", "layernorm_embedding", width),
        **_unscaled_norm("norm", "final_ln", width),
        "head.weight": (Rows(head, 0, codes),),
        "head.bias": (Fill(codes, 0.0),),
    }
    for index in range(len(config.masks)):
        layer = f"layers.{index}"
        recipe |= _layer(layer, width, inside)
        recipe |= _unscaled_norm(
            f"{layer}.norm_cross", f"{layer}.pre_encoder_attn_layer_norm", width
        )
        recipe |= _norm(f"{layer}.post_cross", f"{layer}.encoder_attn_layer_norm", width)
        ours, theirs = f"{layer}.cross_attention", f"{layer}.encoder_attn"
        recipe |= _linear(f"{ours}.q", (f"{theirs}.q_proj",), width)
        recipe |= _linear(f"{ours}.kv", (f"{theirs}.k_proj", f"{theirs}.v_proj"), width)
        recipe |= _linear(f"{ours}.out", (f"{theirs}.out_proj",), width)
    return Plan(recipe, dropped=_undrawn(TOKENS, codes, rows, start) + _undrawn(head, codes, rows))


def _undrawn(key: str, codes: int, rows: int, start: int = -1) -> tuple[Rows, ...]:
    """Return the rows behind the image codes, which are never drawn, but for the start token."""
    if start < codes:
        return (Rows(key, codes, rows),)
    parts = (Rows(key, codes, start), Rows(key, start + 1, rows))
    return tuple(part for part in parts if part.start < part.stop)


def _layer(layer: str, width: int, inside: int) -> dict[str, tuple[Piece, ...]]:
    """Plan self-attention and MLP, whose parts have the same names in encoder and decoder."""
    ours, theirs = f"{layer}.attention", f"{layer}.self_attn"
    projections = (f"{theirs}.q_proj", f"{theirs}.k_proj", f"{theirs}.v_proj")
    return {
        **_unscaled_norm(f"{layer}.norm_1", f"{layer}.pre_self_attn_layer_norm", width),
        **_linear(f"{ours}.qkv", projections, width),
        **_linear(f"{ours}.out", (f"{theirs}.out_proj",), width),
        **_norm(f"{layer}.post_1", f"{layer}.self_attn_layer_norm", width),
        **_unscaled_norm(f"{layer}.norm_2", f"{layer}.glu.ln0", width),
        **_linear(f"{layer}.mlp.gate", (f"{layer}.glu.fc0",), inside),
        **_linear(f"{layer}.mlp.up", (f"{layer}.glu.fc1",), inside),
        **_unscaled_norm(f"{layer}.mlp.norm", f"{layer}.glu.ln1", inside),
        **_linear(f"{layer}.mlp.down", (f"{layer}.glu.fc2",), width),
    }


def _linear(ours: str, theirs: tuple[str, ...], rows: int) -> dict[str, tuple[Piece, ...]]:
    """Plan one layer from one or several stacked ones, which all lack a bias."""
    return {
        f"{ours}.weight": tuple(Rows(f"{key}.weight", 0, rows) for key in theirs),
        f"{ours}.bias": (Fill(rows * len(theirs), 0.0),),
    }


def _norm(ours: str, theirs: str, rows: int) -> dict[str, tuple[Piece, ...]]:
    return {f"{ours}.{end}": (Rows(f"{theirs}.{end}", 0, rows),) for end in ("weight", "bias")}


def _unscaled_norm(ours: str, theirs: str, rows: int) -> dict[str, tuple[Piece, ...]]:
    """Plan a norm that was trained without a scale."""
    return {
        f"{ours}.weight": (Fill(rows, 1.0),),
        f"{ours}.bias": (Rows(f"{theirs}.bias", 0, rows),),
    }
