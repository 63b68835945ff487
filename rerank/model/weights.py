"""Load a model of CLIP's kind and verify every tensor: a folder of transformers or of OpenCLIP.

`from_pretrained` only warns when keys are missing and goes on with random numbers; here whatever
does not fit exactly is a WeightsError that names it.
"""

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import torch
from safetensors.torch import load_file
from transformers import (
    AltCLIPConfig,
    AltCLIPModel,
    ChineseCLIPConfig,
    ChineseCLIPModel,
    CLIPConfig,
    CLIPModel,
    CLIPTokenizer,
    MetaClip2Config,
    MetaClip2Model,
    PreTrainedTokenizerFast,
    Siglip2Config,
    Siglip2Model,
    SiglipConfig,
    SiglipModel,
)
from typing_extensions import TypedDict

from pipelines.checkpoints.configs import read_config
from pipelines.checkpoints.errors import WeightsError
from pipelines.checkpoints.headers import AGAIN, read_header
from pipelines.checkpoints.tokenizer_files import check_tokenizer_files
from rerank.model import open_clip
from rerank.model.texts import TextReader

Model: TypeAlias = (
    CLIPModel | SiglipModel | Siglip2Model | MetaClip2Model | AltCLIPModel | ChineseCLIPModel
)
Config: TypeAlias = (
    CLIPConfig | SiglipConfig | Siglip2Config | MetaClip2Config | AltCLIPConfig | ChineseCLIPConfig
)

# By model_type in config.json.
KINDS: Mapping[str, tuple[Any, Any]] = {
    "clip": (CLIPConfig, CLIPModel),
    "siglip": (SiglipConfig, SiglipModel),
    "siglip2": (Siglip2Config, Siglip2Model),
    "metaclip_2": (MetaClip2Config, MetaClip2Model),
    "altclip": (AltCLIPConfig, AltCLIPModel),
    "chinese_clip": (ChineseCLIPConfig, ChineseCLIPModel),
}

# Constants that transformers wrote into its files before 4.31 and builds itself since.
OLD_BUFFERS = ("embeddings.position_ids", "embeddings.token_type_ids")


class Index(TypedDict):
    """What names the parts of weights in several files."""

    weight_map: dict[str, str]


def load_model(folder: Path) -> Model:
    """Return the model of a folder, verified, in fp32 on the CPU, ready for inference.

    Raises WeightsError when a file is missing or damaged, when keys or shapes differ from what
    config.json says, or when a weight is not finite.
    """
    if is_open_clip(folder):
        config: Config = open_clip.read_config(read_config(folder / open_clip.CONFIG), folder)
        tensors = open_clip.converted(_read_tensors([folder / open_clip.WEIGHTS]))
    else:
        config = _read_config(folder)
        tensors = _read_tensors(_weight_files(folder))
    with torch.device("meta"):  # no memory, no time, no random numbers for weights to be replaced
        model = KINDS[config.model_type][1](config)
    expected = {key: value.shape for key, value in model.state_dict().items()}
    tensors = {_current(key, expected): value for key, value in tensors.items()}
    _verify(tensors, expected, folder)
    model.load_state_dict({key: value.float() for key, value in tensors.items()}, assign=True)
    for module in model.modules():  # the only tensors that no file holds
        for name, empty in module.named_buffers(recurse=False):
            if empty.is_meta:
                positions = torch.arange(empty.shape[-1]).expand(empty.shape)
                setattr(module, name, torch.zeros_like(positions) if "type" in name else positions)
    return model.eval().requires_grad_(False)


def image_size(model: Model) -> int:
    """Return the pixels a side of the square that a model reads; of one that reads any shape
    (NaFlex), of the square with as many patches."""
    vision = model.config.vision_config
    if isinstance(model, Siglip2Model):
        return math.isqrt(vision.num_patches) * int(vision.patch_size)
    return int(vision.image_size)


