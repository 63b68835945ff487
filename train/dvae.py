"""The discrete VAE: 64 × 64 px pictures to 8 × 8 codes and back (`pipelines.dvae`).

After Ramesh et al. (arXiv 2102.12092, §2.1 and appendix A.2): Gumbel-softmax samples in the forward
pass and in the backward pass, a logit-Laplace likelihood, a divergence from the uniform prior, and
cosine schedules of its weight and of the temperature, here over shares of the budget. Four things
are added for budgets of minutes: the error of differences between neighbouring pixels, which keeps
edges; a floor under the scales; a pull of the batch's mean choice towards using every code, without
which most of them die early; and a start at which different squares of pixels choose different
codes, where the usual one lets noise choose for thousands of steps.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image

from pipelines.dvae import (
    CHANNELS,
    DiscreteVae,
    DvaeConfig,
    Encoder,
    TowerConfig,
    divergence_from_uniform,
    logit_laplace,
    map_pixels,
    relax,
)
from pipelines.weights import save_network
from train.autoencoder import difference
from train.loop import Task
from train.sheets import tile
from train.stickers.renderer import SIZE, render
from train.stickers.scene import draw_scene, pack_scene

CPU = torch.device("cpu")
MEASURED = 2  # pictures of a batch that are decoded from their codes, to see what those are worth
DEAD = 0.02  # of a code's fair share: what is chosen less is not in use


# The encoder sees one square of 8 × 8 pixels at a time, which makes the codes easy to predict; the
# decoder also sees the codes around it. It paints a whole square at once: in a paper-like decoder
# the four quarters of a square begin with the same features, and cannot tell which one they are.
NETWORK = DvaeConfig(
    vocabulary=2048,
    size=SIZE,
    code_width=128,
    first_kernel=1,
    encoder=TowerConfig(widths=(224,), kernel=1, patch=8),
    decoder=TowerConfig(widths=(256,), patch=8),
)


@dataclass(frozen=True)
class DvaeRecipe:
    network: DvaeConfig = NETWORK
    kl_weight: float = 0.2  # β: 6.6 in the paper
    kl_share: float = 0.1  # of the budget, in which β is reached
    last_temperature: float = 1 / 16
    temperature_share: float = 0.5  # of the budget, in which it is reached
    edge_weight: float = 1.0
    usage_weight: float = 0.05
    first_spread: float = 6.0  # of each code's logit over different squares, at the start
    smallest_scale: float = 0.1
    snap: bool = True
    packed_share: float = 0.5  # pictures full of things: more to learn from each


class DvaeTask(Task):
    """Trains a discrete VAE on pictures alone."""

    choices: torch.Tensor

    def __init__(self, recipe: DvaeRecipe) -> None:
        super().__init__()
        self.recipe = recipe
        self.dvae = DiscreteVae(recipe.network)
        self.dvae.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        spread_codes(self.dvae.encoder, self.batch(random.Random(0), 32, CPU), recipe.first_spread)
        size = recipe.network.vocabulary
        self.register_buffer("choices", torch.full((size,), 1 / size))  # running share of each code

    def batch(self, rng: random.Random, size: int, device: torch.device) -> torch.Tensor:
        """(size, 3, 64, 64) uint8."""
        scenes = [
            pack_scene(rng, snap=self.recipe.snap)
            if rng.random() < self.recipe.packed_share
            else draw_scene(rng, snap=self.recipe.snap)
            for _ in range(size)
        ]
        return render(scenes, device=device)

    def forward(self, batch: torch.Tensor, generator: torch.Generator) -> dict[str, torch.Tensor]:
        recipe = self.recipe
        x = map_pixels(batch.float() / 255).contiguous(memory_format=torch.channels_last)
        logits = self.dvae.encoder(x).movedim(1, -1).float()  # (B, h, w, K)
        uniforms = torch.rand(logits.shape, generator=generator).to(logits.device)
        temperature = cosine(1, recipe.last_temperature, self.fraction / recipe.temperature_share)
        relaxed = relax(logits, uniforms, temperature)
        statistics = self.dvae.decoder(relaxed.movedim(-1, 1)).float()

        likelihood = logit_laplace(x, statistics, recipe.smallest_scale).mean()
        y = statistics[:, :CHANNELS].sigmoid()
        down, across = (difference(y, axis) - difference(x, axis) for axis in (2, 3))
        edges = down.abs().mean() + across.abs().mean()
        log_q = logits.log_softmax(dim=-1)
        kl = divergence_from_uniform(log_q).mean()
        mean_choice = log_q.flatten(0, -2).logsumexp(dim=0) - math.log(log_q[..., 0].numel())
        unused = divergence_from_uniform(mean_choice)

        values = CHANNELS * recipe.network.factor**2  # of pixels, per code
        beta = cosine(0, recipe.kl_weight, self.fraction / recipe.kl_share)
        loss = likelihood + recipe.edge_weight * edges + beta / values * kl
        return {
            "loss": loss + recipe.usage_weight * unused,
            "likelihood": likelihood,
            "edges": edges,
            "kl": kl,
            **self._measure(batch, logits.argmax(dim=-1)),
        }

    @torch.no_grad()
    def _measure(self, batch: torch.Tensor, codes: torch.Tensor) -> dict[str, torch.Tensor]:
        """What codes (B, h, w) are worth: without relaxation, and how many are in use."""
        again = self.dvae.decode(codes[:MEASURED])
        error = ((again - batch[:MEASURED] / 255) ** 2).mean()
        if self.training:
            counts = torch.bincount(codes.flatten(), minlength=len(self.choices))
            self.choices.lerp_(counts / codes.numel(), 0.01)
        return {"psnr": -10 * error.log10(), **usage(self.choices)}

    def sheet(self) -> Image.Image:
        """Pairs: a scene, and below it what came back from its codes."""
        x = self.batch(random.Random(1), 24, self.choices.device)
        y = (self.dvae.decode(self.dvae.encode(x)) * 255).round().to(torch.uint8)
        rows = [row for pair in zip(x.split(12), y.split(12), strict=True) for row in pair]
        return tile(torch.cat(rows), columns=12)

    def save(self, folder: Path) -> None:
        """config.json and model.safetensors."""
        save_network(self.dvae, self.recipe.network, folder)


@torch.no_grad()
def spread_codes(encoder: Encoder, pictures: torch.Tensor, spread: float) -> None:
    """Scale and shift an encoder's last layer so that, over the positions of uint8 pictures, each
    code's logit has mean 0 and standard deviation `spread`: then all codes are chosen somewhere."""
    logits = encoder(map_pixels(pictures / 255)).transpose(0, 1).flatten(1)  # (K, positions)
    gain = spread / logits.std(dim=1).clamp(min=1e-6)
    last = encoder.output
    last.weight.mul_(gain[:, None, None, None])
    assert last.bias is not None
    last.bias.sub_(logits.mean(dim=1)).mul_(gain)


def cosine(start: float, end: float, share: float) -> float:
    """From `start` to `end` along half a cosine, as `share` goes from 0 to 1; `end` after that."""
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * min(1.0, share)))


def usage(shares: torch.Tensor) -> dict[str, torch.Tensor]:
    """How well a codebook is used, from the share (K,) of positions that choose each code: the
    perplexity, and the part of the codes that are chosen at all."""
    shares = shares / shares.sum()
    entropy = -(shares * (shares + 1e-10).log()).sum()
    in_use = (shares > DEAD / len(shares)).float().mean()
    return {"perplexity": entropy.exp(), "codes in use": in_use}
