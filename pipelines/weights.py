"""Strict loading of model folders: every key, shape and byte is checked before a network runs.

diffusers and transformers fill missing keys with random numbers and only warn, so the networks are
built from their configs here and their weights read from safetensors files, and nothing else.
"""

import gzip
import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from safetensors.torch import save_file
from tokenizers.pre_tokenizers import ByteLevel
from transformers import PreTrainedTokenizerFast
from transformers.models.clip.configuration_clip import CLIPTextConfig
from transformers.models.clip.modeling_clip import CLIPTextModel, CLIPTextModelWithProjection
from transformers.models.clip.tokenization_clip import CLIPTokenizer
from transformers.models.t5.configuration_t5 import T5Config
from transformers.models.t5.modeling_t5 import T5EncoderModel, T5Stack

from pipelines import original_layout
from pipelines.bart import BartConfig, BartEncoder
from pipelines.cpu import speed_up
from pipelines.dvae import DiscreteVae, DvaeConfig, TowerConfig
from pipelines.headers import AGAIN, Tensor, read_header, weights_file
from pipelines.needs import needs_float32
from pipelines.original_layout import Piece
from pipelines.specs import Spec, WeightsError, read_config, text_components
from pipelines.transformer import Transformer, TransformerConfig
from pipelines.vqgan import Vqgan, VqganConfig

READ_AT_ONCE = 2**22  # bytes of a file
PLAIN_TOKENIZER = "PreTrainedTokenizerFast"  # all of it is in tokenizer.json
# Networks of convolutions, with their channels last: the VAE decodes a quarter faster so, the UNet
# a twentieth.
LAST = (AutoencoderKL, UNet2DConditionModel)
OPENAI_MERGES = 49_408 - 2 - 2 * 256  # of all tokens, those that are no byte and no mark
FLOAT_TYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
}

# Keys that a file may hold beyond the network's own, by how they end or begin, and why.
EXTRA_KEY_ENDINGS = {
    "embeddings.position_ids": "a constant that transformers before 4.31 saved as a weight",
}
EXTRA_KEY_BEGINNINGS = {
    "model_ema.": "a second, averaged copy of the weights for training on",
}


Progress = Callable[[int, int], None]  # told the bytes that are loaded, and all there will be


def tell_nobody(loaded: int, total: int) -> None:
    """Nobody wants to know how loading goes on."""


class _Count:
    """Adds up the bytes of networks while they are loaded."""

    def __init__(
        self,
        networks: Mapping[str, torch.nn.Module],
        dtypes: Mapping[str, torch.dtype],
        tell: Progress,
    ) -> None:
        self.loaded = 0
        self.total = sum(
            dtypes[part].itemsize * weight.numel()
            for part, network in networks.items()
            for weight in network.state_dict().values()
        )
        self.tell = tell

    def add(self, weight: torch.Tensor) -> None:
        """One more is there."""
        self.loaded += weight.nbytes
        self.tell(self.loaded, self.total)


def _count_nothing(weight: torch.Tensor) -> None:
    """For networks that are loaded in no time."""


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
    spec: Spec, device: torch.device, dtype: torch.dtype, progress: Progress = tell_nobody
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
    with building(spec.folder):
        networks = {
            part: _TEXT_CLASSES[part](CLIPTextConfig.from_dict(entries[part])) for part in texts
        }
        networks["unet"] = unet = UNet2DConditionModel.from_config(entries["unet"])
        networks["vae"] = vae = AutoencoderKL.from_config(entries["vae"])
    readers = tuple(Reader(_tokenizer(spec, _TOKENIZERS[part]), networks[part]) for part in texts)
    _check_fit(spec.folder, readers, unet, vae)

    dtypes = dict.fromkeys(networks, dtype)
    if dtype == torch.float16 and needs_float32(entries["unet"], entries["vae"]):
        dtypes["vae"] = torch.float32
    added = _Count(networks, dtypes, progress).add
    if spec.folder.is_file():
        _load_single_file(spec.folder, networks, entries, dtypes, added)
    else:
        files = {part: _component_file(spec.folder, part) for part in networks}
        headers = {part: read_header(file) for part, file in files.items()}
        for part, network in networks.items():
            load_weights(network, files[part], headers[part], dtypes[part], added)
    for reader in readers:
        fill_position_ids(reader.encoder)
    for network in networks.values():
        settle(network, device)
    zeros = bool(read_config(configs / "model_index.json").get("force_zeros_for_empty_prompt"))
    return Networks(readers, unet, vae, scheduler, zeros, {})


