"""Things that are named, found by CLIPSeg or by the small network of our own.

Lüddecke and Ecker, Image Segmentation Using Text and Image Prompts (arXiv 2112.10003).
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel
from transformers.models.clipseg.configuration_clipseg import CLIPSegConfig
from transformers.models.clipseg.modeling_clipseg import CLIPSegForImageSegmentation

from pipelines.checkpoints.configs import read_config
from pipelines.checkpoints.errors import WeightsError
from pipelines.checkpoints.hashes import files_hash
from pipelines.checkpoints.headers import in_messages, read_headers, weights_files
from pipelines.checkpoints.loading import (
    building,
    fill_position_ids,
    load_tokenizer,
    load_weights,
    settle,
)
from pipelines.segmentation.network import MaskConfig, MaskNetwork

RESAMPLING = {2: Image.Resampling.BILINEAR, 3: Image.Resampling.BICUBIC}


def load_network(network: nn.Module, folder: Path, device: torch.device) -> nn.Module:
    """Fill a network from the safetensors of its folder, in float32, ready to run."""
    paths = weights_files(folder, "model", "pytorch_model")
    load_weights(network, in_messages(paths), read_headers(paths), torch.float32)
    fill_position_ids(network)
    settle(network, device)
    return network


class ClipSeg:
    """CLIPSeg in a folder of transformers."""

    def __init__(self, folder: Path, device: torch.device) -> None:
        """Load it. Raises WeightsError for a folder that is incomplete or damaged."""
        config = read_config(folder / "config.json")
        with building(folder):
            network = CLIPSegForImageSegmentation(CLIPSegConfig.from_dict(config))
        self.network = load_network(network, folder, device)
        self.tokenizer = load_tokenizer(folder)
        self.look = read_config(folder / "preprocessor_config.json")
        self.device = device

    @torch.inference_mode()
    def chances(self, image: Image.Image, names: list[str]) -> np.ndarray:
        """Return for each name how likely each pixel belongs to it, float32 (N, H, W)."""
        pixels = self.prepared(image).to(self.device).expand(len(names), -1, -1, -1)
        tokens = self.tokenizer(names, padding=True, truncation=True, return_tensors="pt")
        logits = self.network(
            input_ids=tokens.input_ids.to(self.device),
            attention_mask=tokens.attention_mask.to(self.device),
            pixel_values=pixels,
        ).logits
        return at_size(logits.reshape(len(names), *logits.shape[-2:]).sigmoid(), image.size)

    def prepared(self, image: Image.Image) -> torch.Tensor:
        """Return (1, 3, h, w): the image at the network's size, as its folder says."""
        size = self.look.get("size", {})
        sides = size if isinstance(size, dict) else {"height": size, "width": size}
        width, height = int(sides.get("width", 352)), int(sides.get("height", 352))
        resampling = RESAMPLING.get(self.look.get("resample", 2), Image.Resampling.BILINEAR)
        return normalized(image.resize((width, height), resampling), self.look)


class Small:
    """Our own small network, with the text encoder of the model that it was made for."""

    def __init__(self, folder: Path, device: torch.device, reader: Path) -> None:
        """Load it; `reader` is the folder with that text encoder and its tokenizer.

        Raises WeightsError for weights that are damaged, or made for another text encoder.
        """
        entries = read_config(folder / "config.json")
        entries.pop("_class_name", None)
        entries["widths"] = tuple(entries["widths"])
        with building(folder):
            network = MaskNetwork(MaskConfig(**entries))
            encoder = CLIPTextModel(
                CLIPTextConfig.from_dict(read_config(reader / "text_encoder" / "config.json"))
            )
        self.config = network.config
        if self.config.text_encoder not in ("", files_hash(reader / "text_encoder")):
            raise WeightsError(f"{folder} knows another text encoder than that of {reader}")
        self.network = load_network(network, folder, device)
        self.encoder = load_network(encoder, reader / "text_encoder", device)
        self.tokenizer = load_tokenizer(reader / "tokenizer")
        self.device = device

    @torch.inference_mode()
    def chances(self, image: Image.Image, names: list[str]) -> np.ndarray:
        """Return for each name how likely each pixel belongs to it, float32 (N, H, W)."""
        side = self.config.side
        small = image.resize((side, side), Image.Resampling.BOX)
        rgb = torch.from_numpy(np.array(small)).permute(2, 0, 1)[None].to(self.device) / 255
        logits = self.network(
            rgb.expand(len(names), -1, -1, -1), encode(self.encoder, self.tokenizer, names)
        )
        return at_size(logits.sigmoid(), image.size)


def encode(encoder: Any, tokenizer: Any, names: list[str]) -> torch.Tensor:
    """Return what a text encoder makes of names, (N, width): its state where each one ends."""
    tokens = tokenizer(names, padding=True, truncation=True, return_tensors="pt")
    ids = tokens.input_ids.to(encoder.device)
    states = encoder(ids, attention_mask=tokens.attention_mask.to(encoder.device))
    ends = tokens.attention_mask.sum(dim=1) - 1
    return states.last_hidden_state[torch.arange(len(ids)), ends.to(ids.device)]


def text_hash(config: MaskConfig, reader: Path) -> MaskConfig:
    """Return a config that says which text encoder it was made for."""
    return replace(config, text_encoder=files_hash(reader / "text_encoder"))


def normalized(image: Image.Image, look: dict[str, Any]) -> torch.Tensor:
    """Return an RGB image as (1, 3, H, W), less the mean and by the spread of each channel."""
    rgb = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None] / 255
    mean = torch.tensor(look.get("image_mean", [0.485, 0.456, 0.406])).view(1, 3, 1, 1)
    spread = torch.tensor(look.get("image_std", [0.229, 0.224, 0.225])).view(1, 3, 1, 1)
    return (rgb - mean) / spread


def at_size(values: torch.Tensor, size: tuple[int, int]) -> np.ndarray:
    """Return maps (N, h, w) at a size (width, height), as float32 (N, H, W)."""
    large = nn.functional.interpolate(
        values[:, None].float(), (size[1], size[0]), mode="bilinear", align_corners=False
    )
    return large[:, 0].cpu().numpy()
