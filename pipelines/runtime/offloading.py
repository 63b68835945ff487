"""Offloading: networks that are too large for a GPU together wait in host memory."""

from collections.abc import Sequence
from typing import Any

import torch
from accelerate import cpu_offload
from accelerate.hooks import ModelHook, add_hook_to_module

from pipelines.loading import OFFLOAD


def check_offload(choice: str | None, device: torch.device) -> str:
    """Return the offloading to use; None is "none".

    Raises ValueError for an unknown choice, and for one that would change nothing.
    """
    choice = "none" if choice is None else choice
    if choice not in OFFLOAD:
        raise ValueError(f"no offload {choice!r}; choose from {', '.join(OFFLOAD)}")
    if choice != "none" and device.type == "cpu":
        raise ValueError(
            f"offload {choice!r} keeps weights off a GPU, but the device is the cpu: leave it out"
        )
    return choice


def offload_networks(networks: Sequence[Any], choice: str, device: torch.device) -> None:
    """Let networks that are on the CPU run on `device`.

    "model" brings each there as a whole, and the one before back; drawing becomes a little slower.
    "sequential" brings every layer when it is its turn, so that hardly any memory of the device is
    taken, and drawing becomes many times slower.
    """
    if choice == "sequential":
        for network in networks:
            cpu_offload(network, device, offload_buffers=True)
        return
    stage = _Stage(device)
    for network in networks:
        add_hook_to_module(network, stage)


class _Stage(ModelHook):
    """Where one network is at a time: the one that runs, or ran last."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.present: torch.nn.Module | None = None

    def pre_forward(self, module: torch.nn.Module, *args: Any, **kwargs: Any) -> Any:
        """Bring a network on; accelerate calls this before the network runs."""
        if module is not self.present:
            if self.present is not None:
                self.present.to("cpu")
            module.to(self.device)
            self.present = module
        return args, kwargs
