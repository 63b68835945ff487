"""ruDALL-E XL: Malevich, Emojich, Surrealist and Kandinsky, which share one architecture.

They are by Sber AI and SberDevices (https://github.com/ai-forever/ru-dalle). There are two readings
of it, which the files do not name: version 2 puts a start token before the text, whose last
position is then the first of the masks' grid, and its convolutions wrap around; version 3 does
neither.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch

from pipelines.checkpoints.errors import WeightsError
from pipelines.checkpoints.pickles import only_file, read_tensors
from pipelines.dalle.convert import vqgan
from pipelines.dalle.convert.recipe import Fill, Piece, Plan, Rows, choose_heads, shape_of
from pipelines.dalle.convert.tokenizer import write_tokenizer
from pipelines.dalle.convert.writing import write_index, write_network
from pipelines.dalle.convert.yttm import SPACE, read_bpe
from pipelines.dalle.masks import Mask, visible
from pipelines.dalle.transformer import TransformerConfig
from pipelines.dalle.vqgan import VqganConfig

BPE = "bpe.model"
VERSIONS = {2: Mask.CONVOLUTION_TORUS, 3: Mask.CONVOLUTION_CLIPPED}
HEADS = {(24, 2048): 16, (64, 3840): 60, (12, 768): 12}  # by layers and width
MASKS = ("transformer.row_mask", "transformer.col_mask", "transformer.conv_mask")
NEVER = -10_000.0  # the logit of a token that cannot be: its probability is exactly zero
# What C takes for a space, and the sign that stands before words.
SPACES = f"[ \\t\\n\\v\\f\\r{SPACE}]+"


def convert(folder: Path, dest: Path, *, version: int | None, heads: int | None) -> None:
    """Convert a folder with a transformer, bpe.model and Sber's VQGAN into one of ours.

    `version` and `heads` are needed where the weights do not tell them. Raises WeightsError if
    something is missing or does not fit.
    """
    path = only_file(folder, "a transformer", "*.bin", "*.safetensors")
    source = read_tensors(path)
    config = read_config(source, path, version, heads)
    network = dest / "transformer"
    write_network(network, config, plan(config), source, path)

    path = only_file(folder, "a VQGAN", "*.ckpt")
    source = read_tensors(path)
    codes = vqgan.read_config(VqganConfig(), source, path, "quantize.embed.weight")
    codes = replace(codes, size=config.grid * codes.factor)
    codes_plan = vqgan.plan(codes, source, "quantize.embed.weight", "quantize.proj")
    write_network(dest / "dvae", codes, codes_plan, source, path)

    model = read_bpe(folder / BPE)
    _, _, begin, end = model.specials
    if (begin, end) != (2, 3) or config.text_vocabulary != len(model.tokens):
        raise WeightsError(
            f"{folder / BPE} has {len(model.tokens)} tokens and begins prompts with {begin}, the "
            f"transformer reads {config.text_vocabulary} and 2: they are not of one model"
        )
    write_tokenizer(
        dest / "tokenizer",
        model.tokens,
        model.merges,
        unknown="<UNK>",
        padding="<PAD>",
        begin=["<BOS>"] * (1 + config.masks_begin_in_text),
        end="<EOS>",
        word_start=SPACE,
        spaces=SPACES,
        dropped=None,
        fuse_unknown=True,
        length=config.text_length,
    )
    write_index(
        dest,
        licence="code Apache-2.0; the weights' page names no licence",
        draws="what a Russian prompt says, 256x256",
        defaults={"guidance": 1.0, "temperature": 1.0, "token_top_k": 2048, "token_top_p": 0.995},
    )


def read_config(
    source: Mapping[str, torch.Tensor], path: Path, version: int | None, heads: int | None
) -> TransformerConfig:
    """Derive the config from the shapes and the masks of a download.

    Raises WeightsError naming what is missing, or the mask that is another than ours.
    """
    vocabulary, width = shape_of(source, path, "text_embeddings.weight", 2)
    image_vocabulary, _ = shape_of(source, path, "image_embeddings.weight", 2)
    text_length = shape_of(source, path, "text_pos_embeddings.weight", 2)[0] - 1
    grid, _ = shape_of(source, path, "image_row_embeddings.weight", 2)
    beginning = "transformer.layers."
    layers = len({key.split(".")[2] for key in source if key.startswith(beginning)})
    heads = choose_heads(HEADS, layers, width, path, heads)
    if version is None:
        version = _version(source, path, text_length, grid)
    masks = [Mask.COLUMN if index % 4 == 1 else Mask.ROW for index in range(layers)]
    if (layers - 1) % 4 != 1:  # there the last layer is a column like others
        masks[-1] = VERSIONS[version]
    config = TransformerConfig(
        grid=grid,
        image_vocabulary=image_vocabulary,
        text_length=text_length + (version == 2),
        text_vocabulary=vocabulary - text_length,
        width=width,
        heads=heads,
        masks=tuple(masks),
        extra_norms=True,
        head_norm=True,
        masks_begin_in_text=version == 2,
    )
    _check_masks(source, path, config, VERSIONS[version])
    return config


def _version(source: Mapping[str, torch.Tensor], path: Path, text_length: int, grid: int) -> int:
    """Return the version whose convolution the download has."""
    stored = source.get("transformer.conv_mask")
    fitting = [
        version
        for version, mask in VERSIONS.items()
        if stored is not None and torch.equal(stored.bool(), _whole(mask, text_length, grid))
    ]
    if len(fitting) != 1:
        raise WeightsError(f"{path} does not tell by its masks which it is: say --version 2 or 3")
    return fitting[0]


def _check_masks(
    source: Mapping[str, torch.Tensor], path: Path, config: TransformerConfig, convolution: Mask
) -> None:
    """Check that the stored masks are those that we compute."""
    for key, mask in zip(MASKS, (Mask.ROW, Mask.COLUMN, convolution), strict=True):
        ours = _whole(mask, config.shared_length, config.grid)
        if key in source and not torch.equal(source[key].bool(), ours):
            raise WeightsError(f"{path}: {key} is not the mask that it should be")


def _whole(mask: Mask, text_length: int, grid: int) -> torch.Tensor:
    length = text_length + grid**2
    return visible(mask, text_length, grid, TransformerConfig.reach, length, torch.device("cpu"))


def plan(config: TransformerConfig) -> Plan:
    """Plan our transformer from one of theirs."""
    width, T = config.width, config.text_length
    words, pads = config.text_vocabulary, config.shared_length
    assert words is not None
    read, drawn = words + pads, config.image_vocabulary
    start = T - pads  # start tokens: they are always there, so their padding is never read
    recipe: dict[str, tuple[Piece, ...]] = {
        "text_embedding.weight": (Rows("text_embeddings.weight", 0, words),),
        "padding.weight": (
            *_fill(start, 0.0),
            Rows("text_embeddings.weight", words, read),
        ),
        "text_position.weight": (Rows("text_pos_embeddings.weight", 0, T),),
        "image_embedding.weight": (Rows("image_embeddings.weight", 0, drawn),),
        "row_position.weight": (Rows("image_row_embeddings.weight", 0, config.grid),),
        "column_position.weight": (Rows("image_col_embeddings.weight", 0, config.grid),),
    }
    for end, value in (("weight", 0.0), ("bias", NEVER)):
        recipe[f"head.{end}"] = (
            Rows(f"to_logits.1.{end}", 0, words),
            *_fill(start, value),
            Rows(f"to_logits.1.{end}", words, read + drawn),
        )
        recipe[f"norm.{end}"] = (Rows(f"transformer.final_layernorm.{end}", 0, width),)
        recipe[f"head_norm.{end}"] = (Rows(f"to_logits.0.{end}", 0, width),)
        for index in range(len(config.masks)):
            for ours, (theirs, rows) in LAYER.items():
                key = f"transformer.layers.{index}.{theirs}.{end}"
                recipe[f"layers.{index}.{ours}.{end}"] = (Rows(key, 0, rows * width),)
    unused = (Rows("text_pos_embeddings.weight", T, pads + 1),) if start == 0 else ()
    return Plan(recipe, dropped=unused, ignored=frozenset(MASKS))


# Our name of each part of a layer: theirs, and its rows in units of the width.
LAYER = {
    "norm_1": ("input_layernorm", 1),
    "attention.qkv": ("attention.query_key_value", 3),
    "attention.out": ("attention.dense", 1),
    "post_1": ("before_first_addition_layernorm", 1),
    "norm_2": ("post_attention_layernorm", 1),
    "mlp.up": ("mlp.dense_h_to_4h", 4),
    "mlp.down": ("mlp.dense_4h_to_h", 1),
    "post_2": ("before_second_addition_layernorm", 1),
}


def _fill(rows: int, value: float) -> tuple[Fill, ...]:
    return (Fill(rows, value),) if rows else ()
