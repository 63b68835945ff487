"""From images of any kind to what the vision tower reads.

An image is *prepared* (resized and cropped to the model's size, uint8) and then *normalised*, in
one batch on the device. There are two ways to prepare:

- the fast one: PyTorch's antialiased filter, where the image lies. It is PIL's algorithm in
  another fixed point, so that single subpixels differ by 1 of 255, or by 2 in enlarged images.
  JPEG files are decoded at a fraction of their size that is at least four times the model's.
- `exact`: PIL's filter on the whole image, bit for bit what transformers' PIL image processors
  give.

What files and PIL images may be, and how they become RGB, is in `pipelines.images`.
"""

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from PIL import Image
from torch.nn.functional import interpolate

from pipelines.checkpoints.configs import read_config
from pipelines.checkpoints.errors import WeightsError
from pipelines.images import check_size, decoded, to_rgb
from rerank.model import open_clip

ImageLike: TypeAlias = Image.Image | str | os.PathLike[str] | bytes | np.ndarray | torch.Tensor

TOLERANCE, LARGEST_SCALE = 1e-5, 100.0  # of SigLIP 2's search for a scale
JPEG_MARGIN = 4  # times the size that is read, which a JPEG decoded at a fraction still has
RESAMPLERS = {Image.Resampling.BILINEAR: "bilinear", Image.Resampling.BICUBIC: "bicubic"}


@dataclass(frozen=True)
class Patches:
    """What is read of an image of any shape: at most so many squares, of `size` pixels a side."""

    size: int
    most: int

    def fit(self, height: int, width: int) -> tuple[int, int]:
        """Return the largest (height, width) in whole patches, at nearly the image's shape.

        As in SigLIP 2: the scale is found by halving, to within TOLERANCE, and sides go up to whole
        patches.
        """
        low, high = TOLERANCE / 10, LARGEST_SCALE
        while high - low >= TOLERANCE:
            middle = (low + high) / 2
            rows, columns = self._patches(height, middle), self._patches(width, middle)
            if rows * columns <= self.most:
                low = middle
            else:
                high = middle
        return self._patches(height, low) * self.size, self._patches(width, low) * self.size

    def _patches(self, side: int, scale: float) -> int:
        return max(1, math.ceil(side * scale / self.size))