def load_text_reader(folder: Path, model: Model) -> TextReader:
    """Return the tokenizer of a folder, checked against the model that will read its ids.

    Raises WeightsError when its files are missing, when it has ids beyond the model's vocabulary,
    or when the model would read the text at another place than the end token.
    """
    check_tokenizer_files(folder)
    if isinstance(model, CLIPModel):
        reader = _clip_reader(folder, model)
    elif isinstance(model, SiglipModel | Siglip2Model):
        reader = _siglip_reader(folder, model)
    else:
        reader = _template_reader(folder, model)
    highest = max(reader.tokenizer.get_vocab().values())
    vocabulary = model.config.text_config.vocab_size
    if highest >= vocabulary:
        raise WeightsError(
            f"{folder}: the tokenizer has ids up to {highest}, the model a vocabulary of "
            f"{vocabulary}"
        )
    return reader


def _clip_reader(folder: Path, model: CLIPModel) -> TextReader:
    names = ("tokenizer.json", "vocab.json", "merges.txt")
    found = {name for name in names if (folder / name).is_file()}
    if "tokenizer.json" not in found and found != {"vocab.json", "merges.txt"}:
        # Without its files transformers would make up a tokenizer of three words.
        raise WeightsError(f"{folder}: no tokenizer.json, and no vocab.json with merges.txt")
    try:
        tokenizer = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # damaged files raise all kinds, some of them in Rust
        raise WeightsError(f"{folder}: cannot read the tokenizer ({_first_line(error)})") from error

    config = model.config.text_config
    # With eos_token_id 2, as old config files say whatever their vocabulary, the model takes the
    # feature at the highest id, else at the first eos_token_id; where there is none, at the start
    # token, and then all texts have one and the same feature.
    highest = max(tokenizer.get_vocab().values())
    end_read = highest if config.eos_token_id == 2 else config.eos_token_id
    end = tokenizer.eos_token_id
    if end != end_read and highest < config.vocab_size:
        raise WeightsError(
            f"{folder}: texts end with token {end}, but with eos_token_id "
            f"{config.eos_token_id} in config.json the model looks for token {end_read}"
        )
    context = config.max_position_embeddings
    # Filled up with the end token: the model reads the feature at the first one, and its
    # attention is causal, so that what follows is never seen.
    return TextReader(tokenizer, (tokenizer.bos_token_id,), (end,), end, context)


def _template_reader(folder: Path, model: Model) -> TextReader:
    """Read texts as the tokenizer's own template says, what it puts around them included."""
    tokenizer, config = _plain_tokenizer(folder), model.config.text_config
    bare = tokenizer("a", add_special_tokens=False).input_ids
    whole = tokenizer("a").input_ids
    begin = next((i for i in range(len(whole)) if whole[i : i + len(bare)] == bare), None)
    if begin is None or not bare or tokenizer.pad_token_id is None:
        raise WeightsError(f"{folder}: the tokenizer does not say what begins and fills texts")
    end, pad = whole[begin + len(bare) :], tokenizer.pad_token_id
    positions = config.max_position_embeddings
    if isinstance(model, MetaClip2Model):
        if config.eos_token_id not in end:
            raise WeightsError(
                f"{folder}: texts end with tokens {end}, but the model looks for token "
                f"{config.eos_token_id}"
            )
    elif pad != config.pad_token_id:
        raise WeightsError(
            f"{folder}: texts are filled with token {pad}, the model leaves out token "
            f"{config.pad_token_id}"
        )
    if isinstance(model, AltCLIPModel):  # counts positions from behind that of padding
        positions -= pad + 1
    context = int(min(positions, tokenizer.model_max_length))
    return TextReader(tokenizer, tuple(whole[:begin]), tuple(end), pad, context)


def _plain_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    if not (folder / "tokenizer.json").is_file():
        raise WeightsError(
            f"{folder}: no tokenizer.json (spiece.model alone is not read: save the tokenizer with "
            "a `tokenizers` backend)"
        )
    try:
        return PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
    except Exception as error:
        raise WeightsError(f"{folder}: cannot read the tokenizer ({_first_line(error)})") from error