def load_vae(
    path: Path, own: AutoencoderKL, device: torch.device, dtype: torch.dtype
) -> AutoencoderKL:
    """A VAE to put in the place of a model's own, from a diffusers folder or a single file.

    A single file has the config of the one that it replaces, and the names of diffusers or the
    original ones, with or without the prefix that they have in a whole model. Raises WeightsError.
    """
    config = read_config(path / "config.json") if path.is_dir() else dict(own.config)
    file = weights_file(path, *[_VAE_STEM] * 2) if path.is_dir() else path
    header = read_header(file)
    with building(path):
        vae = AutoencoderKL.from_config(config)
    channels, own_channels = vae.config.latent_channels, own.config.latent_channels
    check_pairs(path, [("its latent_channels", channels, "the model's", own_channels)])
    if "encoder.conv_norm_out.weight" in header:
        load_weights(vae, file, header, dtype)
    else:
        is_part = any(key.startswith(original_layout.VAE) for key in header)
        prefix = original_layout.VAE if is_part else ""
        pieces = original_layout.vae_pieces(prefix, config, vae.state_dict())
        read = {piece.key for piece in pieces.values()}
        unread = [key for key in header if key not in read and not key.startswith(f"{prefix}loss.")]
        refuse(file, "keys that the network does not have", unread)
        _fill(vae, file, header, pieces, dtype)
    settle(vae, device)
    return vae


def settle(network: torch.nn.Module, device: torch.device) -> None:
    """Bring a filled network to where it runs, ready to run."""
    network.to(device).eval().requires_grad_(False)
    if device.type == "cpu":
        speed_up([network])


_VAE_STEM = "diffusion_pytorch_model"
_TEXT_CLASSES = {"text_encoder": CLIPTextModel, "text_encoder_2": CLIPTextModelWithProjection}
_TOKENIZERS = {"text_encoder": "tokenizer", "text_encoder_2": "tokenizer_2"}


def _read_scheduler(spec: Spec) -> dict[str, Any]:
    """The scheduler's config, with what a single file says about itself in place of the usual."""
    scheduler = read_config(spec.configs / "scheduler" / "scheduler_config.json")
    if spec.prediction_type is not None:
        scheduler["prediction_type"] = spec.prediction_type
    if scheduler.get("prediction_type", "epsilon") not in ("epsilon", "v_prediction"):
        raise WeightsError(
            f"{spec.folder}/scheduler predicts {scheduler['prediction_type']!r}; "
            "what can be drawn with is 'epsilon' and 'v_prediction'"
        )
    return scheduler


def _component_file(folder: Path, part: str) -> Path:
    stem = "model" if part in _TEXT_CLASSES else "diffusion_pytorch_model"
    return weights_file(folder / part, stem, "pytorch_model" if stem == "model" else stem)


def _load_single_file(
    path: Path,
    networks: Mapping[str, torch.nn.Module],
    configs: Mapping[str, Mapping[str, Any]],
    dtypes: Mapping[str, torch.dtype],
    added: Callable[[torch.Tensor], None],
) -> None:
    """Fill all networks from one file in the original layout; every key of it is accounted for."""
    header = read_header(path)
    layout = original_layout.identify(path, header)
    places = {
        part: original_layout.pieces(layout, part, configs[part], network.state_dict())
        for part, network in networks.items()
    }
    read = {piece.key for pieces in places.values() for piece in pieces.values()}
    unknown = [
        key
        for key in header
        if key not in read and not may_ignore(key) and not original_layout.is_unread(key)
    ]
    refuse(path, "keys that no network of this layout has", unknown)
    for part, network in networks.items():
        _fill(network, path, header, places[part], dtypes[part], added)


