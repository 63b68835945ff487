"""LoRA files: small changes to many weights, added to a model while it loads.

Adding them once costs nothing later. How strong a change is, is told by the weight that is asked
for, by α and by the rank: w · α / r, or w · α / √r (Kalajdzievski, arXiv 2312.03732).
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from pipelines.checkpoints.configs import parse_json, read_config
from pipelines.checkpoints.errors import WeightsError
from pipelines.checkpoints.headers import Tensor, read_header, read_metadata
from pipelines.checkpoints.loading import FLOAT_TYPES, read_tensor, refuse
from pipelines.checkpoints.specs import Lora
from pipelines.checkpoints.tokenizer_files import is_quick
from pipelines.diffusion import lora_keys
from pipelines.diffusion.lora_changes import MisfitError, change_of, with_magnitude

CONFIG = "adapter_config.json"  # of peft, beside the file
MOST = 10**9  # α and rank, as told; larger ones are not meant
MOST_RANK = 1024  # that layers of any size take; others as much as they have inputs or outputs


@dataclass(frozen=True)
class Target:
    """A module that may be changed: of which network, and its name there."""

    component: str
    name: str


@dataclass(frozen=True)
class Change:
    """What a file does to one module: its tensors there, by role, and how they are scaled."""

    lora: Lora
    kind: str
    tensors: Mapping[str, Tensor]
    settings: "Settings"


@dataclass(frozen=True)
class Settings:
    """What peft says of a file: α and rank by module, in its metadata or in a file beside it."""

    said: Mapping[str, Any] = field(default_factory=dict)

    def alpha(self, target: Target) -> float | None:
        """Return α of a module; None where nothing is said.

        A pattern is a module's name, or the end of one, or a regular expression for that.
        """
        alpha = self._of(target, "lora_alpha", self._of(target, "alpha"))
        patterns = self._of(target, "alpha_pattern")
        for pattern, value in patterns.items() if isinstance(patterns, dict) else ():
            if _matches(str(pattern), target.name):
                alpha = value
                break
        return float(alpha) if isinstance(alpha, (int, float)) and abs(alpha) < MOST else None

    def rank(self, target: Target) -> int | None:
        """Return the rank that was asked for; None where nothing is said."""
        rank = self._of(target, "r")
        return rank if isinstance(rank, int) and 0 < rank < MOST else None

    def rank_stabilised(self, target: Target) -> bool:
        """Return whether α is divided by the root of the rank."""
        return self._of(target, "use_rslora") is True

    def _of(self, target: Target, name: str, default: Any = None) -> Any:
        return self.said.get(f"{target.component}.{name}", self.said.get(name, default))


def merge(loras: Sequence[Lora], networks: Mapping[str, Any]) -> None:
    """Add the changes of LoRA files to the weights of networks.

    `networks` are by the names of a diffusers folder. Each change is one of the weights as they
    were, so that the order of the files makes no difference. Raises WeightsError naming the first
    keys that belong to no module, are of an unknown kind or incomplete, or do not fit, and the
    model that the file seems to be made for.
    """
    targets = _targets(networks) if loras else {}
    changes: dict[Target, list[Change]] = {}
    for lora in loras:
        for target, change in _read(lora, targets).items():
            changes.setdefault(target, []).append(change)
    with torch.no_grad():
        for target, each in changes.items():
            _apply(each, target, networks[target.component].get_submodule(target.name))


def _read(lora: Lora, targets: Mapping[str, Target]) -> dict[Target, Change]:
    """Read what a file changes, from its header."""
    path, header = lora.path, read_header(lora.path)
    found: dict[Target, dict[str, str]] = {}  # the keys of each module, by role
    unknown = []
    for key in header:
        module, role = lora_keys.split(key) or ("", "")
        if module in targets:
            found.setdefault(targets[module], {})[role] = key
        else:
            unknown.append(key)
    if kind := lora_keys.other_kind(unknown):
        raise WeightsError(f"{path} holds changes of the kind {kind}, which are not merged here")
    made_for = _made_for(header)
    refuse(path, f"keys for no module of this model, or of an unknown kind{made_for}", unknown)
    kinds = {target: lora_keys.kind_of(keys) for target, keys in found.items()}
    halves = [min(found[target].values()) for target, kind in kinds.items() if kind is None]
    refuse(path, "keys without the other half", halves)
    wrong = [key for key, tensor in header.items() if tensor.dtype not in FLOAT_TYPES]
    refuse(path, "keys that are not floating point", wrong)
    settings = _settings_of(path)
    return {
        target: Change(lora, kind, {r: header[k] for r, k in found[target].items()}, settings)
        for target, kind in kinds.items()
        if kind is not None
    }


def _apply(changes: Sequence[Change], target: Target, module: torch.nn.Module) -> None:
    """Add all changes of one module to its weight and bias."""
    weight, bias = module.weight, getattr(module, "bias", None)
    assert isinstance(weight, torch.Tensor)
    before = weight.to("cpu", torch.float32)
    after = before.clone()
    for change in changes:
        path = change.lora.path
        if any(math.prod(t.shape) > _most_values(before.shape) for t in change.tensors.values()):
            raise _misfit(change, target, before.shape)  # nothing of that size is read
        with path.open("rb") as file:
            parts = {
                role: read_tensor(file, tensor, torch.float32)
                for role, tensor in change.tensors.items()
            }
        if not all(bool(part.isfinite().all()) for part in parts.values()):
            raise WeightsError(f"{path} has NaN or infinite values for {target.name}")
        try:
            added, rank = change_of(change.kind, parts, tuple(before.shape))
            scale = change.lora.weight * scale_of(change.settings, target, parts, rank)
            if added is not None and "magnitude" in parts:
                after += with_magnitude(before, scale * added, parts["magnitude"])
            elif added is not None:
                after += scale * added
            _add_to_bias(bias, parts, scale, change.lora.weight)
        except MisfitError:
            raise _misfit(change, target, before.shape) from None
    weight.copy_(after)


def _most_values(shape: Sequence[int]) -> int:
    """Return how many values one tensor of a change of a layer may have: a whole weight, or half
    of a product of the layer's own rank, or of one that any layer takes."""
    out, into = shape[0], math.prod(shape[1:])
    return max(out * into, max(out, into, MOST_RANK) * max(out, into))