@dataclass(frozen=True)
class Preprocessing:
    """The settings of a preprocessor_config.json.

    resize     the shortest edge in pixels, the longer one follows; or (height, width); or Patches
    crop       (height, width) in pixels, cut from the centre; what the model reads; None for all
    resample   PIL's filter
    scale      from 0..255 to what mean and std are given in, mostly 1/255
    mean, std  of each of R, G, B
    exact      resize by PIL, bit for bit
    """

    resize: "int | tuple[int, int] | Patches"
    crop: tuple[int, int] | None
    resample: Image.Resampling
    scale: float
    mean: tuple[float, ...]
    std: tuple[float, ...]
    exact: bool = False

    def prepare(self, source: ImageLike, device: torch.device) -> torch.Tensor:
        """One image as (3, H, W) uint8 at the model's size.

        A tensor is resized on `device`, every other kind on the CPU. Raises BadImageError, or
        ValueError for arrays and tensors that are not images.
        """
        if isinstance(source, torch.Tensor):
            return self.prepare_batch(source[None], device)[0]
        if isinstance(source, str | os.PathLike | bytes):
            enough = self.resize
            if isinstance(enough, Patches):
                enough = enough.size * math.isqrt(enough.most)
            enough = enough if isinstance(enough, int) else max(enough)
            with decoded(source, None if self.exact else JPEG_MARGIN * enough) as image:
                return self._prepared(image)
        if isinstance(source, np.ndarray):
            return self._prepared(_from_array(source))
        if isinstance(source, Image.Image):
            return self._prepared(to_rgb(source))
        raise ValueError(
            f"an image is a PIL image, path, bytes of a file, array or tensor, not {source!r:.80}"
        )

    def prepare_batch(self, images: torch.Tensor, device: torch.device) -> torch.Tensor:
        """(B, 3, H, W) of any size as (B, 3, H, W) uint8 at the model's size on `device`.

        The values are uint8, or floats in [0, 1], which are rounded to 8 bits.
        """
        if images.ndim != 4 or images.shape[1] != 3:
            raise ValueError(
                "image tensors have the shape (3, H, W), or (B, 3, H, W) for a batch, "
                f"not {tuple(images.shape)}"
            )
        height, width = images.shape[2:]
        check_size(height, width, "image tensor")
        images = _to_bytes(images.to(device))
        if not self.exact:
            return self._by_torch(images)
        arrays = images.permute(0, 2, 3, 1).cpu().numpy()
        return torch.stack([self._by_pil(Image.fromarray(array)) for array in arrays]).to(device)

    def _prepared(self, image: Image.Image) -> torch.Tensor:
        """RGB → (3, H, W) uint8 at the model's size."""
        if self.exact:
            return self._by_pil(image)
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)  # rows of RGB, the fastest
        return self._by_torch(pixels[None])[0]

    def _by_pil(self, image: Image.Image) -> torch.Tensor:
        """RGB → (3, H, W) uint8."""
        height, width = self._resized(image.height, image.width)
        if (height, width) != (image.height, image.width):
            image = image.resize((width, height), self.resample)
        top, left, bottom, right = self._centre(height, width)
        image = image.crop((left, top, right, bottom))
        return torch.from_numpy(np.array(image)).permute(2, 0, 1)

    def _by_torch(self, images: torch.Tensor) -> torch.Tensor:
        """(B, 3, H, W) uint8 → the same at the model's size."""
        height, width = self._resized(*images.shape[2:])
        images = _resize(images, height, width, RESAMPLERS[self.resample])
        top, left, bottom, right = self._centre(height, width)
        return images[:, :, top:bottom, left:right]

    def normalise(self, images: torch.Tensor) -> torch.Tensor:
        """(B, 3, H, W) uint8, prepared, as the model's fp32 input."""
        mean = torch.tensor(self.mean, device=images.device).view(3, 1, 1)
        std = torch.tensor(self.std, device=images.device).view(3, 1, 1)
        return (images.float() * self.scale - mean) / std

    def _resized(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) before the crop."""
        if isinstance(self.resize, Patches):
            return self.resize.fit(height, width)
        if not isinstance(self.resize, int):
            return self.resize
        longer = int(self.resize * max(height, width) / min(height, width))
        return (longer, self.resize) if height > width else (self.resize, longer)

    def _centre(self, height: int, width: int) -> tuple[int, int, int, int]:
        """(top, left, bottom, right) of the crop."""
        if self.crop is None:
            return 0, 0, height, width
        top, left = (height - self.crop[0]) // 2, (width - self.crop[1]) // 2
        return top, left, top + self.crop[0], left + self.crop[1]


def read_preprocessing(
    folder: Path, image_size: int, *, exact: bool = False, naflex: bool = False
) -> Preprocessing:
    """Return the preprocessing of a model folder whose vision tower reads `image_size` pixels a
    side; with `naflex` of one that reads any shape.

    Reads preprocessor_config.json, the part of processor_config.json that newer tools write, or
    what OpenCLIP says.
    Raises WeightsError when both are missing, or when images would not come out at that size.
    """
    names = ("preprocessor_config.json", "processor_config.json", open_clip.CONFIG)
    path = next((folder / name for name in names if (folder / name).is_file()), folder / names[0])
    config = read_config(path)
    try:
        if path.name == "processor_config.json":
            config = config.get("image_processor", {})
        elif path.name == open_clip.CONFIG:
            config = open_clip.read_preprocessing(config)
        preprocessing = _from_naflex(config, exact) if naflex else _from_config(config, exact)
    except KeyError as error:
        raise WeightsError(f"{path}: has no {error}") from error
    except (AttributeError, TypeError, ValueError) as error:
        raise WeightsError(f"{path}: cannot follow this preprocessing ({error})") from error
    if preprocessing.crop is None:
        return preprocessing
    if preprocessing.crop != (image_size, image_size):
        height, width = preprocessing.crop
        raise WeightsError(
            f"{path}: makes images of {width}x{height} pixels, the model reads "
            f"{image_size}x{image_size}"
        )
    smallest = preprocessing._resized(1, 1)
    if min(smallest) < image_size:
        raise WeightsError(f"{path}: resizes to {min(smallest)} pixels and then cuts {image_size}")
    return preprocessing


def _to_bytes(images: torch.Tensor) -> torch.Tensor:
    """uint8, or floats in [0, 1], as uint8."""
    if images.dtype == torch.uint8:
        return images
    if not images.is_floating_point():
        raise ValueError(f"image tensors are uint8, or floats in [0, 1], not {images.dtype}")
    if images.numel() > 0:
        low, high = images.aminmax()
        if not (low >= 0 and high <= 1):  # also where they are not numbers
            raise ValueError(
                f"float image tensors are in [0, 1], not from {low.item():g} to {high.item():g}"
            )
    return (images.float() * 255).round().to(torch.uint8)


def _from_array(array: np.ndarray) -> Image.Image:
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3:
        raise ValueError(
            f"image arrays are uint8 of shape (H, W, 3), not {array.dtype} of {array.shape}"
        )
    height, width = array.shape[:2]
    check_size(height, width, "image array")
    return Image.fromarray(array)


def _resize(images: torch.Tensor, height: int, width: int, mode: str) -> torch.Tensor:
    """PIL's resize for (B, 3, H, W) uint8: first across, then down, each pass rounded to uint8."""
    if images.shape[2:] == (height, width) or len(images) == 0:
        return images.new_empty(0, 3, height, width) if len(images) == 0 else images
    if images.device.type == "cpu":  # has kernels for bytes
        return interpolate(images, (height, width), mode=mode, antialias=True)
    for size in ((images.shape[2], width), (height, width)):
        if size != tuple(images.shape[2:]):
            resized = interpolate(images.float(), size, mode=mode, antialias=True)
            images = (resized + 0.5).floor().clamp(0, 255).to(torch.uint8)  # halves up, as PIL
    return images


