"""Strict loading of model folders: every key, shape and byte is checked before a network runs.

diffusers and transformers fill missing keys with random numbers and only warn, so the networks are
built from their configs here and their weights read from safetensors files, and nothing else.
"""

import json
import struct
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers import PreTrainedTokenizerFast
from transformers.models.clip.configuration_clip import CLIPTextConfig
from transformers.models.clip.modeling_clip import CLIPTextModel
from transformers.models.clip.tokenization_clip import CLIPTokenizer

from pipelines.bart import BartConfig, BartEncoder
from pipelines.cpu import speed_up
from pipelines.dvae import DiscreteVae, DvaeConfig, TowerConfig
from pipelines.specs import Spec, WeightsError, read_config
from pipelines.transformer import Transformer, TransformerConfig
from pipelines.vqgan import Vqgan, VqganConfig

FLOAT_TYPES = ("F64", "F32", "F16", "BF16")
MAX_HEADER_BYTES = 100_000_000  # the limit of the safetensors library
AGAIN = "copy or download it again"
PLAIN_TOKENIZER = "PreTrainedTokenizerFast"  # all of it is in tokenizer.json

# Keys that a file may hold beyond the network's own, by how they end or begin, and why.
EXTRA_KEY_ENDINGS = {
    "embeddings.position_ids": "a constant that transformers before 4.31 saved as a weight",
}
EXTRA_KEY_BEGINNINGS = {
    "model_ema.": "a second, averaged copy of the weights for training on",
}


@dataclass(frozen=True)
class Tensor:
    """What a safetensors header says of one tensor."""

    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Networks:
    """The parts of a latent diffusion model, in evaluation mode on one device and dtype."""

    tokenizer: CLIPTokenizer
    text_encoder: CLIPTextModel
    unet: UNet2DConditionModel
    vae: AutoencoderKL
    scheduler: Mapping[str, Any]  # scheduler_config.json


def load_networks(spec: Spec, device: torch.device, dtype: torch.dtype) -> Networks:
    """Load the folder of `spec`, half-precision files included, as `dtype` onto `device`.

    Raises WeightsError, in one line, for anything that is missing, damaged or does not fit.
    """
    folder = spec.folder
    if not folder.is_dir():
        raise WeightsError(f"the weights of {spec.name!r} are not there: {folder} does not exist")
    configs = {part: read_config(folder / part / "config.json") for part in _WEIGHT_NAMES}
    scheduler = read_config(folder / "scheduler" / "scheduler_config.json")
    if scheduler.get("prediction_type", "epsilon") not in ("epsilon", "v_prediction"):
        raise WeightsError(
            f"{folder}/scheduler predicts {scheduler['prediction_type']!r}; "
            "what can be drawn with is 'epsilon' and 'v_prediction'"
        )
    files = {part: weights_file(folder / part, *names) for part, names in _WEIGHT_NAMES.items()}
    headers = {part: read_header(file) for part, file in files.items()}
    with building(folder):
        text_encoder = CLIPTextModel(CLIPTextConfig.from_dict(configs["text_encoder"]))
        unet = UNet2DConditionModel.from_config(configs["unet"])
        vae = AutoencoderKL.from_config(configs["vae"])
    tokenizer = load_tokenizer(folder / "tokenizer")
    _check_fit(folder, tokenizer, text_encoder, unet, vae)

    for part, network in (("text_encoder", text_encoder), ("unet", unet), ("vae", vae)):
        load_weights(network, files[part], headers[part], dtype)
    fill_position_ids(text_encoder)
    for network in (text_encoder, unet, vae):
        network.to(device).eval().requires_grad_(False)
    for network in (unet, vae):  # the VAE decodes a quarter faster so, the UNet a twentieth
        network.to(memory_format=torch.channels_last)
    if device.type == "cpu":
        speed_up([text_encoder, unet, vae])
    return Networks(tokenizer, text_encoder, unet, vae, scheduler)


@dataclass(frozen=True)
class DalleNetworks:
    """The parts of a model of the DALL·E path, likewise."""

    tokenizer: PreTrainedTokenizerFast
    text_encoder: CLIPTextModel | BartEncoder | None  # None where the transformer reads text tokens
    transformer: Transformer
    dvae: DiscreteVae | Vqgan


