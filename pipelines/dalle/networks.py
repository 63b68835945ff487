"""The parts of a model of the DALL·E path, loaded from a folder."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import torch
from transformers import PreTrainedTokenizerFast
from transformers.models.clip.configuration_clip import CLIPTextConfig
from transformers.models.clip.modeling_clip import CLIPTextModel
from transformers.models.t5.configuration_t5 import T5Config
from transformers.models.t5.modeling_t5 import T5EncoderModel, T5Stack

from pipelines.checkpoints.configs import read_config
from pipelines.checkpoints.errors import WeightsError
from pipelines.checkpoints.headers import in_messages, read_headers, weights_files
from pipelines.checkpoints.loading import (
    ByteCount,
    building,
    check_pairs,
    check_tokenizer,
    fill_position_ids,
    load_tokenizer,
    load_weights,
    settle,
)
from pipelines.checkpoints.specs import Spec
from pipelines.dalle.bart import BartConfig, BartEncoder
from pipelines.dalle.dvae import DiscreteVae, DvaeConfig, TowerConfig
from pipelines.dalle.transformer import Transformer, TransformerConfig
from pipelines.dalle.vqgan import Vqgan, VqganConfig
from pipelines.loading import Report, ignore_progress

TextEncoder: TypeAlias = CLIPTextModel | T5Stack | BartEncoder


@dataclass(frozen=True)
class DalleNetworks:
    """The parts of a model of the DALL·E path, in evaluation mode on one device."""

    tokenizer: PreTrainedTokenizerFast
    text_encoder: TextEncoder | None  # None where the transformer reads text tokens
    transformer: Transformer
    dvae: DiscreteVae | Vqgan


def load_dalle(
    spec: Spec, device: torch.device, dtype: torch.dtype, report: Report = ignore_progress
) -> DalleNetworks:
    """Load the folder of `spec`, half-precision files included, as `dtype` onto `device`.

    Raises WeightsError, in one line, for anything that is missing, damaged or does not fit.
    """
    folder = spec.folder
    if not folder.is_dir():
        raise WeightsError(f"the weights of {spec.name!r} are not there: {folder} does not exist")
    with building(folder):
        transformer = Transformer(TransformerConfig(**_own_config(folder / "transformer")))
        dvae = _build_dvae(folder / "dvae")
        text_encoder = _build_text_encoder(spec.part("text_encoder"), transformer.config)
    tokenizer = load_tokenizer(spec.part("tokenizer"))
    _check_dalle_fit(folder, tokenizer, text_encoder, transformer, dvae)

    parts: dict[str, torch.nn.Module] = {"transformer": transformer, "dvae": dvae}
    if text_encoder is not None:
        parts["text_encoder"] = text_encoder
    dtypes = dict.fromkeys(parts, dtype)
    if isinstance(text_encoder, T5Stack) and dtype == torch.float16:
        dtypes["text_encoder"] = torch.bfloat16  # its values go beyond float16
    added = ByteCount(parts, dtypes, report).add
    for part, network in parts.items():
        files = weights_files(spec.part(part), "model", "pytorch_model")
        load_weights(network, in_messages(files), read_headers(files), dtypes[part], added)
    if isinstance(text_encoder, CLIPTextModel):
        fill_position_ids(text_encoder)
    for network in parts.values():
        settle(network, device)
    return DalleNetworks(tokenizer, text_encoder, transformer, dvae)


def _build_dvae(folder: Path) -> DiscreteVae | Vqgan:
    """Build the decoder of image codes, without its weights."""
    if read_config(folder / "config.json").get("_class_name") == Vqgan.__name__:
        return Vqgan(VqganConfig(**_own_config(folder)))
    return DiscreteVae(_dvae_config(_own_config(folder)))


def _build_text_encoder(folder: Path, transformer: TransformerConfig) -> TextEncoder | None:
    """Build the network that reads prompts for the transformer, without its weights; None where the
    transformer reads them itself."""
    if transformer.cross_attention_width is not None:
        return BartEncoder(BartConfig(**_own_config(folder)))
    if transformer.prefix_width is None:
        return None
    config = read_config(folder / "config.json")
    if config.get("model_type") == T5Config.model_type:
        return T5EncoderModel(T5Config.from_dict(config)).encoder
    return CLIPTextModel(CLIPTextConfig.from_dict(config))


def load_dvae(folder: Path) -> DiscreteVae:
    """Load one discrete VAE in float32 on the CPU, to train on. Raises WeightsError."""
    with building(folder):
        dvae = DiscreteVae(_dvae_config(_own_config(folder)))
    files = weights_files(folder, "model", "pytorch_model")
    load_weights(dvae, in_messages(files), read_headers(files), torch.float32)
    return dvae.requires_grad_(False).eval()


def _own_config(folder: Path) -> dict[str, Any]:
    """Read the fields of a config that `save_network` wrote."""
    config = read_config(folder / "config.json")
    return {name: value for name, value in config.items() if name != "_class_name"}


def _dvae_config(entries: Mapping[str, Any]) -> DvaeConfig:
    towers = {
        name: TowerConfig(**{**entries[name], "widths": tuple(entries[name]["widths"])})
        for name in ("encoder", "decoder")
    }
    return DvaeConfig(**{**entries, **towers})


def _check_dalle_fit(
    folder: Path,
    tokenizer: PreTrainedTokenizerFast,
    text_encoder: TextEncoder | None,
    transformer: Transformer,
    dvae: DiscreteVae | Vqgan,
) -> None:
    """Check that the parts of a DALL·E model fit together; raise WeightsError if not."""
    codes, config = dvae.config, transformer.config
    pairs: list[tuple[str, int, str, int | None]] = [
        (
            "dvae vocabulary",
            codes.vocabulary,
            "transformer image_vocabulary",
            config.image_vocabulary,
        ),
        ("dvae grid", codes.grid, "transformer grid", config.grid),
    ]
    reader, vocabulary = "transformer text_vocabulary", config.text_vocabulary
    if isinstance(text_encoder, BartEncoder):
        width, crossed = text_encoder.config.width, config.cross_attention_width
        pairs.append(("text_encoder width", width, "transformer cross_attention_width", crossed))
        reader, vocabulary = "text_encoder vocabulary", text_encoder.config.vocabulary
    elif isinstance(text_encoder, T5Stack):
        width, wanted = text_encoder.config.d_model, config.prefix_width
        pairs.append(("text_encoder d_model", width, "transformer prefix_width", wanted))
        reader, vocabulary = "text_encoder vocab_size", text_encoder.config.vocab_size
    elif text_encoder is not None:
        text = text_encoder.config
        width, length = text.hidden_size, text.max_position_embeddings
        pairs += [
            ("text_encoder hidden_size", width, "transformer prefix_width", config.prefix_width),
            ("text_encoder positions", length, "transformer text_length", config.text_length),
        ]
        reader, vocabulary = "text_encoder vocab_size", text.vocab_size
    check_pairs(folder, pairs)
    check_tokenizer(folder, tokenizer, reader, vocabulary)
