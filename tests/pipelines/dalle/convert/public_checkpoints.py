"""Public checkpoints as their authors' code names and shapes them, at reduced widths.

The values follow from the names alone, so that a reference implementation elsewhere computes with
the same ones; what such implementations gave is in data/.
"""

import argparse
import hashlib
import json
import math
import sys
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors

DATA = Path(__file__).parents[2] / "data"
Shapes = dict[str, tuple[int, ...]]


def values(name: str, shape: tuple[int, ...]) -> torch.Tensor:
    """Numbers that follow from a name, of the size that such a tensor has in a trained network."""
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big")
    numbers = np.random.RandomState(seed).standard_normal(shape)
    if len(shape) == 1:
        numbers = 0.1 * numbers + name.endswith(".weight")  # of a norm
    elif "embed" in name:
        numbers *= 0.5
    else:
        numbers /= math.sqrt(math.prod(shape[1:]))
    return torch.from_numpy(np.asarray(numbers, dtype=np.float32))


def weights(shapes: Shapes, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    """A checkpoint with these keys."""
    return {name: values(name, shape).to(dtype) for name, shape in shapes.items()}


def picture(size: int) -> torch.Tensor:
    """A uint8 picture (1, 3, size, size) with some structure."""
    x = torch.linspace(0, 1, size)
    waves = torch.stack(
        [(7 * x).sin()[:, None] * (5 * x).cos(), x[:, None] * x, (9 * x * x[:, None]).cos()]
    )
    return ((waves + 1) * 127.5).round().to(torch.uint8)[None]


# --- ruDALL-E ---

RUDALLE = {"layers": 4, "width": 64, "heads": 4, "text": 16, "grid": 12, "words": 60, "codes": 64}


def rudalle_shapes() -> Shapes:
    """The parameters of a transformer, as listed by the reference; its masks are beside them."""
    C, T, grid = RUDALLE["width"], RUDALLE["text"], RUDALLE["grid"]
    words, codes = RUDALLE["words"] + T, RUDALLE["codes"]
    shapes: Shapes = {
        "text_embeddings.weight": (words, C),
        "image_embeddings.weight": (codes, C),
        "text_pos_embeddings.weight": (T + 1, C),
        "image_row_embeddings.weight": (grid, C),
        "image_col_embeddings.weight": (grid, C),
        "to_logits.0.weight": (C,),
        "to_logits.0.bias": (C,),
        "to_logits.1.weight": (words + codes, C),
        "to_logits.1.bias": (words + codes,),
        "transformer.final_layernorm.weight": (C,),
        "transformer.final_layernorm.bias": (C,),
    }
    norms = (
        "input_layernorm",
        "before_first_addition_layernorm",
        "before_second_addition_layernorm",
        "post_attention_layernorm",
    )
    linears = {
        "attention.query_key_value": (3 * C, C),
        "attention.dense": (C, C),
        "mlp.dense_h_to_4h": (4 * C, C),
        "mlp.dense_4h_to_h": (C, 4 * C),
    }
    for layer in range(RUDALLE["layers"]):
        name = f"transformer.layers.{layer}"
        for norm in norms:
            shapes |= {f"{name}.{norm}.{end}": (C,) for end in ("weight", "bias")}
        for linear, shape in linears.items():
            shapes |= {f"{name}.{linear}.weight": shape, f"{name}.{linear}.bias": shape[:1]}
    return shapes


def rudalle_masks(version: int) -> dict[str, torch.Tensor]:
    """The stored masks, position by position after their description."""
    T, W = RUDALLE["text"], RUDALLE["grid"]
    masks = torch.ones(3, T + W * W, T + W * W, dtype=torch.bool).tril()
    for q in range(W * W):
        for k in range(q + 1):
            up, left = abs(q // W - k // W), abs(q % W - k % W)
            if version == 2:
                up, left = min(up, W - up), min(left, W - left)
            masks[:, T + q, T + k] = torch.tensor(
                [q - k <= W, (q - k) % W == 0, max(up, left) <= 5]
            )
    names = ("row_mask", "col_mask", "conv_mask")
    return {f"transformer.{name}": mask for name, mask in zip(names, masks, strict=True)}


VQGAN = {"width": 32, "multipliers": (1, 1, 2, 4), "codes": 64, "code_width": 48, "blocks": 2}


def vqgan_shapes(
    multipliers: tuple[int, ...],
    width: int,
    code_width: int,
    blocks: int,
    encoder: bool,
    z_channels: int | None = None,
) -> Shapes:
    """Decoder, and encoder, of the taming-transformers layout, with attention at the last level."""
    shapes: Shapes = {}
    z_channels = code_width if z_channels is None else z_channels

    def conv(name: str, inputs: int, outputs: int, side: int = 3) -> None:
        shapes[f"{name}.weight"] = (outputs, inputs, side, side)
        shapes[f"{name}.bias"] = (outputs,)

    def norm(name: str, channels: int) -> None:
        shapes.update({f"{name}.weight": (channels,), f"{name}.bias": (channels,)})

    def block(name: str, inputs: int, outputs: int) -> None:
        norm(f"{name}.norm1", inputs)
        conv(f"{name}.conv1", inputs, outputs)
        norm(f"{name}.norm2", outputs)
        conv(f"{name}.conv2", outputs, outputs)
        if inputs != outputs:
            conv(f"{name}.nin_shortcut", inputs, outputs, 1)

    def attention(name: str, channels: int) -> None:
        norm(f"{name}.norm", channels)
        for part in ("q", "k", "v", "proj_out"):
            conv(f"{name}.{part}", channels, channels, 1)

    def middle(name: str, channels: int) -> None:
        block(f"{name}.block_1", channels, channels)
        attention(f"{name}.attn_1", channels)
        block(f"{name}.block_2", channels, channels)

    widths, last = [width * m for m in multipliers], len(multipliers) - 1
    inputs = widths[-1]
    conv("post_quant_conv", code_width, z_channels, 1)
    conv("decoder.conv_in", z_channels, inputs)
    middle("decoder.mid", inputs)
    for level in reversed(range(len(widths))):
        for i in range(blocks + 1):
            block(f"decoder.up.{level}.block.{i}", inputs, widths[level])
            inputs = widths[level]
            if level == last:
                attention(f"decoder.up.{level}.attn.{i}", inputs)
        if level > 0:
            conv(f"decoder.up.{level}.upsample.conv", inputs, inputs)
    norm("decoder.norm_out", inputs)
    conv("decoder.conv_out", inputs, 3)
    if not encoder:
        return shapes
    conv("quant_conv", z_channels, code_width, 1)
    conv("encoder.conv_in", 3, widths[0])
    inputs = widths[0]
    for level in range(len(widths)):
        for i in range(blocks):
            block(f"encoder.down.{level}.block.{i}", inputs, widths[level])
            inputs = widths[level]
            if level == last:
                attention(f"encoder.down.{level}.attn.{i}", inputs)
        if level < last:
            conv(f"encoder.down.{level}.downsample.conv", inputs, inputs)
    middle("encoder.mid", inputs)
    norm("encoder.norm_out", inputs)
    conv("encoder.conv_out", inputs, z_channels)
    return shapes


def sber_shapes() -> Shapes:
    """Sber's VQGAN."""
    codes, width = VQGAN["codes"], VQGAN["code_width"]
    return {
        **vqgan_shapes(VQGAN["multipliers"], VQGAN["width"], width, VQGAN["blocks"], encoder=True),
        "quantize.proj.weight": (codes, width, 1, 1),
        "quantize.proj.bias": (codes,),
        "quantize.embed.weight": (codes, width),
    }


def write_rudalle(folder: Path, version: int = 3) -> Path:
    """A download of ruDALL-E, in half precision, beside the VQGAN as its trainer saved it."""
    folder.mkdir()
    state = {**weights(rudalle_shapes(), torch.float16), **rudalle_masks(version)}
    torch.save(state, folder / "pytorch_model.bin")
    vqgan = {**weights(sber_shapes()), "loss.discriminator.main.0.bias": torch.ones(2)}
    torch.save({"epoch": 3, "state_dict": vqgan}, folder / "vqgan.gumbelf8-sber.model.ckpt")
    (folder / "bpe.model").write_bytes((DATA / "bpe.model").read_bytes())
    return folder


# --- min-dalle ---

BART = {"layers": 2, "width": 64, "heads": 4, "inside": 90, "text": 16, "codes": 32}
LETTERS = "abcdelnoprstuw"
MERGED = ("th", "on", "the", "red", "bl", "ue")
MERGES = ["t h", "o n", "th e", "r e", "re d", "b l", "u e", "Ġ the"]


def bart_words() -> dict[str, int]:
    """A vocabulary in the order of BART's: special tokens, then pieces."""
    words = ["<s>", "<pad>", "</s>", "<unk>", "Ġ", "Ġthe", "re", *LETTERS, *MERGED, "h", "!", "7"]
    return {word: token for token, word in enumerate(words)}


def bart_shapes(decoder: bool) -> Shapes:
    """An encoder or decoder; the norms without a scale have a bias only."""
    C, inside = BART["width"], BART["inside"]
    shapes: Shapes = {
        "embed_tokens.weight": ((BART["codes"] + 4) if decoder else len(bart_words()), C),
        "embed_positions.weight": (256 if decoder else BART["text"], C),
        "layernorm_embedding.weight": (C,),
        "layernorm_embedding.bias": (C,),
        "final_ln.bias": (C,),
    }
    if decoder:
        shapes["lm_head.weight"] = (BART["codes"] + 4, C)
    for layer in range(BART["layers"]):
        name = f"layers.{layer}"
        attentions = {"self_attn": ("pre_self_attn_layer_norm", "self_attn_layer_norm")}
        if decoder:
            attentions["encoder_attn"] = ("pre_encoder_attn_layer_norm", "encoder_attn_layer_norm")
        for attention, (before, behind) in attentions.items():
            shapes |= {
                f"{name}.{attention}.{p}_proj.weight": (C, C) for p in ("q", "k", "v", "out")
            }
            shapes |= {f"{name}.{before}.bias": (C,)}
            shapes |= {f"{name}.{behind}.{end}": (C,) for end in ("weight", "bias")}
        shapes |= {
            f"{name}.glu.ln0.bias": (C,),
            f"{name}.glu.ln1.bias": (inside,),
            f"{name}.glu.fc0.weight": (inside, C),
            f"{name}.glu.fc1.weight": (inside, C),
            f"{name}.glu.fc2.weight": (C, inside),
        }
    return shapes


DETOKENIZER = {"multipliers": (1, 1, 2, 2, 4), "width": 32, "code_width": 16, "blocks": 2}


def detokenizer_shapes() -> Shapes:
    """The VQGAN's decoder."""
    shapes = vqgan_shapes(encoder=False, **DETOKENIZER)  # type: ignore[arg-type]
    return {"embedding.weight": (BART["codes"], DETOKENIZER["code_width"]), **shapes}


def write_min_dalle(folder: Path, suffix: str = "_mini") -> Path:
    """A download of min-dalle, in half precision but for the VQGAN."""
    folder.mkdir(exist_ok=True)
    for name, decoder in (("encoder", False), ("decoder", True)):
        state = {
            key: values(f"{name}.{key}", shape).half()
            for key, shape in bart_shapes(decoder).items()
        }
        torch.save(state, folder / f"{name}{suffix}.pt")
    torch.save(weights(detokenizer_shapes()), folder / "detoker.pt")
    words = json.dumps(bart_words(), ensure_ascii=False)
    (folder / f"vocab{suffix}.json").write_text(words, encoding="utf-8")
    merges = "\n".join(["#version: 0.2", *MERGES]) + "\n"
    (folder / f"merges{suffix}.txt").write_text(merges, encoding="utf-8")
    return folder


# --- minDALL-E ---

KAKAO = {"layers": 2, "width": 64, "heads": 4, "text": 16, "grid": 6, "codes": 40}
KAKAO_VQGAN = {"multipliers": (1, 1, 2, 2, 4), "width": 32, "code_width": 16, "blocks": 2}
KAKAO_MERGES = ["t h", "th e</w>", "r e", "re d</w>", "b o", "l t</w>", "bo lt</w>", "o n</w>"]


def kakao_words() -> dict[str, int]:
    """Letters inside and at the end of words, then what is merged of them."""
    letters = [*LETTERS, "é", "h", "!", "7", "-"]
    words = ["[UNK]", "[PAD]", *letters, *(f"{letter}</w>" for letter in letters)]
    words += [merge.replace(" ", "") for merge in KAKAO_MERGES]
    return {word: token for token, word in enumerate(words)}


def kakao_shapes() -> Shapes:
    """The transformer, as listed by the reference."""
    C, words = KAKAO["width"], len(kakao_words())
    shapes: Shapes = {
        "tok_emb_img.weight": (KAKAO["codes"], C),
        "tok_emb_txt.weight": (words, C),
        "pos_emb_img.weight": (KAKAO["grid"] ** 2, C),
        "pos_emb_txt.weight": (KAKAO["text"], C),
        "ln_f.weight": (C,),
        "ln_f.bias": (C,),
        "head_img.weight": (KAKAO["codes"], C),
        "head_txt.weight": (words, C),
    }
    linears = {f"attn.{part}": (C, C) for part in ("key", "query", "value", "proj")}
    linears |= {"mlp.0": (4 * C, C), "mlp.2": (C, 4 * C)}
    for layer in range(KAKAO["layers"]):
        name = f"blocks.{layer}"
        for norm in ("ln1", "ln2"):
            shapes |= {f"{name}.{norm}.{end}": (C,) for end in ("weight", "bias")}
        for linear, shape in linears.items():
            shapes |= {f"{name}.{linear}.weight": shape, f"{name}.{linear}.bias": shape[:1]}
    return shapes


def kakao_vqgan_shapes() -> Shapes:
    """The VQGAN, whose encoder takes the nearest code."""
    shapes = vqgan_shapes(encoder=True, **KAKAO_VQGAN)  # type: ignore[arg-type]
    return {"quantize.embedding.weight": (KAKAO["codes"], KAKAO_VQGAN["code_width"]), **shapes}


def write_kakao(folder: Path) -> Path:
    """An unpacked download of minDALL-E, as its trainer saved it."""
    (folder / "tokenizer").mkdir(parents=True)
    parts = {"stage1_last": kakao_vqgan_shapes(), "stage2_last": kakao_shapes()}
    for name, shapes in parts.items():
        torch.save({"epoch": 3, "state_dict": weights(shapes)}, folder / f"{name}.ckpt")
    words = json.dumps(kakao_words(), ensure_ascii=False)
    (folder / "tokenizer/bpe-16k-vocab.json").write_text(words, encoding="utf-8")
    merges = "\n".join(["#version: 0.2", *KAKAO_MERGES]) + "\n"
    (folder / "tokenizer/bpe-16k-merges.txt").write_text(merges, encoding="utf-8")
    return folder


# --- LlamaGen ---

LLAMAGEN = {"layers": 2, "width": 64, "heads": 4, "inside": 176, "text": 12, "grid": 6, "codes": 40}
LLAMAGEN_VQGAN = {
    "multipliers": (1, 1, 2, 2, 4),
    "width": 32,
    "code_width": 8,
    "blocks": 2,
    "z_channels": 48,
}
T5 = {
    "model_type": "t5",
    "architectures": ["T5ForConditionalGeneration"],
    "d_model": 32,
    "d_kv": 8,
    "num_heads": 4,
    "d_ff": 48,
    "num_layers": 2,
    "vocab_size": 48,
    "feed_forward_proj": "gated-gelu",
    "relative_attention_num_buckets": 8,
    "tie_word_embeddings": False,
}
T5_PIECES = ("▁", "▁the", "▁red", "▁bolt", "▁on", "th", "bl", "ue")


def llamagen_shapes() -> Shapes:
    """The transformer, as listed by the reference."""
    C, inside = LLAMAGEN["width"], LLAMAGEN["inside"]
    shapes: Shapes = {
        "cls_embedding.uncond_embedding": (LLAMAGEN["text"], T5["d_model"]),  # type: ignore[dict-item]
        "cls_embedding.cap_proj.fc1.weight": (C, T5["d_model"]),  # type: ignore[dict-item]
        "cls_embedding.cap_proj.fc2.weight": (C, C),
        "tok_embeddings.weight": (LLAMAGEN["codes"], C),
        "norm.weight": (C,),
        "output.weight": (LLAMAGEN["codes"], C),
    }
    for layer in range(LLAMAGEN["layers"]):
        shapes |= {
            f"layers.{layer}.attention.wqkv.weight": (3 * C, C),
            f"layers.{layer}.attention.wo.weight": (C, C),
            f"layers.{layer}.feed_forward.w1.weight": (inside, C),
            f"layers.{layer}.feed_forward.w3.weight": (inside, C),
            f"layers.{layer}.feed_forward.w2.weight": (C, inside),
            f"layers.{layer}.attention_norm.weight": (C,),
            f"layers.{layer}.ffn_norm.weight": (C,),
        }
    return shapes


def llamagen_vqgan_shapes() -> Shapes:
    """The VQGAN, whose levels have numbers in the order in which they run, in the decoder too."""
    middle = {"block_1": "0", "attn_1": "1", "block_2": "2"}
    last = len(LLAMAGEN_VQGAN["multipliers"]) - 1  # type: ignore[arg-type]
    shapes: Shapes = {
        "quantize.embedding.weight": (LLAMAGEN["codes"], 8),
        "quantize.codebook_used": (65536,),
    }
    ours = vqgan_shapes(encoder=True, **LLAMAGEN_VQGAN)  # type: ignore[arg-type]
    for key, shape in ours.items():
        match key.split("."):
            case [half, "down", level, *rest]:
                parts = [half, "conv_blocks", level, *rest]
            case [half, "up", level, *rest]:
                parts = [half, "conv_blocks", str(last - int(level)), *rest]
            case [half, "mid", part, *rest]:
                parts = [half, "mid", middle[part], *rest]
            case parts:
                pass
        shapes[".".join("res" if part == "block" else part for part in parts)] = shape
    return shapes


def t5_shapes() -> Shapes:
    """The encoder, the embedding in both places that it is stored in, and some of the decoder."""
    C, inner = 32, 32
    shapes: Shapes = {
        "shared.weight": (48, C),
        "encoder.embed_tokens.weight": (48, C),
        "encoder.final_layer_norm.weight": (C,),
        "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight": (8, 4),
        "decoder.final_layer_norm.weight": (C,),
        "lm_head.weight": (48, C),
    }
    for block in range(2):
        name = f"encoder.block.{block}.layer"
        shapes |= {f"{name}.0.SelfAttention.{part}.weight": (inner, C) for part in ("q", "k", "v")}
        shapes |= {
            f"{name}.0.SelfAttention.o.weight": (C, inner),
            f"{name}.0.layer_norm.weight": (C,),
            f"{name}.1.DenseReluDense.wi_0.weight": (48, C),
            f"{name}.1.DenseReluDense.wi_1.weight": (48, C),
            f"{name}.1.DenseReluDense.wo.weight": (C, 48),
            f"{name}.1.layer_norm.weight": (C,),
        }
    return shapes


def write_t5(folder: Path) -> Path:
    """FLAN-T5 with two shards, as transformers saved it, and a tokenizer of the same kind."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(T5))
    state = {key: values(f"t5.{key}", shape) for key, shape in t5_shapes().items()}
    state["encoder.embed_tokens.weight"] = state["shared.weight"]
    keys = sorted(state)
    for number, part in enumerate((keys[:9], keys[9:]), start=1):
        shard = {key: state[key] for key in part}
        torch.save(shard, folder / f"pytorch_model-0000{number}-of-00002.bin")
    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -20.0)]
    signs = [(sign, -8.0) for sign in [*LETTERS, "h", "!", "7", "-", ".", ",", "'", '"']]
    pieces = [*special, *((piece, -3.0) for piece in T5_PIECES), *signs]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=2, byte_fallback=False))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace("▁", prepend_scheme="always")
    tokenizer.post_processor = processors.TemplateProcessing(
        single=["$A", "</s>"], special_tokens=[("</s>", 1)]
    )
    tokenizer.enable_truncation(5)  # as some are saved, which must not last
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def write_llamagen(folder: Path) -> Path:
    """A download of LlamaGen from text, as its trainers saved it, beside FLAN-T5."""
    write_t5(folder / "flan-t5-xl")
    arguments = argparse.Namespace(image_size=96, data_path="somewhere")
    for name, shapes in (("t2i_XL", llamagen_shapes()), ("vq_ds16_t2i", llamagen_vqgan_shapes())):
        state = {key: values(f"{name}.{key}", shape) for key, shape in shapes.items()}
        saved = {"model": state, "optimizer": {"state": {}}, "steps": 3, "args": arguments}
        torch.save(saved, folder / f"{name}.pt")
    return folder


# --- OpenAI's dVAE ---

DVAE = {"width": 64, "codes": 512, "blocks": 1, "code_width": 16}


def dvae_shapes(part: str) -> Shapes:
    """The encoder or the decoder."""
    n, blocks = DVAE["width"], DVAE["blocks"]
    encoder = part == "encoder"
    groups = (n, 2 * n, 4 * n, 8 * n) if encoder else (8 * n, 4 * n, 2 * n, n)
    first = (n, 3, 7, 7) if encoder else (DVAE["code_width"], DVAE["codes"], 1, 1)
    shapes: Shapes = {"blocks.input.w": first}
    inputs = first[0]
    for group, outputs in enumerate(groups, start=1):
        for block in range(1, blocks + 1):
            name, hidden = f"blocks.group_{group}.block_{block}", outputs // 4
            widths = (inputs, hidden, hidden, hidden, outputs)
            sides = (3, 3, 3, 1) if encoder else (1, 3, 3, 3)
            if inputs != outputs:
                shapes[f"{name}.id_path.w"] = (outputs, inputs, 1, 1)
            for i in range(4):
                shapes[f"{name}.res_path.conv_{i + 1}.w"] = (
                    widths[i + 1],
                    widths[i],
                    sides[i],
                    sides[i],
                )
            inputs = outputs
    shapes["blocks.output.conv.w"] = (DVAE["codes"] if encoder else 6, inputs, 1, 1)
    return shapes | {f"{name[:-1]}b": shape[:1] for name, shape in shapes.items()}


def write_dvae(folder: Path) -> Path:
    """Both networks pickled as a whole, by classes with the names of those that OpenAI had."""
    folder.mkdir()
    for part in ("encoder", "decoder"):
        state = {key: values(f"{part}.{key}", shape) for key, shape in dvae_shapes(part).items()}
        with_names = {
            "dall_e": {},
            f"dall_e.{part}": {part.title(): torch.nn.Module},
            "dall_e.utils": {"Conv2d": torch.nn.Module},
        }
        modules: dict[str, types.ModuleType] = {}
        for module, classes in with_names.items():
            modules[module] = types.ModuleType(module)
            for name, base in classes.items():
                made = type(name, (base,), {"__module__": module})
                setattr(modules[module], name, made)
        network = getattr(modules[f"dall_e.{part}"], part.title())()
        for key, value in state.items():
            *path, end = key.split(".")
            place = network
            for step in path[:-1]:
                if not hasattr(place, step):
                    place.add_module(step, torch.nn.Sequential())
                place = getattr(place, step)
            if not hasattr(place, path[-1]):
                place.add_module(path[-1], modules["dall_e.utils"].Conv2d())
            getattr(place, path[-1]).register_parameter(end, torch.nn.Parameter(value))
        network.add_module("up", torch.nn.Upsample(scale_factor=2))
        network.device = torch.device("cpu")
        sys.modules.update(modules)
        try:
            torch.save(network, folder / f"{part}.pkl")
        finally:
            for module in modules:
                del sys.modules[module]
    return folder


def reference(name: str) -> Mapping[str, Any]:
    """What a reference implementation gave."""
    with np.load(DATA / f"{name}.npz") as file:
        return {key: torch.from_numpy(file[key]) for key in file.files}
