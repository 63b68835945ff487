"""Adapters, which change a model while it loads: LoRA, another VAE, textual inversion."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from pipelines.checkpoints.errors import WeightsError
from pipelines.checkpoints.headers import Tensor, read_header
from pipelines.checkpoints.loading import FLOAT_TYPES, read_tensor, refuse
from pipelines.checkpoints.specs import Adapters
from pipelines.diffusion import lora
from pipelines.diffusion.networks import Networks, Reader, load_vae

# Files hold one tensor of vectors for each text encoder. Those for SDXL and those that were made
# by AUTOMATIC1111's web UI have these keys, and the word is the file's name; in those of diffusers
# the key is the word.
A1111_KEY = "emb_params"
SDXL_KEYS = ("clip_l", "clip_g")


def add(adapters: Adapters, networks: Networks, device: torch.device) -> Networks:
    """Add all adapters to the networks. Raises WeightsError for a file that does not fit."""
    for change in adapters.loras:
        lora.merge(change, _by_name(networks))
    if adapters.vae is not None:
        vae = load_vae(adapters.vae, networks.vae, device, networks.vae.dtype)
        networks = replace(networks, vae=vae)
    for path in adapters.embeddings:
        networks = _learn(path, networks)
    return networks


def _by_name(networks: Networks) -> Mapping[str, Any]:
    names = ("text_encoder", "text_encoder_2")
    encoders = [reader.encoder for reader in networks.readers]
    return {"unet": networks.unet, **dict(zip(names, encoders, strict=False))}


def _learn(path: Path, networks: Networks) -> Networks:
    """Add the vectors of a word to the text encoders (Gal et al., arXiv 2208.01618)."""
    word, vectors = _read_vectors(path, networks.readers)
    ids = tuple(
        _append(reader, rows) for reader, rows in zip(networks.readers, vectors, strict=True)
    )
    return replace(networks, words={**networks.words, word: ids})


def _read_vectors(path: Path, readers: tuple[Reader, ...]) -> tuple[str, list[torch.Tensor]]:
    """Read a word and, for each text encoder, its vectors (n, D)."""
    if path.suffix != ".safetensors":
        raise WeightsError(f"{path} is not a .safetensors file; others are pickles: not opened")
    header = read_header(path)
    if set(header) == set(SDXL_KEYS):
        word, keys = path.stem, list(SDXL_KEYS)
    elif len(header) == 1:
        [key] = header
        word, keys = path.stem if key == A1111_KEY else key, [key]
    else:
        raise WeightsError(f"{path} holds no words: its keys are {', '.join(list(header)[:3])}")
    if len(keys) != len(readers):
        raise WeightsError(f"{path} is for {len(keys)} text encoders, the model has {len(readers)}")
    refuse(path, "keys that are not floating point", [k for k in keys if not _is_float(header[k])])
    vectors = []
    with path.open("rb") as file:
        for key, reader in zip(keys, readers, strict=True):
            rows = read_tensor(file, header[key], torch.float32)
            rows = rows[None] if rows.ndim == 1 else rows
            width = reader.encoder.config.hidden_size
            if rows.ndim != 2 or rows.shape[1] != width:
                raise WeightsError(
                    f"{path} does not fit: {key} is {list(header[key].shape)}, "
                    f"the text encoder is {width} wide"
                )
            if not bool(rows.isfinite().all()):
                raise WeightsError(f"{path} has NaN or infinite values in {key}")
            vectors.append(rows)
    return word, vectors


def _is_float(tensor: Tensor) -> bool:
    return tensor.dtype in FLOAT_TYPES


def _append(reader: Reader, rows: torch.Tensor) -> tuple[int, ...]:
    """Append vectors (n, D) to an encoder's token embeddings and return their ids."""
    embedding = reader.encoder.get_input_embeddings()
    known = embedding.weight.data
    grown = torch.cat([known, rows.to(known.device, known.dtype)])
    reader.encoder.set_input_embeddings(torch.nn.Embedding.from_pretrained(grown))
    return tuple(range(len(known), len(grown)))
