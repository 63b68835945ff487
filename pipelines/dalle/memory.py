"""The memory estimate of a transformer, made before anything is allocated."""

from dataclasses import dataclass
from functools import lru_cache

import torch

from pipelines.checkpoints.configs import read_config
from pipelines.checkpoints.errors import WeightsError
from pipelines.checkpoints.specs import Spec
from pipelines.dalle.cache import bytes_per_candidate
from pipelines.dalle.transformer import Transformer, TransformerConfig

# Values per position that a layer keeps for the backward pass, in units of the width: two norms,
# queries, keys, values, attention, projection, and four for each side of the activation in the MLP.
KEPT_PER_LAYER = 16


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes, for `parameters` in the dtype that was asked for.

    Activations are those of one image with its text, estimated, with flash attention.
    """

    parameters: int
    weights: int
    gradients: int
    moments: int  # of AdamW: two in float32
    activations: int
    checkpointed_activations: int
    cache_shared: int  # what is read of a prompt, for all its candidates
    cache_per_candidate: int
    dense_cache_per_candidate: int  # if every layer kept every position

    @classmethod
    @lru_cache(maxsize=16)
    def of(
        cls,
        config: TransformerConfig,
        bytes_per_value: int = 4,
        *,
        prompts: int = 1,
        context_length: int = 0,
    ) -> "MemoryPlan":
        """Count the parameters on the meta device, which allocates nothing.

        `prompts` is 2 with guidance, which compares; `context_length` counts the tokens that are
        read by cross-attention.
        """
        with torch.device("meta"):
            network = Transformer(config)
        parameters = sum(parameter.numel() for parameter in network.parameters())
        layers, position = len(config.masks), config.length * config.width * bytes_per_value
        return cls(
            parameters=parameters,
            weights=parameters * bytes_per_value,
            gradients=parameters * bytes_per_value,
            moments=2 * 4 * parameters,
            activations=layers * KEPT_PER_LAYER * position,
            checkpointed_activations=(layers + KEPT_PER_LAYER) * position,
            cache_shared=(
                2
                * prompts
                * layers
                * (config.shared_length + context_length)
                * config.width
                * bytes_per_value
            ),
            cache_per_candidate=bytes_per_candidate(config, prompts, bytes_per_value),
            dense_cache_per_candidate=(
                2 * prompts * layers * config.image_length * config.width * bytes_per_value
            ),
        )

    @classmethod
    def of_model(cls, spec: Spec, bytes_per_value: int, guidance: float) -> "MemoryPlan":
        """Plan the memory of the transformer in a DALL·E folder.

        Raises WeightsError for a config that builds no network.
        """
        entries = read_config(spec.folder / "transformer" / "config.json")
        try:
            config = TransformerConfig(**{k: v for k, v in entries.items() if k != "_class_name"})
        except (TypeError, ValueError) as error:
            raise WeightsError(
                f"{spec.folder} has a config that builds no network: {error}"
            ) from error
        return cls.of(
            config,
            bytes_per_value,
            prompts=2 if guidance > 1 else 1,
            context_length=0 if config.cross_attention_width is None else spec.context,
        )

    def __str__(self) -> str:
        """Format the plan as a table."""
        rows = {
            "weights": self.weights,
            "gradients": self.gradients,
            "AdamW moments": self.moments,
            "activations of an image": self.activations,
            "the same with checkpointing": self.checkpointed_activations,
            "cache of a prompt, shared": self.cache_shared,
            "cache of a candidate": self.cache_per_candidate,
            "the same if it were dense": self.dense_cache_per_candidate,
        }
        lines = [f"{name:30}{_size(number):>12}" for name, number in rows.items()]
        return "\n".join([_count(self.parameters), *lines])


def _count(parameters: int) -> str:
    if parameters >= 10**9:
        return f"{parameters / 10**9:.1f} billion parameters"
    return f"{parameters / 10**6:.2f} million parameters"


def _size(number: int) -> str:
    for unit, size in (("GB", 10**9), ("MB", 10**6)):
        if number >= size:
            return f"{number / size:.1f} {unit}"
    return f"{number / 1000:.1f} kB"
