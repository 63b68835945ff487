"""The parts of a model that draws from image embeddings, loaded from one folder or two."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers.pipelines.deprecated.unclip.text_proj import UnCLIPTextProjModel
from diffusers.pipelines.kandinsky.text_encoder import MCLIPConfig, MultilingualCLIP
from diffusers.pipelines.stable_diffusion.stable_unclip_image_normalizer import (
    StableUnCLIPImageNormalizer,
)
from transformers import (
    CLIPImageProcessorPil,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
    XLMRobertaTokenizer,
)

from pipelines.checkpoints.configs import read_config
from pipelines.checkpoints.errors import WeightsError
from pipelines.checkpoints.headers import in_messages
from pipelines.checkpoints.loading import (
    ByteCount,
    building,
    check_pairs,
    check_tokenizer,
    first_line,
    load_tokenizer,
    load_weights,
    settle,
)
from pipelines.checkpoints.specs import Spec
from pipelines.checkpoints.tokenizer_files import check_tokenizer_files
from pipelines.decoding import Vae
from pipelines.loading import Report
from pipelines.runtime.cpu import divide
from pipelines.unclip.image_tokens import ImageTokens
from pipelines.unclip.spec import WHOLE_CLIP, all_places, header_of, is_clip

# The class of each part with weights; a text encoder is of the class that its config names.
CLASSES: Mapping[str, Any] = {
    "prior": diffusers.PriorTransformer,
    "unet": diffusers.UNet2DConditionModel,
    "text_proj": UnCLIPTextProjModel,
    "image_tokens": ImageTokens,
    "super_res_first": diffusers.UNet2DModel,
    "super_res_last": diffusers.UNet2DModel,
    "image_normalizer": StableUnCLIPImageNormalizer,
}


@dataclass(frozen=True)
class Parts:
    """The parts of a model by name, in evaluation mode on one device and dtype."""

    networks: Mapping[str, Any]
    tokenizers: Mapping[str, Any]
    schedulers: Mapping[str, Mapping[str, Any]]  # scheduler_config.json
    image_processor: Any | None

    @property
    def vae(self) -> Vae | None:
        """What makes images of latents; None where the UNet draws images itself."""
        return self.networks.get("vae")


def load_parts(spec: Spec, device: torch.device, dtype: torch.dtype, report: Report) -> Parts:
    """Load all parts, as `dtype` whatever their files hold, onto `device`.

    Raises WeightsError, in one line, for anything that is missing, damaged or does not fit.
    """
    places = all_places(spec)
    configs = {part: path for part, path in places.items() if _has_weights(part)}
    networks = {}
    for part, path in configs.items():
        with building(path):
            networks[part] = _build(part, read_config(path / "config.json"))
    tokenizers = {
        part: _load_tokenizer(path) for part, path in places.items() if part.endswith("tokenizer")
    }
    _check_fit(spec, networks, tokenizers)
    added = ByteCount(networks, dict.fromkeys(networks, dtype), report).add
    for part, network in networks.items():
        files, header = header_of(part, places[part])
        load_weights(network, in_messages(files), header, dtype, added)
        _fill_constants(network, dtype)
        settle(network, device)
    divide(networks["unet"])
    schedulers = {
        part: read_config(path / "scheduler_config.json")
        for part, path in places.items()
        if part.endswith("scheduler")
    }
    processor = places.get("image_processor")
    return Parts(
        networks, tokenizers, schedulers, None if processor is None else _read_processor(processor)
    )


def _has_weights(part: str) -> bool:
    return not part.endswith(("tokenizer", "scheduler", "processor"))


def _build(part: str, config: dict[str, Any]) -> Any:
    if part in WHOLE_CLIP and is_clip(config):
        text = part == "text_encoder"
        tower = dict(config["text_config" if text else "vision_config"])
        tower["projection_dim"] = config["projection_dim"]
        if text:
            return CLIPTextModelWithProjection(CLIPTextConfig.from_dict(tower))
        return CLIPVisionModelWithProjection(CLIPVisionConfig.from_dict(tower))
    if part.endswith("text_encoder"):
        names = config.get("architectures") or [CLIPTextModelWithProjection.__name__]
        if names[0] == MultilingualCLIP.__name__:
            return MultilingualCLIP(MCLIPConfig.from_dict(config))
        kinds = {kind.__name__: kind for kind in (CLIPTextModel, CLIPTextModelWithProjection)}
        if names[0] not in kinds:
            raise ValueError(f"{part} is a {names[0]}")
        return kinds[names[0]](CLIPTextConfig.from_dict(config))
    if part == "image_encoder":
        return CLIPVisionModelWithProjection(CLIPVisionConfig.from_dict(config))
    if part == "vae":
        kind = diffusers.VQModel if "num_vq_embeddings" in config else diffusers.AutoencoderKL
        return kind.from_config(config)
    return CLASSES[part].from_config(config)


def _load_tokenizer(folder: Path) -> Any:
    kind = read_config(folder / "tokenizer_config.json").get("tokenizer_class")
    if kind not in ("XLMRobertaTokenizer", "XLMRobertaTokenizerFast"):
        return load_tokenizer(folder)
    check_tokenizer_files(folder)
    try:
        return XLMRobertaTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # the tokenizers library raises plain Exception on a damaged file
        raise WeightsError(
            f"{folder} holds no tokenizer that can be read: {first_line(error)}"
        ) from error


def _read_processor(folder: Path) -> CLIPImageProcessorPil:
    config = read_config(folder / "preprocessor_config.json")
    try:
        return CLIPImageProcessorPil.from_dict(config)
    except (TypeError, ValueError, KeyError) as error:
        raise WeightsError(
            f"{folder}: cannot follow this preprocessing ({first_line(error)})"
        ) from error


def _fill_constants(network: torch.nn.Module, dtype: torch.dtype) -> None:
    """Compute the constants that are not saved, in place of what `building` left empty."""
    for module in network.modules():
        for name, value in module.named_buffers(recurse=False):
            if not value.is_meta:
                continue
            if name == "position_ids":
                filled = torch.arange(value.shape[-1]).expand(1, -1)
            elif name == "token_type_ids":
                filled = torch.zeros(value.shape, dtype=torch.long)
            elif name == "causal_attention_mask":
                filled = torch.full(value.shape[1:], -10000.0).triu(1)[None].to(dtype)
            else:
                raise WeightsError(f"{type(network).__name__} has {name}, which nobody computes")
            module.register_buffer(name, filled, persistent=False)


def _check_fit(spec: Spec, networks: Mapping[str, Any], tokenizers: Mapping[str, Any]) -> None:
    """Raise WeightsError naming both numbers where two parts do not fit together."""
    pairs = []
    prior, text = networks.get("prior"), networks.get("text_encoder")
    if prior is not None and text is not None:
        width, own = prior.config.embedding_dim, text.config.projection_dim
        pairs.append(("prior embedding_dim", width, "text_encoder projection_dim", own))
        image = networks.get("image_encoder")
        if image is not None:
            own = image.config.projection_dim
            pairs.append(("prior embedding_dim", width, "image_encoder projection_dim", own))
    if (tokens := networks.get("image_tokens")) is not None:
        own = networks["image_encoder"].config.projection_dim
        given = tokens.config.embedding_dim
        pairs.append(("image_tokens embedding_dim", given, "image_encoder projection_dim", own))
        read, given = networks["unet"].config.cross_attention_dim, tokens.config.cross_attention_dim
        pairs.append(("image_tokens cross_attention_dim", given, "unet cross_attention_dim", read))
    check_pairs(spec.folder, pairs)
    for part, tokenizer in tokenizers.items():
        reader = networks[part.replace("tokenizer", "text_encoder")]
        size = reader.config.vocab_size
        check_tokenizer(spec.folder, tokenizer, f"{part} vocab_size", size)
