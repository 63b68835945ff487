"""How much memory the weights of a model will take, read off its files. Loads no torch."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from pipelines.checkpoints import single_file as original_layout
from pipelines.checkpoints.configs import read_config
from pipelines.checkpoints.headers import BYTES_OF_TYPE, Tensor, read_header, shards, weights_file
from pipelines.checkpoints.single_file import UNET, VAE
from pipelines.checkpoints.specs import Spec
from pipelines.diffusion.spec import text_components

OFFLOAD = ("none", "model", "sequential")
# Encoders that transformers keeps partly in float32, since their MLPs leave the range of float16.
T5_CLASSES = ("T5EncoderModel", "UMT5EncoderModel")
T5_WHOLE = ".wo.weight"


@dataclass(frozen=True)
class Needs:
    """Bytes that the weights of a model take in the number format in which they run."""

    parts: Mapping[str, int]  # by the names of a diffusers folder
    largest: int  # of a single layer

    @property
    def weights(self) -> int:
        """All of them."""
        return sum(self.parts.values())

    def on_device(self, offload: str) -> int:
        """The most that is on the device at a time; what `offload` keeps off it is on the host."""
        most = {"none": self.weights, "model": max(self.parts.values(), default=0)}
        return most.get(offload, self.largest)


def read_needs(spec: Spec, bytes_per_number: int, *, safety: bool = False) -> Needs:
    """The needs of a model whose weights run at so many bytes a number: 4, or 2 in half precision.

    With `safety` its safety checker is counted too. Raises WeightsError for files that are missing
    or damaged.
    """
    headers = _headers(spec)
    if spec.additions.vae is not None:
        headers["vae"] = _vae_in(spec.additions.vae)
    whole = _parts_in_float32(spec) if bytes_per_number == 2 else {}
    sizes = {
        part: {
            key: prod(tensor.shape) * (4 if key.endswith(whole.get(part, ())) else bytes_per_number)
            for key, tensor in header.items()
        }
        for part, header in headers.items()
    }
    if safety:
        header = read_header(weights_file(spec.folder / "safety_checker", "model", "pytorch_model"))
        sizes["safety_checker"] = {k: 4 * prod(t.shape) for k, t in _weights_in(header).items()}
    layers: dict[tuple[str, str], int] = {}
    for part, tensors in sizes.items():
        for key, size in tensors.items():
            layer = part, key.rpartition(".")[0]
            layers[layer] = layers.get(layer, 0) + size
    return Needs(
        {part: sum(tensors.values()) for part, tensors in sizes.items()},
        max(layers.values(), default=0),
    )


def _parts_in_float32(spec: Spec) -> dict[str, tuple[str, ...]]:
    """How the keys end, by part, that stay in float32 where all else is in half precision.

    That is so in float16 alone, so this is the most.
    """
    if spec.kind == "latent_diffusion":
        configs = [read_config(spec.configs / part / "config.json") for part in ("unet", "vae")]
        return {"vae": ("",)} if needs_float32(*configs) else {}
    if spec.kind == "diffusers":
        classes = {part: entry[-1] for part, entry in _entries(spec).items()}
        return {part: (T5_WHOLE,) for part, name in classes.items() if name in T5_CLASSES}
    return {}


def needs_float32(unet: Mapping[str, Any], vae: Mapping[str, Any]) -> bool:
    """Whether a VAE leaves the range of float16, as SDXL's own does and says."""
    return unet.get("addition_embed_type") == "text_time" and bool(vae.get("force_upcast"))


def _headers(spec: Spec) -> dict[str, dict[str, Tensor]]:
    """What the files say of each part's tensors, without those that are no weights."""
    if spec.folder.is_file():
        return _parts_of_single_file(spec)
    if spec.kind == "diffusers":
        return {part: header for part in _entries(spec) if (header := _whole(spec.folder / part))}
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


def _entries(spec: Spec) -> dict[str, list[str]]:
    """The parts that a pipeline of diffusers is made of, with their libraries and classes."""
    index = read_config(spec.folder / "model_index.json")
    return {
        part: [str(name) for name in entry]
        for part, entry in index.items()
        if isinstance(entry, list) and entry not in ([], [None, None])
    }


def _vae_in(path: Path) -> dict[str, Tensor]:
    """The tensors of a VAE that takes the place of a model's own; training's are not read."""
    stem = "diffusion_pytorch_model"
    header = read_header(weights_file(path, stem, stem) if path.is_dir() else path)
    unread = ("loss.", f"{VAE}loss.")
    return {k: t for k, t in _weights_in(header).items() if not k.startswith(unread)}


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
