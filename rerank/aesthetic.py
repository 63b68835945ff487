"""How good an image looks, whatever it shows: a small head on CLIP's features."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

import torch
from safetensors import SafetensorError, safe_open
from torch.nn.functional import linear

from pipelines.checkpoints.errors import WeightsError
from pipelines.checkpoints.hashes import files_hash
from rerank.images import Images
from rerank.reranker import Reranker

Layers: TypeAlias = Sequence[tuple[torch.Tensor, torch.Tensor]]  # weights (O, I) and biases (O,)


class AestheticHead:
    """A chain of linear layers on the features of length 1 of the CLIP model it was trained with.

    The file is safetensors with the weights and biases of the layers, in the order of the numbers
    in their names (`layers.0.weight`, `layers.0.bias`, `layers.2.weight`, …), the last one giving
    one number. What stands between them is in the file's metadata under "activation": "relu", or
    "none", which is also meant where it says nothing (LAION's predictors have none).
    """

    def __init__(
        self,
        reranker: Reranker,
        layers: list[tuple[torch.Tensor, torch.Tensor]],
        relu: bool,
        name: str,
    ) -> None:
        self.name = name
        self.encoder = reranker
        self._layers = [
            (w.float().to(reranker.device), b.float().to(reranker.device)) for w, b in layers
        ]
        self._relu = relu

    @classmethod
    def load(cls, file: str | Path, reranker: Reranker) -> "AestheticHead":
        """Return the head in a file, for the features of `reranker`. Raises WeightsError for one
        that does not fit."""
        file = Path(file)
        try:
            with safe_open(file, framework="pt") as opened:
                tensors = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118
                facts = opened.metadata() or {}
        except (OSError, SafetensorError) as error:
            raise WeightsError(f"{file}: cannot be read as safetensors ({error})") from error
        activation = facts.get("activation", "none")
        own = files_hash(reranker.folder) if "weights" in facts else None
        if facts.get("weights") != own:
            raise WeightsError(f"{file}: was learned with another reranker than {reranker.name}")
        if activation not in ("none", "relu"):
            raise WeightsError(f"{file}: activation is {activation!r}, not 'none' or 'relu'")
        return cls(reranker, _layers(tensors, file, reranker), activation == "relu", file.stem)

    def score(self, prompt: str, images: Images) -> list[float]:
        """One number per image, on the scale that the head was trained to; the prompt is not
        looked at."""
        features = self.encoder.image_features(images)
        return values_of(self._layers, features, relu=self._relu).tolist()


def values_of(layers: Layers, features: torch.Tensor, *, relu: bool) -> torch.Tensor:
    """(N, D) features of length 1 to the one number (N,) of a chain of layers."""
    values = features
    for number, (weight, bias) in enumerate(layers):
        if relu and number > 0:
            values = values.relu()
        values = linear(values, weight, bias)
    return values[:, 0]


def _layers(
    tensors: dict[str, torch.Tensor], file: Path, reranker: Reranker
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Weights and biases in order, each fitting the one before."""
    names = sorted({key.rpartition(".")[0] for key in tensors}, key=_number)
    expected = {f"{name}{kind}" for name in names for kind in (".weight", ".bias")}
    bare = {key.lstrip(".") for key in expected}
    if not tensors or {key.lstrip(".") for key in tensors} != bare:
        raise WeightsError(f"{file}: holds {', '.join(sorted(tensors))[:80]}, not linear layers")
    width = reranker.image_features([]).shape[1]
    layers = []
    for name in names:
        prefix = f"{name}." if name else ""
        weight, bias = tensors[f"{prefix}weight"], tensors[f"{prefix}bias"]
        if weight.ndim != 2 or weight.shape[1] != width or bias.shape != weight.shape[:1]:
            raise WeightsError(
                f"{file}: {prefix}weight has the shape {tuple(weight.shape)}; {width} values come "
                f"in, from {reranker.name} or the layer before"
            )
        width = weight.shape[0]
        layers.append((weight, bias))
    if width != 1:
        raise WeightsError(f"{file}: the last layer gives {width} values, not one")
    return layers


def _number(name: str) -> int:
    found = re.findall(r"\d+", name)
    return int(found[-1]) if found else 0
