"""Teach a model of image tokens what somebody prefers: `salon-train prefer` for the DALL·E path.

Direct preference optimisation (Rafailov et al., arXiv 2305.18290, equation 7): of two images of one
prompt, the tokens of the chosen one should become likelier than they were, by more than those of
the rejected one. How likely they are is asked of what draws, with its guidance and temperature:
images that were drawn so would else be learned for being typical, and guided once more. Beside it
stand the chosen one's own gain (Pang et al., arXiv 2404.19733, equation 1), without which both
become unlikely, and the distance from the old model at each token (the forward KL of Zeng et al.,
arXiv 2404.11999): a choice of whole images says little of any one token.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch.nn import functional

from pipelines.dalle.draft import Text
from pipelines.dalle.layers import Layer
from pipelines.dalle.pipeline import Dalle
from rerank.learn.choices import Choice, files_of
from train.token_lora import TokenLoraTask, distance, of_tokens

LEARNING_RATE = 3e-3


@dataclass(frozen=True)
class PreferTokensConfig:
    """How strongly the model may change; `beta` is how dear its old ways are to it, `anchor` times
    beta what the gain of the chosen image counts beside the difference, and `distance` what a nat
    of distance from the old model counts."""

    rank: int = 8  # with all weights it learns the very images by heart
    beta: float = 0.1
    anchor: float = 0.3
    distance: float = 0.03


@dataclass(frozen=True)
class PreferredTokens:
    """A batch of choices; I image tokens."""

    chosen: torch.Tensor  # (B, I) int64
    rejected: torch.Tensor  # (B, I) int64
    weights: torch.Tensor  # (B,)
    text: Text  # of the B chosen and the B rejected, as `TokenLoraTask.read` has it


class PreferTokensTask(TokenLoraTask):
    """Learns from choices."""

    blocks = (Layer,)

    def __init__(
        self, pipeline: Dalle, choices: Sequence[Choice], config: PreferTokensConfig
    ) -> None:
        super().__init__(pipeline, [choice.prompt for choice in choices], config.rank)
        self.choices, self.config = list(choices), config
        self.codes = {file: self._encode(file) for file in files_of(self.choices)}

    def batch(self, rng: random.Random, size: int, device: torch.device) -> PreferredTokens:
        """Draw choices."""
        drawn = [rng.choice(self.choices) for _ in range(size)]
        return PreferredTokens(
            torch.stack([self.codes[choice.chosen] for choice in drawn]).to(device),
            torch.stack([self.codes[choice.rejected] for choice in drawn]).to(device),
            torch.tensor([choice.weight for choice in drawn]).to(device),
            self.read([choice.prompt for choice in drawn] * 2),
        )

    def forward(
        self, batch: PreferredTokens, generator: torch.Generator
    ) -> dict[str, torch.Tensor]:
        """Return the loss, how often the chosen image gains more than the rejected one, by how much
        the chosen one has become likelier, and how far the model is from the old one at all tokens
        of an image, in nats. Nothing here is left to chance."""
        codes = torch.cat([batch.chosen, batch.rejected])
        before, after = self.before_and_after(batch.text, codes)
        won, lost = (of_tokens(after, codes) - of_tokens(before, codes)).chunk(2)
        margin = self.config.beta * (won - lost)
        apart = distance(before, after).view(2, -1).mean(dim=0)
        each = -functional.logsigmoid(margin) - self.config.anchor * self.config.beta * won
        each = each + self.config.distance * apart
        loss = (batch.weights * each).sum() / batch.weights.sum()
        return {
            "loss": loss,
            "agrees": (margin > 0).float().mean(),
            "chosen": won.mean(),
            "distance": apart.mean(),
        }

    def _encode(self, file: Path) -> torch.Tensor:
        """Return the tokens (I,) of an image. Raises ValueError for one of another size."""
        pipeline = self.frozen[0]
        side = pipeline.dvae.config.size
        with Image.open(file) as image:
            if image.size != (side, side):
                raise ValueError(f"{file} is not {side}x{side}, as the model draws")
            return pipeline.tokens(image.convert("RGB")).flatten().cpu().clone()