TextEncoder: TypeAlias = CLIPTextModel | T5Stack | BartEncoder


@dataclass(frozen=True)
class DalleNetworks:
    """The parts of a model of the DALL·E path, likewise."""

    tokenizer: PreTrainedTokenizerFast
    text_encoder: TextEncoder | None  # None where the transformer reads text tokens
    transformer: Transformer
    dvae: DiscreteVae | Vqgan


def load_dalle(
    spec: Spec, device: torch.device, dtype: torch.dtype, progress: Progress = tell_nobody
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
        text_encoder = _build_text_encoder(folder / "text_encoder", transformer.config)
    tokenizer = load_tokenizer(folder / "tokenizer")
    _check_dalle_fit(folder, tokenizer, text_encoder, transformer, dvae)

    parts: dict[str, torch.nn.Module] = {"transformer": transformer, "dvae": dvae}
    if text_encoder is not None:
        parts["text_encoder"] = text_encoder
    dtypes = dict.fromkeys(parts, dtype)
    if isinstance(text_encoder, T5Stack) and dtype == torch.float16:
        dtypes["text_encoder"] = torch.bfloat16  # its values go beyond float16
    added = _Count(parts, dtypes, progress).add
    for part, network in parts.items():
        file = weights_file(folder / part, "model", "pytorch_model")
        load_weights(network, file, read_header(file), dtypes[part], added)
    if isinstance(text_encoder, CLIPTextModel):
        fill_position_ids(text_encoder)
    for network in parts.values():
        settle(network, device)
    return DalleNetworks(tokenizer, text_encoder, transformer, dvae)


def _build_dvae(folder: Path) -> DiscreteVae | Vqgan:
    """What makes pictures of codes, without its weights."""
    if read_config(folder / "config.json").get("_class_name") == Vqgan.__name__:
        return Vqgan(VqganConfig(**_own_config(folder)))
    return DiscreteVae(_dvae_config(_own_config(folder)))


def _build_text_encoder(folder: Path, transformer: TransformerConfig) -> TextEncoder | None:
    """What the transformer reads prompts by, without its weights; None where it does so itself."""
    if transformer.cross_attention_width is not None:
        return BartEncoder(BartConfig(**_own_config(folder)))
    if transformer.prefix_width is None:
        return None
    config = read_config(folder / "config.json")
    if config.get("model_type") == T5Config.model_type:
        return T5EncoderModel(T5Config.from_dict(config)).encoder
    return CLIPTextModel(CLIPTextConfig.from_dict(config))


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


def _tokenizer(spec: Spec, part: str) -> CLIPTokenizer:
    if spec.folder.is_dir():
        return load_tokenizer(spec.folder / part)
    return openai_tokenizer(read_config(spec.configs / part / "tokenizer_config.json"))


def openai_tokenizer(config: Mapping[str, Any]) -> CLIPTokenizer:
    """The tokenizer of OpenAI's CLIP, from the list of its merges in the repository.

    After the 256 bytes, and the same at the end of a word, each merge adds a piece. The file goes
    on with merges of a larger vocabulary, which CLIP does not use.
    """
    with gzip.open(original_layout.VOCABULARY, "rt", encoding="utf-8") as file:
        lines = file.read().split("\n")[1 : OPENAI_MERGES + 1]
    merges = [(left, right) for left, right in (line.split() for line in lines)]
    letters = sorted(ByteLevel.alphabet())  # one for each byte, in the order of their numbers
    pieces = [*letters, *(letter + "</w>" for letter in letters)]
    pieces += [left + right for left, right in merges] + ["<|startoftext|>", "<|endoftext|>"]
    settings = {name: config[name] for name in ("pad_token", "model_max_length")}
    return CLIPTokenizer(
        vocab={piece: i for i, piece in enumerate(pieces)}, merges=merges, **settings
    )


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


def load_weights(
    network: torch.nn.Module,
    path: Path,
    header: Mapping[str, Tensor],
    dtype: torch.dtype,
    added: Callable[[torch.Tensor], None] = _count_nothing,
) -> None:
    """Put the tensors of a file into a network as `dtype`; both must agree on every key and shape.

    Raises WeightsError naming the first keys that are missing, extra, misshapen, not floating
    point or not finite.
    """
    expected = network.state_dict().keys()
    names = {key: current_name(key, expected) for key in header}
    unknown = [key for key, name in names.items() if name not in expected and not may_ignore(key)]
    pieces = {name: Piece(key) for key, name in names.items() if name in expected}
    refuse(path, "missing keys", sorted(expected - pieces.keys()))
    refuse(path, "keys that the network does not have", unknown)
    _fill(network, path, header, pieces, dtype, added)


def _fill(
    network: torch.nn.Module,
    path: Path,
    header: Mapping[str, Tensor],
    pieces: Mapping[str, Piece],
    dtype: torch.dtype,
    added: Callable[[torch.Tensor], None] = _count_nothing,
) -> None:
    """Read each weight of a network from its place in a file."""
    missing = sorted({piece.key for piece in pieces.values() if piece.key not in header})
    refuse(path, "missing keys", missing)
    expected = {key: tuple(value.shape) for key, value in network.state_dict().items()}
    tensors = {name: _cut(header[piece.key], piece) for name, piece in pieces.items()}
    misshapen = [
        f"{pieces[name].key} is {list(tensor.shape)}, not {list(expected[name])}"
        for name, tensor in tensors.items()
        if not _same_but_for_ones(tensor.shape, expected[name])
    ]
    wrong_type = [pieces[name].key for name, t in tensors.items() if t.dtype not in FLOAT_TYPES]
    refuse(path, "keys of the wrong shape", misshapen)
    refuse(path, "keys that are not floating point", wrong_type)

    layout = torch.channels_last if isinstance(network, LAST) else torch.contiguous_format
    state, not_finite = {}, []
    with path.open("rb") as file:
        for name, tensor in tensors.items():
            value = read_tensor(file, tensor, dtype, layout)
            if not bool(value.isfinite().all()):
                not_finite.append(pieces[name].key)
            state[name] = (value.T.contiguous() if pieces[name].transposed else value).reshape(
                expected[name]
            )
            added(value)
    refuse(path, "keys with NaN or infinite values", not_finite)
    network.load_state_dict(state, strict=True, assign=True)


def read_tensor(
    file: BinaryIO,
    tensor: Tensor,
    dtype: torch.dtype,
    layout: torch.memory_format = torch.contiguous_format,
) -> torch.Tensor:
    """One tensor of an open safetensors file, as `dtype`; `layout` is that of four dimensions.

    It is converted a few rows at a time, so that no second copy of it is ever in memory.
    """
    layout = layout if len(tensor.shape) == 4 else torch.contiguous_format
    value = torch.empty(tensor.shape, dtype=dtype, memory_format=layout)
    if value.numel() == 0:
        return value
    rows = value if value.ndim else value[None]
    bytes_each = (tensor.stop - tensor.start) // len(rows)
    step = max(1, READ_AT_ONCE // bytes_each)
    file.seek(tensor.start)
    for part in rows.split(step):
        data = bytearray(bytes_each * len(part))
        file.readinto(data)  # type: ignore[attr-defined]
        part.copy_(torch.frombuffer(data, dtype=FLOAT_TYPES[tensor.dtype]).reshape(part.shape))
    return value


def _cut(tensor: Tensor, piece: Piece) -> Tensor:
    """The part of a tensor's bytes that a piece is."""
    shape = tensor.shape[::-1] if piece.transposed else tensor.shape
    if piece.third is None:
        return replace(tensor, shape=shape)
    length = (tensor.stop - tensor.start) // 3
    start = tensor.start + piece.third * length
    rows = (shape[0] // 3, *shape[1:]) if shape else shape
    return replace(tensor, shape=rows, start=start, stop=start + length)


def _same_but_for_ones(shape: tuple[int, ...], expected: tuple[int, ...]) -> bool:
    """Whether only ones at the end differ: a 1x1 convolution is a linear map."""
    longest = max(len(shape), len(expected))
    return shape + (1,) * (longest - len(shape)) == expected + (1,) * (longest - len(expected))


def save_network(network: torch.nn.Module, config: Any, folder: Path) -> None:
    """Write one of our own networks: its config, a dataclass, as config.json, and its weights."""
    folder.mkdir(parents=True, exist_ok=True)
    entries = {"_class_name": type(network).__name__, **asdict(config)}
    (folder / "config.json").write_text(json.dumps(entries, indent=2) + "\n", encoding="utf-8")
    state = {key: value.contiguous() for key, value in network.state_dict().items()}
    save_file(state, folder / "model.safetensors", {"format": "pt"})


def refuse(path: Path, what: str, keys: Collection[str], shown: int = 3) -> None:
    """Raise WeightsError naming the first of `keys`, if there are any."""
    if keys:
        more = f" and {len(keys) - shown} more" if len(keys) > shown else ""
        raise WeightsError(f"{path} has {what}: {', '.join(list(keys)[:shown])}{more}")


_T5_EMBEDDING = "embed_tokens.weight"
_OLD_ATTENTION = {".query.": ".to_q.", ".key.": ".to_k.", ".value.": ".to_v."}


def current_name(key: str, expected: Collection[str]) -> str:
    """What the installed libraries call a key that older ones saved; `key` itself if nothing fits.

    transformers 5 dropped the prefix of the keys of CLIP's towers, and diffusers 0.12 renamed the
    projections in the VAE's attention. Files with either spelling are around. What a file calls the
    encoder of T5 is all of it here.
    """
    projection = key.replace(".proj_attn.", ".to_out.0.")
    for old, new in _OLD_ATTENTION.items():
        projection = projection.replace(old, new)
    vision = key.replace("vision_model.vision_model.", "vision_model.")
    t5 = _T5_EMBEDDING if key == "shared.weight" else key.removeprefix("encoder.")
    spellings = (key, key.removeprefix("text_model."), f"text_model.{key}", vision, projection, t5)
    return next((name for name in spellings if name in expected), key)


def may_ignore(key: str) -> bool:
    """Whether a key that the network lacks is one of the few known to be harmless."""
    return key.endswith(tuple(EXTRA_KEY_ENDINGS)) or key.startswith(tuple(EXTRA_KEY_BEGINNINGS))


def _check_fit(
    folder: Path,
    readers: tuple[Reader, ...],
    unet: UNet2DConditionModel,
    vae: AutoencoderKL,
) -> None:
    """Raise WeightsError naming both numbers where two parts of a model do not fit together."""
    width = sum(reader.encoder.config.hidden_size for reader in readers)
    channels, config = vae.config.latent_channels, unet.config
    pairs = [
        ("text_encoder hidden_size", width, "unet cross_attention_dim", config.cross_attention_dim),
        ("vae latent_channels", channels, "unet in_channels", config.in_channels),
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
    check_pairs(folder, pairs)
    for reader in readers:
        size = reader.encoder.config.vocab_size
        _check_tokenizer(folder, reader.tokenizer, "text_encoder vocab_size", size)


def _check_dalle_fit(
    folder: Path,
    tokenizer: PreTrainedTokenizerFast,
    text_encoder: TextEncoder | None,
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
    _check_tokenizer(folder, tokenizer, reader, vocabulary)


def check_pairs(folder: Path, pairs: Iterable[tuple[str, int, str, int | None]]) -> None:
    """Raise WeightsError naming both numbers of the first pair that differs."""
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