def load_dalle(spec: Spec, device: torch.device, dtype: torch.dtype) -> DalleNetworks:
    """Load the folder of `spec`, half-precision files included, as `dtype` onto `device`.

    Raises WeightsError, in one line, for anything that is missing, damaged or does not fit.
    """
    folder = spec.folder
    if not folder.is_dir():
        raise WeightsError(f"the weights of {spec.name!r} are not there: {folder} does not exist")
    with building(folder):
        transformer = Transformer(TransformerConfig(**_own_config(folder / "transformer")))
        dvae = _build_dvae(folder / "dvae")
        text_encoder = _build_text_encoder(folder / "text_encoder", transformer.config)
    tokenizer = load_tokenizer(folder / "tokenizer")
    _check_dalle_fit(folder, tokenizer, text_encoder, transformer, dvae)

    parts = {"text_encoder": text_encoder, "transformer": transformer, "dvae": dvae}
    for part, network in parts.items():
        if network is not None:
            file = weights_file(folder / part, "model", "pytorch_model")
            load_weights(network, file, read_header(file), dtype)
    if isinstance(text_encoder, CLIPTextModel):
        fill_position_ids(text_encoder)
    for network in parts.values():
        if network is not None:
            network.to(device).eval().requires_grad_(False)
    if device.type == "cpu":
        speed_up(network for network in parts.values() if network is not None)
    return DalleNetworks(tokenizer, text_encoder, transformer, dvae)


def _build_dvae(folder: Path) -> DiscreteVae | Vqgan:
    """What makes pictures of codes, without its weights."""
    if read_config(folder / "config.json").get("_class_name") == Vqgan.__name__:
        return Vqgan(VqganConfig(**_own_config(folder)))
    return DiscreteVae(_dvae_config(_own_config(folder)))


def _build_text_encoder(
    folder: Path, transformer: TransformerConfig
) -> CLIPTextModel | BartEncoder | None:
    """What the transformer reads prompts by, without its weights; None where it does so itself."""
    if transformer.cross_attention_width is not None:
        return BartEncoder(BartConfig(**_own_config(folder)))
    if transformer.prefix_width is not None:
        return CLIPTextModel(CLIPTextConfig.from_dict(read_config(folder / "config.json")))
    return None


def load_dvae(folder: Path) -> DiscreteVae:
    """One discrete VAE in float32 on the CPU, to train on. Raises WeightsError likewise."""
    with building(folder):
        dvae = DiscreteVae(_dvae_config(_own_config(folder)))
    file = weights_file(folder, "model", "pytorch_model")
    load_weights(dvae, file, read_header(file), torch.float32)
    return dvae.requires_grad_(False).eval()


def _own_config(folder: Path) -> dict[str, Any]:
    """The fields of a config that `save_network` wrote."""
    config = read_config(folder / "config.json")
    return {name: value for name, value in config.items() if name != "_class_name"}


def _dvae_config(entries: Mapping[str, Any]) -> DvaeConfig:
    towers = {
        name: TowerConfig(**{**entries[name], "widths": tuple(entries[name]["widths"])})
        for name in ("encoder", "decoder")
    }
    return DvaeConfig(**{**entries, **towers})


def load_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """The tokenizer of a folder, from tokenizer.json or, for CLIP's, vocab.json and merges.txt."""
    config = read_config(folder / "tokenizer_config.json")
    plain = config.get("tokenizer_class") == PLAIN_TOKENIZER
    old_files = [folder / "vocab.json", folder / "merges.txt"]
    has_old_files = not plain and all(file.is_file() for file in old_files)
    if not has_old_files and not (folder / "tokenizer.json").is_file():
        raise WeightsError(
            f"{folder} has neither tokenizer.json nor vocab.json and merges.txt: {AGAIN}"
        )
    try:
        loader = PreTrainedTokenizerFast if plain else CLIPTokenizer
        return loader.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # the tokenizers library raises plain Exception on a damaged file
        kind = PLAIN_TOKENIZER if plain else "CLIP tokenizer"
        raise WeightsError(
            f"{folder} holds no {kind} that can be read: {first_line(error)}"
        ) from error


@contextmanager
def building(folder: Path) -> Iterator[None]:
    """Networks are built without weights here; a config that builds none is a WeightsError."""
    try:
        with torch.device("meta"):  # no time is spent on random numbers that are replaced
            yield
    except WeightsError:
        raise
    except Exception as error:  # several libraries check configs, with errors of their own
        raise WeightsError(
            f"{folder} has a config that builds no network: {first_line(error)}"
        ) from error


