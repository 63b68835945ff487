"""From latents to images: the real decoder, and a linear map for cheap previews."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.autoencoders.vq_model import VQModel
from PIL import Image

from pipelines.checkpoints.configs import read_config
from pipelines.checkpoints.errors import WeightsError
from pipelines.drafts import CHUNK_PIXELS, in_chunks, to_image, to_uint8
from pipelines.runtime.devices import is_out_of_memory

Vae: TypeAlias = (
    AutoencoderKL | VQModel
)  # the latter is Kandinsky's MoVQ, which takes latents as they are


def decode(vae: Vae, latents: torch.Tensor) -> list[torch.Tensor | None]:
    """Decode scaled latents (N, C, h, w) to uint8 images (3, H, W), on the device of the VAE.

    Works in chunks that halve when memory runs out; one that does not fit alone is decoded in
    tiles, and only if those do not fit either, this raises. An image that is not finite is tried
    again in float32, alone, and is None if that fails too.
    """

    def decode_rows(rows: torch.Tensor) -> list[torch.Tensor | None]:
        decoded = _decode_or_tile(vae, rows)  # (n, 3, H, W), about −1 to 1
        finite = decoded.isfinite().flatten(1).all(dim=1).tolist()
        pixels = to_uint8(decoded / 2 + 0.5)
        return [
            pixels[i] if finite[i] else _decode_in_float32(vae, rows[i : i + 1])
            for i in range(len(rows))
        ]

    factor = 2 ** (len(vae.config.block_out_channels) - 1)
    return in_chunks(
        latents, CHUNK_PIXELS // (latents.shape[2] * latents.shape[3] * factor**2), decode_rows
    )


def encode(vae: Vae, images: torch.Tensor) -> torch.Tensor:
    """Encode images (N, 3, H, W) in [-1, 1] to scaled latents (N, C, h, w), float32.

    They are the means of what the encoder says, so that the same image is the same latents. One at
    a time, in float32 where half precision is not finite.
    """
    return torch.cat([_encode_row(vae, image[None]) for image in images])


def _encode_row(vae: Vae, image: torch.Tensor) -> torch.Tensor:
    if isinstance(vae, VQModel):
        return vae.encode(image.to(vae.dtype), return_dict=False)[0].float()
    dtype = vae.dtype
    mean = vae.encode(image.to(dtype), return_dict=False)[0].mean.float()
    if dtype != torch.float32 and not mean.isfinite().all():
        vae.to(torch.float32)
        try:
            mean = vae.encode(image.float(), return_dict=False)[0].mean
        finally:
            vae.to(dtype)
    return mean * vae.config.scaling_factor


def _decode_or_tile(vae: Vae, latents: torch.Tensor) -> torch.Tensor:
    """Decode rows; one that memory is too short for is decoded in overlapping tiles."""
    try:
        return _decode_rows(vae, latents)
    except Exception as error:
        if len(latents) > 1 or not is_out_of_memory(error):
            raise
        if isinstance(vae, VQModel) or vae.use_tiling:
            raise
    vae.enable_tiling()
    try:
        return _decode_rows(vae, latents)
    finally:
        vae.disable_tiling()


def _decode_rows(vae: Vae, latents: torch.Tensor) -> torch.Tensor:
    if isinstance(vae, VQModel):
        latents = latents.to(vae.dtype)
        return vae.decode(latents, force_not_quantize=True, return_dict=False)[0].float()
    latents = (latents / vae.config.scaling_factor).to(vae.dtype)
    return vae.decode(latents, return_dict=False)[0].float()


def _decode_in_float32(vae: Vae, latent: torch.Tensor) -> torch.Tensor | None:
    """Decode one latent (1, C, h, w) to an image (3, H, W), or None if it is not finite in float32
    either."""
    if not latent.isfinite().all():
        return None
    dtype = vae.dtype
    vae.to(torch.float32)  # and back without loss, since half precision is a part of it
    try:
        decoded = _decode_rows(vae, latent)[0]
    finally:
        vae.to(dtype)
    return to_uint8(decoded / 2 + 0.5) if decoded.isfinite().all() else None


@dataclass(frozen=True)
class LatentRgb:
    """A linear map from a scaled latent, as the UNet sees it, to RGB in [0, 1]."""

    weight: torch.Tensor  # (C, 3)
    bias: torch.Tensor  # (3,)

    def images(self, latents: torch.Tensor, size: tuple[int, int]) -> list[Image.Image | None]:
        """Return rough images of (N, C, h, w) enlarged to `size` (width, height); None if not
        finite."""
        rgb = torch.einsum("nchw,cd->ndhw", latents.float(), self.weight.to(latents.device))
        rgb = (rgb + self.bias.to(latents.device)[:, None, None]).cpu()
        finite = rgb.isfinite().flatten(1).all(dim=1).tolist()
        return [
            to_image(pixels).resize(size, Image.Resampling.BILINEAR) if ok else None
            for pixels, ok in zip(to_uint8(rgb), finite, strict=True)
        ]


def read_latent_rgb(vae_folder: Path, channels: int) -> LatentRgb | None:
    """Read the map stored with a VAE as `latent_rgb.json`, {"weight": C x 3, "bias": 3}; None
    without one.

    Raises WeightsError if the file is malformed.
    """
    path = vae_folder / "latent_rgb.json"
    if not path.is_file():
        return None
    stored = read_config(path)
    try:
        weight = torch.tensor(stored["weight"], dtype=torch.float32)
        bias = torch.tensor(stored["bias"], dtype=torch.float32)
    except (KeyError, TypeError, ValueError, RuntimeError):
        raise WeightsError(f"{path} lacks the numbers weight (C x 3) and bias (3)") from None
    if weight.shape != (channels, 3) or bias.shape != (3,):
        raise WeightsError(
            f"{path} has weight {list(weight.shape)} and bias {list(bias.shape)}; "
            f"this VAE needs [{channels}, 3] and [3]"
        )
    return LatentRgb(weight, bias)


def write_latent_rgb(latent_rgb: LatentRgb, vae_folder: Path) -> None:
    """Store the map where `read_latent_rgb` finds it."""
    stored = {"weight": latent_rgb.weight.tolist(), "bias": latent_rgb.bias.tolist()}
    (vae_folder / "latent_rgb.json").write_text(json.dumps(stored), encoding="utf-8")


def solve_latent_rgb(latents: torch.Tensor, rgb: torch.Tensor) -> LatentRgb:
    """Solve for the least-squares map from scaled latents (N, C, h, w) to images (N, 3, H, W) in
    [0, 1].

    Each latent pixel is paired with the mean of the image under it.
    """
    C, h, w = latents.shape[1:]
    means = torch.nn.functional.adaptive_avg_pool2d(rgb.float(), (h, w))
    x = latents.movedim(1, -1).reshape(-1, C).cpu().double()
    y = means.movedim(1, -1).reshape(-1, 3).cpu().double()
    x = torch.cat(
        [x, torch.ones(len(x), 1, dtype=x.dtype)], dim=1
    )  # the last column makes the bias
    solution = torch.linalg.lstsq(x, y).solution.float()  # (C + 1, 3)
    return LatentRgb(solution[:C], solution[C])


@torch.inference_mode()
def fit_latent_rgb(vae: Vae, device: torch.device, samples: int = 8) -> LatentRgb:
    """Fit the map of a VAE that came without one, from how it decodes random patches of colour.

    It runs on `device`, wherever its weights lie meanwhile.
    """
    generator = torch.Generator().manual_seed(0)
    shape = (samples, vae.config.latent_channels, 4, 4)
    patches = torch.randn(shape, generator=generator)
    latents = patches.repeat_interleave(4, dim=2).repeat_interleave(4, dim=3)  # (n, C, 16, 16)
    latents = latents.to(device)
    rgb = torch.cat([_decode_rows(vae, row) for row in latents.split(1)])
    return solve_latent_rgb(latents, (rgb / 2 + 0.5).clamp(0, 1))
