"""Upscalers from files: the layouts that are known here, and those that spandrel knows.

Every key, shape and value is checked. Files of torch.save, which most public upscalers are, are
read without running anything in them.
"""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from pipelines.checkpoints.errors import WeightsError
from pipelines.checkpoints.loading import building, first_line, refuse, settle
from pipelines.checkpoints.pickles import read_tensors
from pipelines.upscale.compact import CompactUpsampler
from pipelines.upscale.enlarging import Upscaler
from pipelines.upscale.files import weights_of
from pipelines.upscale.layouts import CompactConfig, Config, current_name, identify
from pipelines.upscale.rrdb import RrdbUpsampler


def load(path: Path, device: torch.device) -> Upscaler:
    """Load the upscaler of a file, or of a folder with model.safetensors in it.

    Raises WeightsError for a file that is none, that is damaged, or of a kind that needs spandrel.
    """
    file = weights_of(path)
    tensors = read_tensors(file)
    shapes = {key: tuple(value.shape) for key, value in tensors.items()}
    name = path.stem if path.is_file() else path.name
    try:
        config = identify(shapes)
    except ValueError as error:
        return _by_spandrel(file, tensors, str(error), device)
    with building(file):
        network = build(config)
    _fill(network, file, {current_name(key, shapes): value for key, value in tensors.items()})
    settle(network, device)
    return Upscaler(name, config.scale, network, getattr(config, "folded", 1))


def build(config: Config) -> nn.Module:
    """Return the network of a config, with weights that are not trained."""
    return CompactUpsampler(config) if isinstance(config, CompactConfig) else RrdbUpsampler(config)


def _fill(network: nn.Module, path: Path, tensors: dict[str, torch.Tensor]) -> None:
    """Give a network its weights. Raises WeightsError naming what does not fit."""
    expected = {key: tuple(value.shape) for key, value in network.state_dict().items()}
    refuse(path, "missing keys", sorted(expected.keys() - tensors.keys()))
    refuse(path, "keys that the network does not have", sorted(tensors.keys() - expected.keys()))
    shapes = {key: tuple(value.shape) for key, value in tensors.items()}
    wrong = [
        f"{key} is {list(shapes[key])}, not {list(shape)}"
        for key, shape in expected.items()
        if shapes[key] != shape
    ]
    refuse(path, "keys of the wrong shape", wrong)
    odd = [key for key, value in tensors.items() if not value.is_floating_point()]
    refuse(path, "keys that are not floating point", odd)
    state = {key: value.to(torch.float32, copy=True) for key, value in tensors.items()}
    odd = [key for key, value in state.items() if not bool(value.isfinite().all())]
    refuse(path, "keys with NaN or infinite values", odd)
    network.load_state_dict(state, strict=True, assign=True)


def _by_spandrel(
    path: Path, tensors: dict[str, Any], reason: str, device: torch.device
) -> Upscaler:
    """Let spandrel, which knows many more architectures, say what a file holds."""
    try:
        import spandrel
    except ImportError as error:
        raise WeightsError(
            f"{path}: {reason}; others are read by spandrel: pip install 'salon[upscale]'"
        ) from error
    try:
        found = spandrel.ModelLoader(device=device).load_from_state_dict(dict(tensors))
    except Exception as error:  # each of its architectures raises errors of its own
        reason = first_line(error)
        raise WeightsError(f"{path} is no upscaler that spandrel knows: {reason}") from None
    if not isinstance(found, spandrel.ImageModelDescriptor) or found.input_channels != 3:
        raise WeightsError(f"{path} is for something else than enlarging colour images")
    found.model.to(torch.float32).eval().requires_grad_(False)
    return Upscaler(path.stem, found.scale, found.model, found.size_requirements.multiple_of)
