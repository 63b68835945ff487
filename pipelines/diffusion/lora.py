"""LoRA files: small changes to many weights, added to a model while it loads.

Each change is a product of two thin matrices, ΔW = w · α / r · up · down (Hu et al., arXiv
2106.09685). Adding it once costs nothing later. Two spellings of keys are around: diffusers' own,
`unet.mid_block….to_q.lora_A.weight`, and kohya's, `lora_unet_mid_block_…_to_q.lora_down.weight`.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pipelines.checkpoints.errors import WeightsError
from pipelines.checkpoints.headers import read_header, read_metadata
from pipelines.checkpoints.loading import FLOAT_TYPES, read_tensor, refuse
from pipelines.checkpoints.single_file import renamed, unet_modules
from pipelines.checkpoints.specs import Lora

# How files end the names of the two matrices, and of α.
ENDINGS = {
    "down": (
        ".lora_down.weight",
        ".lora_A.weight",
        ".lora.down.weight",
        ".lora_linear_layer.down.weight",
    ),
    "up": (
        ".lora_up.weight",
        ".lora_B.weight",
        ".lora.up.weight",
        ".lora_linear_layer.up.weight",
    ),
    "alpha": (".alpha",),
}
OLD_PROCESSORS = {
    f".processor.{name}_lora.{end}.weight": f".{module}.lora.{end}.weight"
    for name, module in {
        "to_q": "to_q",
        "to_k": "to_k",
        "to_v": "to_v",
        "to_out": "to_out.0",
    }.items()
    for end in ("down", "up")
}
KOHYA_PREFIXES = {
    "unet": ("lora_unet_",),
    "text_encoder": ("lora_te_", "lora_te1_"),
    "text_encoder_2": ("lora_te2_",),
}


@dataclass(frozen=True)
class Target:
    """A weight that may be changed: of which network, and its name there."""

    component: str
    name: str


def merge(lora: Lora, networks: Mapping[str, Any]) -> None:
    """Add the changes of a LoRA file to the weights of networks.

    `networks` are by the names of a diffusers folder. Raises WeightsError naming the first keys
    that belong to none of their modules, have no partner, or are of the wrong shape.
    """
    header = read_header(lora.path)
    targets = _targets(networks)
    found: dict[Target, dict[str, str]] = {}  # what each matrix of a target is called in the file
    unknown = []
    for key in header:
        stem, role = _split(key)
        if stem is None or stem not in targets:
            unknown.append(key)
        else:
            found.setdefault(targets[stem], {})[role] = key
    refuse(lora.path, "keys for no module of this model, or of an unknown kind", unknown)
    alone = [next(iter(keys.values())) for keys in found.values() if not {"down", "up"} <= {*keys}]
    refuse(lora.path, "keys without the other half", alone)
    keys = [key for parts in found.values() for key in parts.values()]
    refuse(
        lora.path,
        "keys that are not floating point",
        [key for key in keys if header[key].dtype not in FLOAT_TYPES],
    )

    alphas = _alphas_of_metadata(lora.path)
    with lora.path.open("rb") as file, torch.no_grad():
        for target, parts in found.items():
            tensors = {
                role: read_tensor(file, header[key], torch.float32) for role, key in parts.items()
            }
            weight = networks[target.component].get_parameter(target.name)
            rank = len(tensors["down"])
            alpha = alphas(target) if "alpha" not in tensors else float(tensors["alpha"])
            scale = lora.weight * (1.0 if alpha is None else alpha / rank)
            change = _product(tensors["up"], tensors["down"])
            if change is None or change.numel() != weight.numel() or len(change) != len(weight):
                shapes = [list(header[parts[role]].shape) for role in ("up", "down")]
                raise WeightsError(
                    f"{lora.path} does not fit this model: {parts['down']} makes a change of "
                    f"{shapes[0]} x {shapes[1]}, the weight is {list(weight.shape)}"
                )
            if not bool(change.isfinite().all()):
                raise WeightsError(f"{lora.path} has NaN or infinite values in {parts['down']}")
            changed = weight.float() + scale * change.reshape(weight.shape).to(weight.device)
            weight.copy_(changed)


def _product(up: torch.Tensor, down: torch.Tensor) -> torch.Tensor | None:
    """Multiply up (out, r, ...) by down (r, in, ...) to (out, in · kernel); None if they do not
    fit."""
    if up.ndim < 2 or down.ndim < 2 or up.flatten(1).shape[1] != len(down):
        return None
    return up.flatten(1) @ down.flatten(1)


def _split(key: str) -> tuple[str | None, str]:
    """Split a key into its module and its role there; None if it ends like none."""
    for old, new in OLD_PROCESSORS.items():
        if key.endswith(old):
            key = key.removesuffix(old) + new
    for role, endings in ENDINGS.items():
        for ending in endings:
            if key.endswith(ending):
                return key.removesuffix(ending), role
    return None, ""


def _targets(networks: Mapping[str, Any]) -> dict[str, Target]:
    """Map every name that a file may give a module to the weight that is meant."""
    targets: dict[str, Target] = {}
    for component, network in networks.items():
        original = unet_modules(network.config) if component == "unet" else {}
        for module, part in network.named_modules():
            weight = getattr(part, "weight", None)
            if isinstance(weight, torch.nn.Parameter) and weight.ndim >= 2:
                target = Target(component, f"{module}.weight")
                targets |= dict.fromkeys(_spellings(component, module, original), target)
    return targets


def _spellings(component: str, module: str, original: Mapping[str, str]) -> Iterator[str]:
    names = {module, renamed(module, original)}  # kohya keeps the original names for SDXL
    if component != "unet":
        names = {f"text_model.{module.removeprefix('text_model.')}"}
    for name in names:
        yield f"{component}.{name}"
        for prefix in KOHYA_PREFIXES[component]:
            yield prefix + name.replace(".", "_")


def _alphas_of_metadata(path: Path) -> Callable[[Target], float | None]:
    """Read α by target from peft's settings in the metadata; None where they do not say."""
    try:
        said = json.loads(read_metadata(path).get("lora_adapter_metadata", "{}"))
    except ValueError:
        said = {}
    if not isinstance(said, dict):
        said = {}

    def alpha(target: Target) -> float | None:
        value = said.get(f"{target.component}.lora_alpha")
        patterns = said.get(f"{target.component}.alpha_pattern")
        if isinstance(patterns, dict):
            value = patterns.get(target.name.removesuffix(".weight"), value)
        return float(value) if isinstance(value, (int, float)) else None

    return alpha