def _siglip_reader(folder: Path, model: SiglipModel | Siglip2Model) -> TextReader:
    tokenizer = _plain_tokenizer(folder)
    if tokenizer.eos_token_id is None or tokenizer.pad_token_id is None:
        raise WeightsError(f"{folder}: the tokenizer names no token that ends or fills texts")
    settings = folder / "tokenizer_config.json"
    kind = read_config(settings).get("tokenizer_class") if settings.is_file() else None
    return TextReader(
        tokenizer,
        (),
        (tokenizer.eos_token_id,),
        tokenizer.pad_token_id,
        model.config.text_config.max_position_embeddings,
        fixed=True,
        lower=True,
        plain=kind in ("SiglipTokenizer", "SiglipTokenizerFast"),
    )


def _read_config(folder: Path) -> Config:
    path = folder / "config.json"
    values = read_config(path)
    kind = values.get("model_type")
    if not isinstance(kind, str) or kind not in KINDS:
        raise WeightsError(f"{path}: model_type is {kind!r}, not {' or '.join(map(repr, KINDS))}")
    try:
        config: Config = KINDS[kind][0].from_dict(values)
    except Exception as error:  # its validation has exception classes of its own
        raise WeightsError(f"{path}: not a configuration ({_first_line(error)})") from error
    config._attn_implementation = "sdpa"  # whatever the file asks for, no foreign kernel is fetched
    return config


def is_open_clip(folder: Path) -> bool:
    """Whether a folder is OpenCLIP's; many hold the same model in both formats."""
    return (folder / open_clip.CONFIG).is_file() and not (folder / "config.json").is_file()


def _read_tensors(paths: Iterable[Path]) -> dict[str, torch.Tensor]:
    """Read the tensors of safetensors files. Raises WeightsError for a damaged one."""
    tensors: dict[str, torch.Tensor] = {}
    for path in paths:
        if not path.is_file():
            raise WeightsError(f"{path}: no such file; {AGAIN}")
        read_header(path)  # names what a file is that is none, or not all there
        tensors.update(load_file(path))
    return {key: value for key, value in tensors.items() if not key.endswith(OLD_BUFFERS)}


def _weight_files(folder: Path) -> list[Path]:
    """model.safetensors, or the parts that its index lists."""
    whole, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if whole.is_file():
        return [whole]
    if index.is_file():
        parts = read_config(index, Index)["weight_map"].values()
        return [folder / Path(part).name for part in sorted(set(parts))]
    raise WeightsError(f"{folder}: no model.safetensors (pickle files such as .bin are not read)")


def _current(key: str, expected: Mapping[str, torch.Size]) -> str:
    """Return what the installed transformers calls a weight of AltCLIP's text tower."""
    renamed = key.replace(".encoder.layer.", ".encoder.layers.")
    return renamed if renamed in expected else key


def _verify(
    tensors: dict[str, torch.Tensor], expected: dict[str, torch.Size], folder: Path
) -> None:
    if missing := sorted(expected.keys() - tensors.keys()):
        raise WeightsError(f"{folder}: {len(missing)} weights are missing: {_listed(missing)}")
    if extra := sorted(tensors.keys() - expected.keys()):
        raise WeightsError(f"{folder}: {len(extra)} weights are not the model's: {_listed(extra)}")
    misshapen = [
        f"{key} {tuple(tensors[key].shape)} instead of {tuple(shape)}"
        for key, shape in expected.items()
        if tensors[key].shape != shape
    ]
    if misshapen:
        raise WeightsError(
            f"{folder}: {len(misshapen)} weights have another shape than config.json says: "
            f"{_listed(misshapen)}"
        )
    if integers := [key for key, value in tensors.items() if not value.is_floating_point()]:
        raise WeightsError(f"{folder}: weights that are not floats: {_listed(integers)}")
    # A sum is finite only when all its terms are, and ten times as fast as asking each of them.
    if broken := [key for key, v in tensors.items() if not v.sum(dtype=torch.float32).isfinite()]:
        raise WeightsError(f"{folder}: weights that are not finite: {_listed(broken)}")


def _listed(names: list[str], at_most: int = 3) -> str:
    more = f" and {len(names) - at_most} more" if len(names) > at_most else ""
    return ", ".join(names[:at_most]) + more


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
