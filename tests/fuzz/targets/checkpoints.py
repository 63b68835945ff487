"""What comes with weights: headers of safetensors files, JSON configs, names of files."""

import json
import struct

from fuzzing import Parser

import rerank.model.specs
from pipelines import families
from pipelines.checkpoints.configs import check_type, parse_json, read_config
from pipelines.checkpoints.errors import WeightsError
from pipelines.checkpoints.headers import Entry, read_header, read_metadata
from pipelines.checkpoints.specs import read_adapters
from pipelines.checkpoints.tokenizer_files import is_quick
from pipelines.diffusion.embeddings import read_words
from pipelines.diffusion.lora_keys import kind_of, made_for, split


def _safetensors(header: bytes, content: bytes = b"") -> bytes:
    return struct.pack("<Q", len(header)) + header + content


ENTRY = {"a": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}}
FILE = _safetensors(json.dumps(ENTRY).encode(), bytes(16))
CONFIG = b'{"_class_name": "UNet2DConditionModel", "sample_size": 64, "block_out_channels": [8]}'
JSON_SIGNS = (b"{", b"}", b"[", b"]", b'"', b":", b",", b"1", b"-", b"1e9", b"null", b"NaN", b"\\u")

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
        examples=(CONFIG,),
        suffix=".json",
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
        read=lambda text: (families.find(text), rerank.model.specs.find(text)),
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