def _from_config(config: dict[str, Any], exact: bool) -> Preprocessing:
    """Raise KeyError, TypeError or ValueError for what we cannot follow."""
    resample = _resample_of(config, Image.Resampling.BICUBIC)
    size = config["size"]
    if isinstance(size, int):  # as old files have it
        size = {"shortest_edge": size}
    resize = size["shortest_edge"] if "shortest_edge" in size else (size["height"], size["width"])
    # Where it is not said, CLIP crops; SigLIP does not, and has no size for it.
    crops = config.get("do_center_crop", "crop_size" in config)
    crop = config["crop_size"] if crops else size
    if isinstance(crop, int):
        crop = {"height": crop, "width": crop}
    return _with_values(config, resize, (crop["height"], crop["width"]), resample, exact)


def _from_naflex(config: dict[str, Any], exact: bool) -> Preprocessing:
    """Likewise, of SigLIP 2 for images of any shape."""
    patches = Patches(config.get("patch_size", 16), config.get("max_num_patches", 256))
    if not (1 <= patches.size <= 256 and 1 <= patches.most <= 65_536):
        raise ValueError(f"patch_size is {patches.size}, max_num_patches {patches.most}")
    half = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    resample = _resample_of(config, Image.Resampling.BILINEAR)
    return _with_values({**half, **config}, patches, None, resample, exact)


def _resample_of(config: dict[str, Any], default: Image.Resampling) -> Image.Resampling:
    if not config.get("do_resize", True):
        raise ValueError("do_resize is false")
    resample = Image.Resampling(config.get("resample", default))
    if resample not in RESAMPLERS:
        raise ValueError(f"resample is {resample.name}")
    return resample


def _with_values(
    config: dict[str, Any],
    resize: int | tuple[int, int] | Patches,
    crop: tuple[int, int] | None,
    resample: Image.Resampling,
    exact: bool,
) -> Preprocessing:
    normalised = config.get("do_normalize", True)
    return Preprocessing(
        resize=resize,
        crop=crop,
        resample=resample,
        scale=config.get("rescale_factor", 1 / 255) if config.get("do_rescale", True) else 1.0,
        mean=tuple(config["image_mean"]) if normalised else (0.0, 0.0, 0.0),
        std=tuple(config["image_std"]) if normalised else (1.0, 1.0, 1.0),
        exact=exact,
    )