def _misfit(change: Change, target: Target, shape: Sequence[int]) -> WeightsError:
    shapes = ", ".join(f"{role} {list(t.shape)}" for role, t in change.tensors.items())
    path = change.lora.path
    return WeightsError(
        f"{path} does not fit this model{_made_for(read_header(path))}: "
        f"{target.component}.{target.name} is {list(shape)}, the file has {shapes}"
    )


def _made_for(header: Mapping[str, Tensor]) -> str:
    """Return what an error adds about the model that a file seems to be made for."""
    model = lora_keys.made_for(header)
    return "" if model is None else f" (it seems to be made for {model})"


def scale_of(
    settings: Settings, target: Target, parts: Mapping[str, torch.Tensor], rank: int | None
) -> float:
    """Return by what a change is multiplied, without the weight that is asked for."""
    if rank is None:  # of whole tensors only peft scales
        alpha, rank = settings.alpha(target), settings.rank(target)
    else:
        alpha = float(parts["alpha"].sum()) if "alpha" in parts else settings.alpha(target)
    if alpha is None or rank is None:
        return 1.0
    return alpha / (math.sqrt(rank) if settings.rank_stabilised(target) else rank)


def _add_to_bias(
    bias: Any, parts: Mapping[str, torch.Tensor], scale: float, strength: float
) -> None:
    for role, factor in (("up_bias", scale), ("bias_difference", strength)):
        if role in parts:
            if bias is None or bias.shape != parts[role].shape:
                raise MisfitError
            bias.add_((factor * parts[role]).to(bias.device, bias.dtype))


def _targets(networks: Mapping[str, Any]) -> dict[str, Target]:
    """Map every name that a file may give a module to the module that is meant.

    Where a name fits several, it is the UNet's, then the first text encoder's.
    """
    targets: dict[str, Target] = {}
    for component, network in networks.items():
        original = lora_keys.original_names(network.config) if component == "unet" else {}
        for module, part in network.named_modules():
            if isinstance(getattr(part, "weight", None), torch.nn.Parameter):
                target = Target(component, module)
                for name in lora_keys.spellings(component, module, original):
                    targets.setdefault(name, target)
    return targets


def _settings_of(path: Path) -> Settings:
    """Read peft's settings: in the metadata of a file, or beside it."""
    said = read_metadata(path).get("lora_adapter_metadata")
    beside = path.with_name(CONFIG)
    if said is None and beside.is_file():
        return Settings(read_config(beside))
    try:
        return Settings({} if said is None else parse_json(said))
    except ValueError:
        return Settings()


def _matches(pattern: str, name: str) -> bool:
    """Return whether a pattern is a module's name or the end of one, as peft matches them."""
    if name == pattern or name.endswith(f".{pattern}"):
        return True
    try:
        return is_quick(pattern) and re.fullmatch(rf"(.*\.)?({pattern})", name) is not None
    except (re.error, RecursionError, OverflowError):
        return False
