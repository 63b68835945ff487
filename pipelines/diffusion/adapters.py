"""Adapters, which change a model while it loads: LoRA and textual inversion."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import torch

from pipelines.checkpoints.errors import WeightsError
from pipelines.checkpoints.loading import FLOAT_TYPES, read_tensor, refuse
from pipelines.checkpoints.specs import Adapters
from pipelines.diffusion import lora
from pipelines.diffusion.embeddings import Word, read_words
from pipelines.diffusion.networks import Networks, Reader


def add(adapters: Adapters, networks: Networks) -> Networks:
    """Add all adapters but the VAE, which is loaded in place of the model's own, to the networks.

    Raises WeightsError for a file that does not fit.
    """
    lora.merge(adapters.loras, _by_name(networks))
    for path in adapters.embeddings:
        networks = _learn(path, networks)
    return networks


def _by_name(networks: Networks) -> Mapping[str, Any]:
    names = ("text_encoder", "text_encoder_2")
    encoders = [reader.encoder for reader in networks.readers]
    return {"unet": networks.unet, **dict(zip(names, encoders, strict=False))}


def _learn(path: Path, networks: Networks) -> Networks:
    """Add the vectors of the words in a file to the text encoders."""
    words = dict(networks.words)
    with path.open("rb") as file:
        for word in read_words(path):
            vectors = _read_vectors(path, file, word, networks.readers)
            words[word.text.lower()] = tuple(
                _append(reader, rows)
                for reader, rows in zip(networks.readers, vectors, strict=True)
            )
    return replace(networks, words=words)


def _read_vectors(
    path: Path, file: BinaryIO, word: Word, readers: tuple[Reader, ...]
) -> list[torch.Tensor]:
    """Read the vectors (n, D) of a word for each text encoder."""
    keys = list(word.tensors)
    if len(keys) != len(readers):
        raise WeightsError(f"{path} is for {len(keys)} text encoders, the model has {len(readers)}")
    wrong = [key for key, tensor in word.tensors.items() if tensor.dtype not in FLOAT_TYPES]
    refuse(path, "keys that are not floating point", wrong)
    vectors = []
    for (key, tensor), reader in zip(word.tensors.items(), readers, strict=True):
        width = reader.encoder.config.hidden_size
        if tensor.shape[-1] != width:
            raise WeightsError(
                f"{path} does not fit: {key} is {list(tensor.shape)}, "
                f"the text encoder is {width} wide"
            )
        rows = read_tensor(file, tensor, torch.float32).reshape(-1, width)
        if not bool(rows.isfinite().all()):
            raise WeightsError(f"{path} has NaN or infinite values in {key}")
        vectors.append(rows)
    return vectors


def _append(reader: Reader, rows: torch.Tensor) -> tuple[int, ...]:
    """Append vectors (n, D) to an encoder's token embeddings and return their ids."""
    embedding = reader.encoder.get_input_embeddings()
    known = embedding.weight.data
    grown = torch.cat([known, rows.to(known.device, known.dtype)])
    reader.encoder.set_input_embeddings(torch.nn.Embedding.from_pretrained(grown))
    return tuple(range(len(known), len(grown)))
