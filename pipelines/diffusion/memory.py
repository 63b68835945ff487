"""Which tensors a latent diffusion model loads, which stay in float32, and what gradients take.

Loads no torch.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipelines.checkpoints import single_file
from pipelines.checkpoints.configs import read_config
from pipelines.checkpoints.headers import Tensor, read_header, read_headers, weights_files
from pipelines.checkpoints.memory import DrawingMemory, Header, parts_of, weights_in
from pipelines.checkpoints.single_file import UNET, VAE
from pipelines.checkpoints.specs import Spec
from pipelines.diffusion.spec import needs_float32, text_components

# Numbers that all layers keep for a gradient, for each pixel of a candidate: Stable Diffusion 1.5
# keeps 3,700, with and without the prompt; what ships 2,200.
KEPT_FOR_GRADIENTS = 4_000


def tensors(spec: Spec) -> dict[str, Header]:
    """Return what the files say of each part's weights, another VAE included."""
    if spec.folder.is_file():
        headers = _parts_of_single_file(spec)
    else:
        stems = dict.fromkeys(text_components(spec.folder), "model")
        stems |= dict.fromkeys(("unet", "vae"), "diffusion_pytorch_model")
        headers = parts_of(spec.folder, stems)
    if spec.adapters.vae is not None:
        headers["vae"] = _vae_in(spec.adapters.vae)
    return headers


def in_float32(spec: Spec) -> dict[str, tuple[str, ...]]:
    """Return the parts, all of their keys, that stay in float32 where the rest is in float16."""
    configs = [read_config(spec.configs / part / "config.json") for part in ("unet", "vae")]
    return {"vae": ("",)} if needs_float32(*configs) else {}


def drawing(spec: Spec, bytes_per_number: int, settings: Mapping[str, Any]) -> DrawingMemory:
    """Return what a candidate takes beside what any does: a mask's guidance needs gradients."""
    if not settings.get("mask_guidance"):
        return DrawingMemory()
    width, height = (settings.get(side, spec.defaults[side]) for side in ("width", "height"))
    return DrawingMemory(0, width * height * KEPT_FOR_GRADIENTS * bytes_per_number)


def _vae_in(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a VAE that replaces a model's own; those for training are left out."""
    stem = "diffusion_pytorch_model"
    header = read_headers(weights_files(path, stem, stem) if path.is_dir() else [path])
    unread = ("loss.", f"{VAE}loss.")
    return {k: t for k, t in weights_in(header).items() if not k.startswith(unread)}


def _parts_of_single_file(spec: Spec) -> dict[str, Header]:
    header = read_header(spec.folder)
    prefixes = {**single_file.identify(spec.folder, header).text, "unet": UNET, "vae": VAE}
    weights = {k: t for k, t in weights_in(header).items() if not single_file.is_unread(k)}
    return {
        part: {key: tensor for key, tensor in weights.items() if key.startswith(prefix)}
        for part, prefix in prefixes.items()
    }
