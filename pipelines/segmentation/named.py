"""Things that are named, found by CLIPSeg or by the small network of our own.

Lüddecke and Ecker, Image Segmentation Using Text and Image Prompts (arXiv 2112.10003).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn
from transformers.models.clipseg.configuration_clipseg import CLIPSegConfig
from transformers.models.clipseg.modeling_clipseg import CLIPSegForImageSegmentation

from pipelines.checkpoints.configs import read_config
from pipelines.checkpoints.headers import in_messages, read_headers, weights_files
from pipelines.checkpoints.loading import (
    building,
    fill_position_ids,
    load_tokenizer,
    load_weights,
    settle,
)
from pipelines.segmentation.network import MaskConfig, MaskNetwork

BACKGROUND = "the background"  # as our own network calls it
ROOM = 0.1  # of the shorter side of an image, around what is found
LONGEST = 8  # times the shorter side that our own network reads at
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
    """Our own small network, which reads names itself."""

    def __init__(self, folder: Path, device: torch.device) -> None:
        """Load it. Raises WeightsError for weights that are incomplete or damaged."""
        entries = read_config(folder / "config.json")
        entries.pop("_class_name", None)
        with building(folder):
            entries["widths"] = tuple(entries["widths"])
            network = MaskNetwork(MaskConfig(**entries))
        load_network(network, folder, device)
        self.network, self.device = network, device

    @torch.inference_mode()
    def chances(self, image: Image.Image, names: list[str]) -> np.ndarray:
        """Return for each name how likely each pixel belongs to it, float32 (N, H, W)."""
        return at_size(self._logits(image, names).sigmoid(), image.size)

    @torch.inference_mode()
    def room(self, image: Image.Image, names: list[str]) -> np.ndarray:
        """Return what is named and the background near it, bool (H, W): what takes its place has
        another outline, and what stands beside it is no room.

        Holes of a pixel or two of the network are no things, and are closed; all is enlarged to the
        image's size together, so that no seam is left.
        """
        *found, background = self._logits(image, [*names, BACKGROUND]) > 0
        named = torch.stack(found).any(0)[None].float()
        near = _widened(named, round(ROOM * self.network.config.side))
        room = near * torch.maximum(named, background.float())
        closed = 1 - _widened(1 - _widened(room, 1), 1)
        return at_size(closed, image.size)[0] >= 0.5

    def _logits(self, image: Image.Image, names: list[str]) -> torch.Tensor:
        """Return (N, h, w), at the size at which the image is read."""
        read = image.resize(self.read_size(image.size), Image.Resampling.BOX)
        rgb = torch.from_numpy(np.array(read)).permute(2, 0, 1)[None].to(self.device) / 255
        logits: torch.Tensor = self.network(rgb, names)[0]
        return logits

    def read_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """Return the size at which an image is read (width, height): things as large as the network
        knows them, of a very long one as much of it as is reasonable."""
        multiple, side = self.network.multiple, self.network.config.side
        scale = side / min(size)
        width, height = (
            min(max(1, round(n * scale / multiple)) * multiple, LONGEST * side) for n in size
        )
        return width, height


def _widened(mask: torch.Tensor, reach: int) -> torch.Tensor:
    """Return a mask (1, h, w) with all that is no farther from it than `reach`."""
    return nn.functional.max_pool2d(mask, 2 * reach + 1, stride=1, padding=reach)


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
