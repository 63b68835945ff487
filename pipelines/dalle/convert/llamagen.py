"""LlamaGen from text (Sun et al., arXiv 2406.06525; https://github.com/FoundationVision/LlamaGen):
a transformer like Llama behind the hidden states of FLAN-T5-XL, and a VQGAN with codes of length 1.

The size of the images is not in the files: stage 1 draws 256 × 256 pixels, stage 2 512 × 512.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Regex, Tokenizer, normalizers
from transformers.models.t5.configuration_t5 import T5Config
from transformers.models.t5.modeling_t5 import T5EncoderModel

from pipelines.checkpoints.configs import read_config
from pipelines.checkpoints.errors import WeightsError
from pipelines.checkpoints.headers import shards
from pipelines.checkpoints.loading import AGAIN, building, first_line
from pipelines.checkpoints.pickles import only_file, read_tensors
from pipelines.dalle.convert.recipe import (
    Fill,
    Piece,
    Plan,
    Rows,
    carry_out,
    choose_heads,
    refuse,
    shape_of,
)
from pipelines.dalle.convert.tokenizer import save_tokenizer
from pipelines.dalle.convert.writing import build, write_index, write_network
from pipelines.dalle.layers import Activation
from pipelines.dalle.masks import Mask
from pipelines.dalle.transformer import TransformerConfig
from pipelines.dalle.vqgan import VqganConfig

VQGAN, T5 = "vq_ds16_t2i.pt", "flan-t5-xl"
HEADS = {(36, 1280): 20}  # by layers and width
CODES = "quantize.embedding.weight"
UNUSED = "quantize.codebook_used"  # which codes were used of late
MIDDLE = {"block_1": "0", "attn_1": "1", "block_2": "2"}  # our name of a part: theirs
# Of the whole T5: its decoder, and the embedding once more, which is the shared one.
T5_UNREAD = ("decoder.", "lm_head.", "encoder.embed_tokens.")
PADDING, END = "<pad>", "</s>"

# What cleaned the captions that it was trained on, as far as it concerns plain sentences.
CLEANED = (
    (r"[\u31c0-\u9fff]+", ""),  # Chinese, Japanese and Korean signs
    (r"\p{Pd}+", "-"),
    ("[`´«»“”¨]", '"'),
    ("[‘’]", "'"),
    (r"[\"']{2,}", '"'),
    (r"\.{2,}", " "),
    (r"[#®•©™&@·º½¾¿¡§~()\[\]{}|\\/*]+", " "),
    (r"\s+", " "),
)


def convert(folder: Path, dest: Path, *, size: int | None, heads: int | None) -> None:
    """Convert a folder with a transformer, its VQGAN and FLAN-T5-XL into one of ours.

    `size` is that of the images in pixels; `heads` is needed where the widths do not tell it.
    Raises WeightsError if something is missing or does not fit.
    """
    path = folder / VQGAN
    source = read_tensors(path)
    if size is None:
        raise WeightsError("the files of LlamaGen do not tell the size of its images: say --size")
    codes = read_vqgan_config(source, path, size)
    write_network(dest / "dvae", codes, vqgan_plan(codes), source, path)

    path = only_file(folder, "a transformer", "t2i_*.pt")
    source = read_tensors(path)
    config = read_transformer_config(source, path, codes.grid, heads)
    write_network(dest / "transformer", config, transformer_plan(config), source, path)

    convert_t5(folder / T5, dest / "text_encoder")
    save_tokenizer(
        dest / "tokenizer",
        read_tokenizer(folder / T5 / "tokenizer.json"),
        padding=PADDING,
        length=config.text_length,
    )
    write_index(
        dest,
        licence="MIT; FLAN-T5 has its own, see its page",
        draws=f"what an English prompt says, {size}x{size}",
        defaults={"guidance": 7.5, "temperature": 1.0, "token_top_k": 1000},
    )


def read_transformer_config(
    source: Mapping[str, torch.Tensor], path: Path, grid: int, heads: int | None
) -> TransformerConfig:
    """Derive the config from the shapes of a download. Raises WeightsError if they do not determine
    it."""
    vocabulary, width = shape_of(source, path, "tok_embeddings.weight", 2)
    length, prefix_width = shape_of(source, path, "cls_embedding.uncond_embedding", 2)
    inside, _ = shape_of(source, path, "layers.0.feed_forward.w1.weight", 2)
    layers = len({key.split(".")[1] for key in source if key.startswith("layers.")})
    return TransformerConfig(
        grid=grid,
        image_vocabulary=vocabulary,
        text_length=length,
        text_vocabulary=None,
        prefix_width=prefix_width,
        prefix_mlp=True,
        null_prefix=True,
        width=width,
        heads=choose_heads(HEADS, layers, width, path, heads),
        masks=(Mask.FULL,) * layers,
        gated_mlp=True,
        mlp_width=inside,
        activation=Activation.SILU,
        rms_norm=True,
        rotary=True,
    )


def transformer_plan(config: TransformerConfig) -> Plan:
    """Plan our transformer from one of theirs, which has no biases."""
    width, inside, codes = config.width, config.mlp_width, config.image_vocabulary
    assert inside is not None
    recipe: dict[str, tuple[Piece, ...]] = {
        "null_prefix": (Rows("cls_embedding.uncond_embedding", 0, config.text_length),),
        **_linear("text_projection.up", "cls_embedding.cap_proj.fc1", width),
        **_linear("text_projection.down", "cls_embedding.cap_proj.fc2", width),
        "image_embedding.weight": (Rows("tok_embeddings.weight", 0, codes),),
        "norm.weight": (Rows("norm.weight", 0, width),),
        **_linear("head", "output", codes),
    }
    for index in range(len(config.masks)):
        layer = f"layers.{index}"
        recipe |= {
            f"{layer}.norm_1.weight": (Rows(f"{layer}.attention_norm.weight", 0, width),),
            **_linear(f"{layer}.attention.qkv", f"{layer}.attention.wqkv", 3 * width),
            **_linear(f"{layer}.attention.out", f"{layer}.attention.wo", width),
            f"{layer}.norm_2.weight": (Rows(f"{layer}.ffn_norm.weight", 0, width),),
            **_linear(f"{layer}.mlp.gate", f"{layer}.feed_forward.w1", inside),
            **_linear(f"{layer}.mlp.up", f"{layer}.feed_forward.w3", inside),
            **_linear(f"{layer}.mlp.down", f"{layer}.feed_forward.w2", width),
        }
    return Plan(recipe)


def _linear(ours: str, theirs: str, rows: int) -> dict[str, tuple[Piece, ...]]:
    return {
        f"{ours}.weight": (Rows(f"{theirs}.weight", 0, rows),),
        f"{ours}.bias": (Fill(rows, 0.0),),
    }


def read_vqgan_config(source: Mapping[str, torch.Tensor], path: Path, size: int) -> VqganConfig:
    """Derive the config of a VQGAN for images of `size` pixels from the shapes of a download.

    Raises WeightsError naming what does not tell it.
    """
    vocabulary, code_width = shape_of(source, path, CODES, 2)
    _, z_channels, _, _ = shape_of(source, path, "decoder.conv_in.weight", 4)
    place = re.compile(r"encoder\.conv_blocks\.(\d+)\.(res|attn)\.(\d+)\.")
    found = [match.groups() for key in source if (match := place.match(key)) is not None]
    levels = range(len({level for level, _, _ in found}))
    firsts = [f"encoder.conv_blocks.{level}.res.0.conv1.weight" for level in levels]
    widths = [shape_of(source, path, key, 4)[0] for key in firsts]
    if not widths:
        refuse(path, "is missing keys", ["encoder.conv_blocks.0.res.0.conv1.weight"])
    return VqganConfig(
        vocabulary=vocabulary,
        size=size,
        code_width=code_width,
        z_channels=z_channels,
        width=widths[0],
        multipliers=tuple(width // widths[0] for width in widths),
        blocks=len({number for level, part, number in found if (level, part) == ("0", "res")}),
        attention_levels=tuple(sorted({int(level) for level, part, _ in found if part == "attn"})),
        nearest_code=True,
        unit_codes=True,
    )


def vqgan_plan(config: VqganConfig) -> Plan:
    """Plan our VQGAN from one of theirs: it has the same parts, under other names."""
    last = len(config.multipliers) - 1
    recipe = {
        key: (Rows(their_name(key, last), 0, value.shape[0]),)
        for key, value in build(config).state_dict().items()
    }
    return Plan(recipe, ignored=frozenset({UNUSED}))


def their_name(key: str, last: int) -> str:
    """Return their name of a parameter of our VQGAN, whose last level has this number.

    They number the levels of both halves in the order in which they run.
    """
    if key == "codebook.weight":
        return CODES
    key = re.sub(r"\.mid\.(\w+)\.", lambda match: f".mid.{MIDDLE[match[1]]}.", key)
    key = re.sub(r"\.down\.(\d+)\.", r".conv_blocks.\1.", key)
    key = re.sub(r"\.up\.(\d+)\.", lambda match: f".conv_blocks.{last - int(match[1])}.", key)
    return key.replace(".block.", ".res.")


def convert_t5(folder: Path, dest: Path) -> None:
    """Convert a transformers folder with a T5 into one with its encoder alone.

    Raises WeightsError if something is missing or does not fit.
    """
    entries = read_config(folder / "config.json")
    if entries.get("model_type") != T5Config.model_type:
        raise WeightsError(f"{folder} holds a {entries.get('model_type')}; it must be a t5")
    files, _ = shards(folder)
    if not files:
        files = sorted(folder.glob("pytorch_model*.bin"))
    if not files:
        raise WeightsError(f"{folder} holds no model.safetensors or pytorch_model.bin: {AGAIN}")
    source = {key: value for path in files for key, value in read_tensors(path).items()}
    with building(folder):
        encoder = T5EncoderModel(T5Config.from_dict(entries)).encoder
    names = {
        key: "shared.weight" if key == "embed_tokens.weight" else f"encoder.{key}"
        for key in encoder.state_dict()
    }
    recipe = {
        key: (Rows(names[key], 0, value.shape[0]),) for key, value in encoder.state_dict().items()
    }
    unread = frozenset(key for key in source if key.startswith(T5_UNREAD))
    tensors = carry_out(Plan(recipe, ignored=unread), source, folder, encoder)
    dest.mkdir(parents=True)
    save_file({names[key]: value for key, value in tensors}, dest / "model.safetensors")
    entries |= {"architectures": ["T5EncoderModel"], "dtype": "float32"}
    (dest / "config.json").write_text(json.dumps(entries, indent=2) + "\n", encoding="utf-8")


def read_tokenizer(path: Path) -> Tokenizer:
    """Read T5's tokenizer and prepend the cleaning of captions.

    Raises WeightsError if it is missing, damaged, or of another model.
    """
    if not path.is_file():
        raise WeightsError(f"{path} is missing: {AGAIN}")
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the tokenizers library raises plain Exception on a damaged file
        raise WeightsError(f"{path} is no tokenizer: {first_line(error)}") from None
    tokenizer.no_padding()
    tokenizer.no_truncation()
    refuse(
        path, "is missing tokens", [t for t in (PADDING, END) if tokenizer.token_to_id(t) is None]
    )
    if tokenizer.encode("").ids != [tokenizer.token_to_id(END)]:
        raise WeightsError(f"{path} does not end prompts with {END}, as T5's does")
    cleaning = [
        normalizers.Lowercase(),
        *(normalizers.Replace(Regex(old), new) for old, new in CLEANED),
        normalizers.Strip(),
    ]
    own = [] if tokenizer.normalizer is None else [tokenizer.normalizer]
    tokenizer.normalizer = normalizers.Sequence([*cleaning, *own])
    return tokenizer