def fill_position_ids(network: torch.nn.Module) -> None:
    """Compute the one constant of CLIP's towers that is not saved."""
    for module in network.modules():
        if isinstance(empty := getattr(module, "position_ids", None), torch.Tensor):
            module.position_ids = torch.arange(empty.shape[-1]).expand(1, -1)  # (1, T)


def first_line(error: Exception) -> str:
    """What an error of a library says, short enough for a line."""
    return str(error).splitlines()[0] if str(error) else type(error).__name__


# How diffusers and transformers name the weights, and the pickles that we refuse in their place.
_WEIGHT_NAMES = {
    "text_encoder": ("model", "pytorch_model"),
    "unet": ("diffusion_pytorch_model", "diffusion_pytorch_model"),
    "vae": ("diffusion_pytorch_model", "diffusion_pytorch_model"),
}


def weights_file(folder: Path, stem: str, pickle_stem: str) -> Path:
    """The safetensors file of one component; a half-precision variant where it is the only one."""
    for name in (f"{stem}.safetensors", f"{stem}.fp16.safetensors"):
        if (folder / name).is_file():
            return folder / name
    for pickled in (folder / f"{pickle_stem}.bin", folder / f"{pickle_stem}.ckpt"):
        if pickled.is_file():
            raise WeightsError(
                f"{pickled} is a pickle, which can run any code; only safetensors are loaded: "
                f"get {folder}/{stem}.safetensors instead"
            )
    raise WeightsError(f"{folder}/{stem}.safetensors is missing: {AGAIN}")


