"""What comes with weights: headers of safetensors files, JSON configs, names of files."""

import json
import os
import struct
from pathlib import Path

import torch
from fuzzing import Parser, files_below

import rerank.model.specs
from pipelines import families
from pipelines.checkpoints.configs import check_type, parse_json, read_config
from pipelines.checkpoints.errors import WeightsError
from pipelines.checkpoints.headers import Entry, read_header, read_metadata
from pipelines.checkpoints.specs import read_adapters
from pipelines.checkpoints.tokenizer_files import check_tokenizer_files, is_quick
from pipelines.dalle.convert.yttm import read_bpe
from pipelines.diffusion.embeddings import read_words
from pipelines.diffusion.lora import Settings, Target, scale_of
from pipelines.diffusion.lora_keys import kind_of, made_for, split
from rerank.model.preprocessing import read_preprocessing


def _safetensors(header: bytes, content: bytes = b"") -> bytes:
    return struct.pack("<Q", len(header)) + header + content


ENTRY = {"a": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}}
FILE = _safetensors(json.dumps(ENTRY).encode(), bytes(16))
REAL = files_below("pipelines/checkpoints", ".json")
PEFT = b'{"r": 8, "lora_alpha": 16, "alpha_pattern": {"to_q": 4, "(a|b).*": 2}, "use_rslora": true}'
TOKENIZER = b"""{"model": {"type": "BPE", "vocab": {"a": 0, "b</w>": 1}, "merges": ["a b</w>"]},
 "pre_tokenizer": {"type": "Split", "pattern": {"Regex": "\\\\p{L}+| ?\\\\p{N}+"},
 "behavior": "Removed"}}"""
BPE = b"2 2\n97 4\n98 5\n4 5 6\n6 6 7\n1 0 2 3\n"
TARGET = Target("unet", "mid_block.attentions.0.to_q")
CONFIG = b'{"_class_name": "UNet2DConditionModel", "sample_size": 64, "block_out_channels": [8]}'
JSON_SIGNS = (b"{", b"}", b"[", b"]", b'"', b":", b",", b"1", b"-", b"1e9", b"null", b"NaN", b"\\u")


def _tokenizer(path: Path) -> None:
    (path.parent / "tokenizer.json").write_bytes(path.read_bytes())
    check_tokenizer_files(path.parent)


def _folder(path: Path) -> object:
    """Read a folder by its index, which is all that it has."""
    (path.parent / "model_index.json").write_bytes(path.read_bytes())
    return families.find(str(path.parent))


def _preprocessing(path: Path) -> object:
    (path.parent / "preprocessor_config.json").write_bytes(path.read_bytes())
    return read_preprocessing(path.parent, 224)


def _peft(data: bytes) -> list[torch.Tensor]:
    """Read peft's settings, and scale a LoRA by them."""
    parts = {"up": torch.ones(4, 2), "down": torch.ones(2, 4)}
    return [
        torch.ones(1) * scale_of(Settings(parse_json(data)), TARGET, parts, r) for r in (2, None)
    ]


def _named(text: str) -> object:
    """Find models by a name; what is a folder on this disk is none."""
    return None if os.path.isdir(text) else (families.find(text), rerank.model.specs.find(text))


PARSERS = [
    Parser(
        name="the header of a safetensors file",
        read=lambda path: (read_header(path), read_metadata(path)),
        refuses=(WeightsError,),
        signs=(struct.pack("<Q", 9), struct.pack("<Q", 2**63), b"__metadata__", *JSON_SIGNS),
        examples=(FILE, _safetensors(b'{"__metadata__": {"a": "b"}}'), _safetensors(b"{}")),
        suffix=".safetensors",
    ),
    Parser(
        name="the entries of a header",
        read=lambda header: check_type(parse_json(header), dict[str, Entry]),
        refuses=(ValueError,),
        signs=JSON_SIGNS,
        examples=(json.dumps(ENTRY).encode(),),
    ),
    Parser(
        name="learned words",
        read=read_words,
        refuses=(WeightsError,),
        signs=(b"emb_params", b"clip_l", b"clip_g", *JSON_SIGNS),
        examples=(FILE,),
        suffix=".safetensors",
    ),
    Parser(
        name="the config of a network",
        read=read_config,
        refuses=(WeightsError,),
        signs=(b"_class_name", b"auto_map", b"num_hidden_layers", *JSON_SIGNS),
        examples=(CONFIG, *REAL),
        suffix=".json",
    ),
    Parser(
        name="the index of a model folder",
        read=_folder,
        refuses=(WeightsError,),
        signs=(b"_class_name", b"StableDiffusionPipeline", b"Dalle", b"diffusers", *JSON_SIGNS),
        examples=tuple(each for each in REAL if b"_class_name" in each[:40]),
        suffix=".json",
    ),
    Parser(
        name="the files of a tokenizer",
        read=_tokenizer,
        refuses=(WeightsError,),
        signs=(b'"Regex"', b'"pattern"', b'"Split"', b"(a+)+", b"\\\\p{L}", *JSON_SIGNS),
        examples=(TOKENIZER,),
        suffix=".json",
    ),
    Parser(
        name="how a reranker prepares images",
        read=_preprocessing,
        refuses=(WeightsError,),
        signs=(b'"size"', b'"crop_size"', b'"shortest_edge"', b'"resample"', *JSON_SIGNS),
        examples=tuple(files_below("rerank/checkpoints", "preprocessor_config.json")),
        suffix=".json",
    ),
    Parser(
        name="the settings of peft",
        read=_peft,
        refuses=(ValueError,),
        signs=(b'"r"', b'"lora_alpha"', b'"alpha_pattern"', b'"unet.r"', *JSON_SIGNS),
        examples=(PEFT,),
    ),
    Parser(
        name="a model of YouTokenToMe",
        read=read_bpe,
        refuses=(WeightsError,),
        signs=(b"0", b"1", b"97 4", b" 4 4 5", b"\n", b" ", b"-1", b"1114112", b"\xff"),
        examples=(BPE, *files_below("tests/pipelines/data", "bpe.model")),
        suffix=".model",
    ),
    Parser(
        name="expressions of tokenizers",
        read=is_quick,
        refuses=(),
        signs=(
            "(",
            ")",
            "[",
            "]",
            "|",
            "*",
            "+",
            "?",
            "{2,}",
            "{,9}",
            "\\p{L}",
            "(?:",
            "(?i)",
            "^",
        ),
        examples=(r"'s|'t| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",),
    ),
    Parser(
        name="names of adapters",
        read=lambda text: read_adapters(text, None, text),
        refuses=(WeightsError, ValueError),
        signs=(",", ":", "0.8", "nan", "~", "..", "\0", "a.safetensors"),
        examples=("a.safetensors:0.8, b, c.safetensors:0.8",),
    ),
    Parser(
        name="names of models",
        read=_named,
        refuses=(WeightsError,),
        signs=("org/name", "@", "~", "..", "\0", ".safetensors", "-"),
        examples=("org/name@main", "stickers"),
    ),
    Parser(
        name="keys of LoRA files",
        read=lambda key: (split(key), kind_of({key}), made_for({})),
        refuses=(),
        signs=("lora_unet_", ".lora_up.weight", ".processor.", "to_q_lora.down.weight", ".", "_"),
        examples=("unet.mid_block.attentions.0.to_q.lora_A.weight",),
    ),
]
