"""How much memory the weights of a model will take, read off its files. Loads no torch."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from pipelines import original_layout
from pipelines.headers import BYTES_OF_TYPE, Tensor, read_header, shards, weights_file
from pipelines.original_layout import UNET, VAE
from pipelines.specs import Spec, read_config, text_components

OFFLOAD = ("none", "model", "sequential")


@dataclass(frozen=True)
class Needs:
    """Bytes that the weights of a model take in the number format in which they run."""

    parts: Mapping[str, int]  # by the names of a diffusers folder
    largest: int  # of a single tensor

    @property
    def weights(self) -> int:
        """All of them."""
        return sum(self.parts.values())

    def on_device(self, offload: str) -> int:
        """The most that is on the device at a time; what `offload` keeps off it is on the host."""
        most = {"none": self.weights, "model": max(self.parts.values(), default=0)}
        return most.get(offload, self.largest)


def read_needs(spec: Spec, bytes_per_number: int) -> Needs:
    """The needs of a model whose weights run at so many bytes a number: 4, or 2 in half precision.

    Raises WeightsError for files that are missing or damaged.
    """
    headers = _headers(spec)
    sizes = dict.fromkeys(headers, bytes_per_number)
    if spec.kind == "latent_diffusion" and bytes_per_number == 2:
        configs = [read_config(spec.configs / part / "config.json") for part in ("unet", "vae")]
        if needs_float32(*configs):  # in bfloat16 it does not, so this is the most
            sizes["vae"] = 4
    parts = {
        part: sum(sizes[part] * prod(tensor.shape) for tensor in header.values())
        for part, header in headers.items()
    }
    largest = max(
        (sizes[part] * prod(tensor.shape) for part in headers for tensor in headers[part].values()),
        default=0,
    )
    return Needs(parts, largest)


def needs_float32(unet: Mapping[str, Any], vae: Mapping[str, Any]) -> bool:
    """Whether a VAE leaves the range of float16, as SDXL's own does and says."""
    return unet.get("addition_embed_type") == "text_time" and bool(vae.get("force_upcast"))


def _headers(spec: Spec) -> dict[str, dict[str, Tensor]]:
    """What the files say of each part's tensors, without those that are no weights."""
    if spec.folder.is_file():
        return _parts_of_single_file(spec)
    if spec.kind == "diffusers":
        folders = sorted({path.parent for path in spec.folder.glob("*/*.safetensors")})
        return {folder.name: _whole(folder) for folder in folders}
    if spec.kind == "dalle":
        stems = dict.fromkeys(("text_encoder", "transformer", "dvae"), "model")
        stems = {part: stem for part, stem in stems.items() if (spec.folder / part).is_dir()}
    else:
        stems = dict.fromkeys(text_components(spec.folder), "model")
        stems |= dict.fromkeys(("unet", "vae"), "diffusion_pytorch_model")
    return {
        part: _weights_in(read_header(weights_file(spec.folder / part, stem, stem)))
        for part, stem in stems.items()
    }


def _parts_of_single_file(spec: Spec) -> dict[str, dict[str, Tensor]]:
    header = read_header(spec.folder)
    prefixes = {**original_layout.identify(spec.folder, header).text, "unet": UNET, "vae": VAE}
    weights = {k: t for k, t in _weights_in(header).items() if not original_layout.is_unread(k)}
    return {
        part: {key: tensor for key, tensor in weights.items() if key.startswith(prefix)}
        for part, prefix in prefixes.items()
    }


def _whole(folder: Path) -> dict[str, Tensor]:
    """All shards of a part together."""
    paths, _ = shards(folder)
    return _weights_in({key: value for path in paths for key, value in read_header(path).items()})


def _weights_in(header: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {key: tensor for key, tensor in header.items() if tensor.dtype in BYTES_OF_TYPE}
