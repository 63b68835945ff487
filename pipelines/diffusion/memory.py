"""Which tensors a latent diffusion model loads, and which stay in float32. Loads no torch."""

from pathlib import Path

from pipelines.checkpoints import single_file
from pipelines.checkpoints.configs import read_config
from pipelines.checkpoints.headers import Tensor, read_header, read_headers, weights_files
from pipelines.checkpoints.memory import Header, parts_of, weights_in
from pipelines.checkpoints.single_file import UNET, VAE
from pipelines.checkpoints.specs import Spec
from pipelines.diffusion.spec import needs_float32, text_components


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
