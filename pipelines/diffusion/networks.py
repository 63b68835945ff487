"""The parts of a latent diffusion model, loaded from a folder or a single file."""

import gzip
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from tokenizers.pre_tokenizers import ByteLevel
from transformers.models.clip.configuration_clip import CLIPTextConfig
from transformers.models.clip.modeling_clip import CLIPTextModel, CLIPTextModelWithProjection
from transformers.models.clip.tokenization_clip import CLIPTokenizer

from pipelines.checkpoints import single_file
from pipelines.checkpoints.configs import read_config
from pipelines.checkpoints.errors import WeightsError
from pipelines.checkpoints.headers import in_messages, read_header, read_headers, weights_files
from pipelines.checkpoints.loading import (
    ByteCount,
    building,
    check_pairs,
    check_tokenizer,
    fill,
    fill_position_ids,
    load_tokenizer,
    load_weights,
    may_ignore,
    refuse,
    settle,
)
from pipelines.checkpoints.specs import Spec
from pipelines.diffusion.spec import inpainting_channels, needs_float32, text_components
from pipelines.loading import Report, ignore_progress
from pipelines.runtime.cpu import divide

OPENAI_MERGES = 49_408 - 2 - 2 * 256  # of all tokens, those that are no byte and no mark


@dataclass(frozen=True)
class Reader:
    """One of the text encoders of a model, and the tokenizer whose tokens it reads."""

    tokenizer: CLIPTokenizer
    encoder: CLIPTextModel | CLIPTextModelWithProjection


@dataclass(frozen=True)
class Networks:
    """The parts of a latent diffusion model, in evaluation mode on one device and dtype."""

    readers: tuple[Reader, ...]
    unet: UNet2DConditionModel
    vae: AutoencoderKL
    scheduler: Mapping[str, Any]  # scheduler_config.json
    zeros_for_no_negative: bool  # instead of what the text encoders say of an empty text
    words: Mapping[str, tuple[tuple[int, ...], ...]]  # learned ones → their ids for each reader

    @property
    def all(self) -> list[torch.nn.Module]:
        """Everything with weights, in the order in which it runs."""
        return [*(reader.encoder for reader in self.readers), self.unet, self.vae]


def load_networks(
    spec: Spec, device: torch.device, dtype: torch.dtype, report: Report = ignore_progress
) -> Networks:
    """Load the folder or single file of `spec`, as `dtype` whatever it holds, onto `device`.

    Raises WeightsError, in one line, for anything that is missing, damaged or does not fit.
    """
    if not spec.folder.exists():
        raise WeightsError(
            f"the weights of {spec.name!r} are not there: {spec.folder} does not exist"
        )
    configs = spec.configs
    texts = text_components(configs)
    entries = {
        part: read_config(configs / part / "config.json") for part in (*texts, "unet", "vae")
    }
    scheduler = _read_scheduler(spec)
    if spec.inpaints:
        channels = inpainting_channels(entries["vae"].get("latent_channels"))
        entries["unet"]["in_channels"] = channels  # the layout of a single file has no mask
    with building(spec.folder):
        networks = {
            part: _TEXT_CLASSES[part](CLIPTextConfig.from_dict(entries[part])) for part in texts
        }
        networks["unet"] = unet = UNet2DConditionModel.from_config(entries["unet"])
        networks["vae"] = vae = AutoencoderKL.from_config(entries["vae"])
    readers = tuple(Reader(_tokenizer(spec, _TOKENIZERS[part]), networks[part]) for part in texts)
    _check_fit(spec, readers, unet, vae)

    dtypes = dict.fromkeys(networks, dtype)
    if dtype == torch.float16 and needs_float32(entries["unet"], entries["vae"]):
        dtypes["vae"] = torch.float32
    if spec.adapters.vae is not None:  # the model's own need not be there
        del networks["vae"]
    added = ByteCount(networks, dtypes, report).add
    if spec.folder.is_file():
        _load_single_file(spec.folder, networks, entries, dtypes, added)
    else:
        files = {part: _component_files(spec.folder, part) for part in networks}
        headers = {part: read_headers(paths) for part, paths in files.items()}
        for part, network in networks.items():
            load_weights(network, in_messages(files[part]), headers[part], dtypes[part], added)
    for reader in readers:
        fill_position_ids(reader.encoder)
    for network in networks.values():
        settle(network, device)
    divide(unet)
    if spec.adapters.vae is not None:
        vae = load_vae(spec.adapters.vae, vae, device, dtypes["vae"])
    zeros = bool(read_config(configs / "model_index.json").get("force_zeros_for_empty_prompt"))
    return Networks(readers, unet, vae, scheduler, zeros, {})


def load_vae(
    path: Path, own: AutoencoderKL, device: torch.device, dtype: torch.dtype
) -> AutoencoderKL:
    """Load a VAE to replace a model's own, from a diffusers folder or a single file.

    A single file has the config of the one that it replaces, and the names of diffusers or the
    original ones, with or without the prefix that they have in a whole model. Raises WeightsError.
    """
    config = read_config(path / "config.json") if path.is_dir() else dict(own.config)
    files = weights_files(path, *[_VAE_STEM] * 2) if path.is_dir() else [path]
    file, header = in_messages(files), read_headers(files)
    with building(path):
        vae = AutoencoderKL.from_config(config)
    channels, own_channels = vae.config.latent_channels, own.config.latent_channels
    check_pairs(path, [("its latent_channels", channels, "the model's", own_channels)])
    if "encoder.conv_norm_out.weight" in header:
        load_weights(vae, file, header, dtype)
    else:
        is_part = any(key.startswith(single_file.VAE) for key in header)
        prefix = single_file.VAE if is_part else ""
        pieces = single_file.vae_pieces(prefix, config, vae.state_dict())
        read = {piece.key for piece in pieces.values()}
        unread = [key for key in header if key not in read and not key.startswith(f"{prefix}loss.")]
        refuse(file, "keys that the network does not have", unread)
        fill(vae, file, header, pieces, dtype)
    settle(vae, device)
    return vae


