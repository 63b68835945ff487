"""The conditioning of the UNet: text, guidance, sizes."""

import math
from dataclasses import dataclass
from typing import Any

import torch

from pipelines.diffusion.text import Encoding


@dataclass(frozen=True)
class Condition:
    """The conditioning that all candidates share. One row: dropping some changes nothing."""

    text: Encoding
    negative: Encoding | None  # None draws without comparing
    guidance: float
    embedding: torch.Tensor | None  # (1, K), for a UNet that was distilled to take guidance so
    sizes: torch.Tensor | None  # (1, 6), for a UNet conditioned on sizes and crops

    def predict(self, unet: Any, x_t: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """Return the UNet's output (B, C, h, w) in float32, guided (Ho and Salimans, arXiv
        2207.12598)."""
        B = len(x_t)
        if self.negative is None:
            return self._evaluate(unet, x_t, t, [self.text] * B)
        encodings = [self.negative] * B + [self.text] * B
        without, with_text = self._evaluate(unet, torch.cat([x_t, x_t]), t, encodings).chunk(2)
        return without + self.guidance * (with_text - without)

    def _evaluate(
        self, unet: Any, x_t: torch.Tensor, t: torch.Tensor, encodings: list[Encoding]
    ) -> torch.Tensor:
        """Run the UNet on rows that each have an encoding."""
        B, dtype = len(x_t), self.text.hidden.dtype  # asking the UNet walks all its parameters
        added = None
        if self.sizes is not None:
            pooled = [encoding.pooled for encoding in encodings if encoding.pooled is not None]
            added = {"text_embeds": torch.cat(pooled), "time_ids": self.sizes.expand(B, -1)}
        return unet(
            x_t.to(dtype),
            t,
            torch.cat([encoding.hidden for encoding in encodings]),
            timestep_cond=None if self.embedding is None else self.embedding.expand(B, -1),
            added_cond_kwargs=added,
            return_dict=False,
        )[0].float()


def guidance_embedding(w: float, size: int) -> torch.Tensor:
    """Embed guidance as a vector (1, size) for a distilled UNet (Luo et al., arXiv 2310.04378)."""
    half = size // 2
    frequencies = torch.exp(torch.arange(half) * (-math.log(10000) / (half - 1)))
    angles = 1000 * w * frequencies
    embedding = torch.cat([angles.sin(), angles.cos()])
    return torch.nn.functional.pad(embedding, (0, size % 2))[None]