def read_header(path: Path) -> dict[str, Tensor]:
    """The names, dtypes and shapes in a safetensors file, after checking that it is all there.

    Reads the header only. Raises WeightsError with the sizes for a file that was cut off, and
    with what it is instead for a Git LFS pointer or a web page.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        if start == b"version ":
            raise WeightsError(f"{path} is a Git LFS pointer, not the weights: run git lfs pull")
        if start.lstrip()[:1] == b"<":
            raise WeightsError(f"{path} is a web page, not weights: {AGAIN}")
        if size < 8:
            raise WeightsError(f"{path}: file is incomplete ({size} of at least 8 bytes); {AGAIN}")
        (length,) = struct.unpack("<Q", start)
        if length > MAX_HEADER_BYTES:
            raise WeightsError(f"{path} is no safetensors file: its header claims {length} bytes")
        if 8 + length > size:
            raise WeightsError(
                f"{path}: file is incomplete ({size} of at least {8 + length} bytes); {AGAIN}"
            )
        header = file.read(length)
    try:
        entries = json.loads(header)
        entries.pop("__metadata__", None)
        tensors = {k: Tensor(e["dtype"], tuple(e["shape"])) for k, e in entries.items()}
        expected = 8 + length + max((e["data_offsets"][1] for e in entries.values()), default=0)
    except (ValueError, TypeError, AttributeError, LookupError):
        raise WeightsError(f"{path} is no safetensors file: its header is not readable") from None
    if size < expected:
        raise WeightsError(f"{path}: file is incomplete ({size} of {expected} bytes); {AGAIN}")
    return tensors


def load_weights(
    network: torch.nn.Module, path: Path, header: Mapping[str, Tensor], dtype: torch.dtype
) -> None:
    """Put the tensors of a file into a network as `dtype`; both must agree on every key and shape.

    Raises WeightsError naming the first keys that are missing, extra, misshapen, not floating
    point or not finite.
    """
    expected = {key: tuple(value.shape) for key, value in network.state_dict().items()}
    names = {key: current_name(key, expected) for key in header}
    unknown = [key for key, name in names.items() if name not in expected and not may_ignore(key)]
    wanted = {key: name for key, name in names.items() if name in expected}
    misshapen = [
        f"{key} is {list(header[key].shape)}, not {list(expected[name])}"
        for key, name in wanted.items()
        if header[key].shape != expected[name]
    ]
    wrong_type = [key for key in wanted if header[key].dtype not in FLOAT_TYPES]
    _refuse(path, "missing keys", sorted(expected.keys() - set(wanted.values())))
    _refuse(path, "keys that the network does not have", unknown)
    _refuse(path, "keys of the wrong shape", misshapen)
    _refuse(path, "keys that are not floating point", wrong_type)

    try:
        tensors = load_file(path)
    except SafetensorError as error:
        raise WeightsError(f"{path} cannot be read: {error}") from error
    state = {name: tensors[key].to(dtype) for key, name in wanted.items()}
    _refuse(path, "keys with NaN or infinite values", [k for k in state if not _finite(state[k])])
    network.load_state_dict(state, strict=True, assign=True)


def save_network(network: torch.nn.Module, config: Any, folder: Path) -> None:
    """Write one of our own networks: its config, a dataclass, as config.json, and its weights."""
    folder.mkdir(parents=True, exist_ok=True)
    entries = {"_class_name": type(network).__name__, **asdict(config)}
    (folder / "config.json").write_text(json.dumps(entries, indent=2) + "\n", encoding="utf-8")
    state = {key: value.contiguous() for key, value in network.state_dict().items()}
    save_file(state, folder / "model.safetensors", {"format": "pt"})


def _refuse(path: Path, what: str, keys: Collection[str], shown: int = 3) -> None:
    if keys:
        more = f" and {len(keys) - shown} more" if len(keys) > shown else ""
        raise WeightsError(f"{path} has {what}: {', '.join(list(keys)[:shown])}{more}")


def _finite(tensor: torch.Tensor) -> bool:
    return bool(tensor.isfinite().all())


_OLD_ATTENTION = {".query.": ".to_q.", ".key.": ".to_k.", ".value.": ".to_v."}


def current_name(key: str, expected: Collection[str]) -> str:
    """What the installed libraries call a key that older ones saved; `key` itself if nothing fits.

    transformers 5 dropped the prefix of the keys of CLIP's towers, and diffusers 0.12 renamed the
    projections in the VAE's attention. Files with either spelling are around.
    """
    projection = key.replace(".proj_attn.", ".to_out.0.")
    for old, new in _OLD_ATTENTION.items():
        projection = projection.replace(old, new)
    vision = key.replace("vision_model.vision_model.", "vision_model.")
    spellings = (key, key.removeprefix("text_model."), f"text_model.{key}", vision, projection)
    return next((name for name in spellings if name in expected), key)


def may_ignore(key: str) -> bool:
    """Whether a key that the network lacks is one of the few known to be harmless."""
    return key.endswith(tuple(EXTRA_KEY_ENDINGS)) or key.startswith(tuple(EXTRA_KEY_BEGINNINGS))


def _check_fit(
    folder: Path,
    tokenizer: CLIPTokenizer,
    text_encoder: CLIPTextModel,
    unet: UNet2DConditionModel,
    vae: AutoencoderKL,
) -> None:
    """Raise WeightsError naming both numbers where two parts of a folder do not fit together."""
    width, channels = text_encoder.config.hidden_size, vae.config.latent_channels
    into, out = unet.config.in_channels, unet.config.out_channels
    pairs = (
        (
            "text_encoder hidden_size",
            width,
            "unet cross_attention_dim",
            unet.config.cross_attention_dim,
        ),
        ("vae latent_channels", channels, "unet in_channels", into),
        ("vae latent_channels", channels, "unet out_channels", out),
    )
    _check_pairs(folder, pairs)
    _check_tokenizer(folder, tokenizer, "text_encoder vocab_size", text_encoder.config.vocab_size)


def _check_dalle_fit(
    folder: Path,
    tokenizer: PreTrainedTokenizerFast,
    text_encoder: CLIPTextModel | BartEncoder | None,
    transformer: Transformer,
    dvae: DiscreteVae | Vqgan,
) -> None:
    """The same for a model of the DALL·E path."""
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
    elif text_encoder is not None:
        text = text_encoder.config
        width, length = text.hidden_size, text.max_position_embeddings
        pairs += [
            ("text_encoder hidden_size", width, "transformer prefix_width", config.prefix_width),
            ("text_encoder positions", length, "transformer text_length", config.text_length),
        ]
        reader, vocabulary = "text_encoder vocab_size", text.vocab_size
    _check_pairs(folder, pairs)
    _check_tokenizer(folder, tokenizer, reader, vocabulary)


def _check_pairs(folder: Path, pairs: Iterable[tuple[str, int, str, int | None]]) -> None:
    for left, left_size, right, right_size in pairs:
        if left_size != right_size:
            raise WeightsError(
                f"{folder} does not fit together: {left} is {left_size}, {right} is {right_size}"
            )


def _check_tokenizer(
    folder: Path, tokenizer: PreTrainedTokenizerFast, reader: str, vocabulary: int | None
) -> None:
    if vocabulary is not None and len(tokenizer) > vocabulary:
        raise WeightsError(
            f"{folder} does not fit together: the tokenizer has {len(tokenizer)} tokens, "
            f"{reader} is {vocabulary}"
        )