_VAE_STEM = "diffusion_pytorch_model"


_TEXT_CLASSES = {"text_encoder": CLIPTextModel, "text_encoder_2": CLIPTextModelWithProjection}


_TOKENIZERS = {"text_encoder": "tokenizer", "text_encoder_2": "tokenizer_2"}


def _read_scheduler(spec: Spec) -> dict[str, Any]:
    """Read the scheduler's config; what a single file says about itself takes precedence."""
    scheduler = read_config(spec.configs / "scheduler" / "scheduler_config.json")
    scheduler |= spec.scheduler
    if scheduler.get("prediction_type", "epsilon") not in ("epsilon", "v_prediction"):
        raise WeightsError(
            f"{spec.folder}/scheduler predicts {scheduler['prediction_type']!r}; "
            "what can be drawn with is 'epsilon' and 'v_prediction'"
        )
    return scheduler


def _component_files(folder: Path, part: str) -> list[Path]:
    stem = "model" if part in _TEXT_CLASSES else "diffusion_pytorch_model"
    return weights_files(folder / part, stem, "pytorch_model" if stem == "model" else stem)


def _load_single_file(
    path: Path,
    networks: Mapping[str, torch.nn.Module],
    configs: Mapping[str, Mapping[str, Any]],
    dtypes: Mapping[str, torch.dtype],
    added: Callable[[torch.Tensor], None],
) -> None:
    """Load the networks from one file; every key of it is accounted for, but for those of a VAE
    that is not among them."""
    header = read_header(path)
    layout = single_file.identify(path, header)
    if "vae" in networks and not any(key.startswith(single_file.VAE) for key in header):
        raise WeightsError(f"{path} holds no VAE: name a file or folder of one with --vae")
    places = {
        part: single_file.pieces(layout, part, configs[part], network.state_dict(), header)
        for part, network in networks.items()
    }
    read = {piece.key for pieces in places.values() for piece in pieces.values()}
    unread = () if "vae" in networks else (single_file.VAE,)
    unknown = [
        key
        for key in header
        if key not in read
        and not may_ignore(key)
        and not single_file.is_unread(key)
        and not key.startswith(unread)
    ]
    refuse(path, "keys that no network of this layout has", unknown)
    for part, network in networks.items():
        fill(network, path, header, places[part], dtypes[part], added)


def _tokenizer(spec: Spec, part: str) -> CLIPTokenizer:
    if spec.folder.is_dir():
        return load_tokenizer(spec.folder / part)
    return openai_tokenizer(read_config(spec.configs / part / "tokenizer_config.json"))


def openai_tokenizer(config: Mapping[str, Any]) -> CLIPTokenizer:
    """Build the tokenizer of OpenAI's CLIP from the list of its merges in the repository.

    After the 256 bytes, and the same at the end of a word, each merge adds a piece. The file goes
    on with merges of a larger vocabulary, which CLIP does not use.
    """
    with gzip.open(single_file.VOCABULARY, "rt", encoding="utf-8") as file:
        lines = file.read().split("\n")[1 : OPENAI_MERGES + 1]
    merges = [(left, right) for left, right in (line.split() for line in lines)]
    letters = sorted(ByteLevel.alphabet())  # one for each byte, in the order of their numbers
    pieces = [*letters, *(letter + "</w>" for letter in letters)]
    pieces += [left + right for left, right in merges] + ["<|startoftext|>", "<|endoftext|>"]
    settings = {name: config[name] for name in ("pad_token", "model_max_length")}
    return CLIPTokenizer(
        vocab={piece: i for i, piece in enumerate(pieces)}, merges=merges, **settings
    )


def _check_fit(
    spec: Spec,
    readers: tuple[Reader, ...],
    unet: UNet2DConditionModel,
    vae: AutoencoderKL,
) -> None:
    """Raise WeightsError naming both numbers where two parts of a model do not fit together."""
    width = sum(reader.encoder.config.hidden_size for reader in readers)
    channels, config = vae.config.latent_channels, unet.config
    read = inpainting_channels(channels) if spec.inpaints else channels
    pairs = [
        ("text_encoder hidden_size", width, "unet cross_attention_dim", config.cross_attention_dim),
        ("vae latent_channels", read, "unet in_channels", config.in_channels),
        ("vae latent_channels", channels, "unet out_channels", config.out_channels),
    ]
    if config.addition_embed_type == "text_time":
        pooled = readers[-1].encoder.config.projection_dim
        pairs.append(
            (
                "text_encoder_2 projection_dim with six sizes",
                pooled + 6 * config.addition_time_embed_dim,
                "unet projection_class_embeddings_input_dim",
                config.projection_class_embeddings_input_dim,
            )
        )
    check_pairs(spec.folder, pairs)
    for reader in readers:
        size = reader.encoder.config.vocab_size
        check_tokenizer(spec.folder, reader.tokenizer, "text_encoder vocab_size", size)
