"""The safety checker that came with a model folder: which images it flags.

It compares an image with a few concepts in CLIP's space (Rando et al., Red-Teaming the Stable
Diffusion Safety Filter, arXiv 2210.04610). diffusers' own call also paints what it flags black, so
of its class only the network is used here.
"""

from collections.abc import Iterable
from pathlib import Path

import torch
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from PIL import Image
from torch.nn.functional import cosine_similarity
from transformers import CLIPConfig, CLIPImageProcessorPil

from pipelines import decoding
from pipelines.checkpoints.configs import read_config
from pipelines.checkpoints.errors import WeightsError
from pipelines.checkpoints.headers import in_messages, read_headers, weights_files
from pipelines.checkpoints.loading import building, fill_position_ids, first_line, load_weights

SPECIAL_CARE = 0.01  # how far a special concept that is near lowers the other thresholds


class SafetyChecker:
    """A CLIP vision tower with the concepts it looks for, and the threshold of each."""

    def __init__(
        self, processor: CLIPImageProcessorPil, network: StableDiffusionSafetyChecker
    ) -> None:
        self._processor = processor
        self._network = network

    @classmethod
    def from_pretrained(cls, folder: Path, device: torch.device) -> "SafetyChecker":
        """Load safety_checker/ and feature_extractor/ of a Stable Diffusion folder.

        Always in float32: the thresholds are finer than half precision. Raises WeightsError, in one
        line, if the folder has no checker, or one that is incomplete or damaged.
        """
        part = folder / "safety_checker"
        if not part.is_dir():
            raise WeightsError(
                f"{folder} has no safety_checker/, so its images cannot be checked: "
                "leave out --safety, or choose another model"
            )
        config = read_config(part / "config.json")
        files = weights_files(part, "model", "pytorch_model")
        header = read_headers(files)
        with building(part):
            network = StableDiffusionSafetyChecker(CLIPConfig.from_dict(config))
        processor = _read_processor(
            folder / "feature_extractor", network.config.vision_config.image_size
        )
        load_weights(network, in_messages(files), header, torch.float32)
        fill_position_ids(network)
        return cls(processor, network.to(device).eval().requires_grad_(False))

    @torch.inference_mode()
    def flags(self, images: Iterable[torch.Tensor]) -> list[bool]:
        """Return whether each image of uint8 (N, 3, H, W) is flagged.

        One at a time, so that neither a flag nor the memory depends on N.
        """
        return [self._flags(decoding.to_image(image)) for image in images]

    def _flags(self, image: Image.Image) -> bool:
        network = self._network
        pixels = self._processor(image, return_tensors="pt").pixel_values  # (1, 3, S, S)
        pooled = network.vision_model(pixels.to(network.device)).pooler_output
        embedding = network.visual_projection(pooled)  # (1, D)
        special = _excess(
            embedding, network.special_care_embeds, network.special_care_embeds_weights
        )
        adjustment = SPECIAL_CARE if (special > 0).any() else 0.0
        thresholds = network.concept_embeds_weights - adjustment
        return bool((_excess(embedding, network.concept_embeds, thresholds) > 0).any())


def _excess(
    embedding: torch.Tensor, concepts: torch.Tensor, thresholds: torch.Tensor
) -> torch.Tensor:
    """Return by how much the cosines with concepts (K, D) exceed their thresholds (K,), in
    thousandths."""
    return (cosine_similarity(embedding, concepts) - thresholds).round(decimals=3)


def _read_processor(folder: Path, image_size: int) -> CLIPImageProcessorPil:
    """Read the preprocessing of images for a tower that reads `image_size` pixels a side."""
    path = folder / "preprocessor_config.json"
    config = read_config(path)
    try:
        processor = CLIPImageProcessorPil(**config)
        blank = processor(Image.new("RGB", (8, 8)), return_tensors="pt").pixel_values
    except Exception as error:  # transformers raises every kind for settings that cannot be
        raise WeightsError(f"{path} cannot be followed: {first_line(error)}") from error
    if blank.shape != (1, 3, image_size, image_size):
        raise WeightsError(
            f"{path} makes images of {blank.shape[-1]}x{blank.shape[-2]} pixels, the safety "
            f"checker reads {image_size}x{image_size}"
        )
    return processor
