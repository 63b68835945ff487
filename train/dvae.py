"""The discrete VAE: 64 × 64 px images to 8 × 8 codes and back (`pipelines.dalle.dvae`).

After Ramesh et al. (arXiv 2102.12092, §2.1 and appendix A.2): Gumbel-softmax samples in the forward
pass and in the backward pass, a logit-Laplace likelihood, a divergence from the uniform prior, and
cosine schedules of its weight and of the temperature, here over shares of the budget. Four things
are added for budgets of minutes: the error of differences between neighbouring pixels, which keeps
edges; a floor under the scales; a pull of the batch's mean choice towards using every code; and a
start with codes that mean something. From the usual start the decoder learns coarse colours first,
codes that it paints well attract more squares, and after 300 steps 40 of 2,048 do all the work. So
the encoder is made to choose among the typical squares of the world, and only the decoder learns.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch.nn import functional

from pipelines.checkpoints.loading import save_network
from pipelines.dalle.dvae import (
    CHANNELS,
    Block,
    DiscreteVae,
    DvaeConfig,
    TowerConfig,
    divergence_from_uniform,
    logit_laplace,
    map_pixels,
    relax,
)
from train.autoencoder import difference
from train.loop import Task
from train.sheets import tile
from train.stickers.renderer import SIZE, render
from train.stickers.scene import draw_scene, pack_scene

MEASURED = 2  # images of a batch that are decoded from their codes, to see what those are worth
MARGIN = 16.0  # nats between a typical square's own code and the next: little is left to chance
FIRST_SCALE = 0.3  # of logits
LLOYD_STEPS = 8
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
    first_pictures: int = 800  # whose squares the codes stand for; 0: the encoder learns its codes
    smallest_scale: float = 0.1
    snap: bool = True
    packed_share: float = 0.5  # images full of things: more to learn from each


class DvaeTask(Task):
    """Trains a discrete VAE on images alone."""

    choices: torch.Tensor

    def __init__(self, recipe: DvaeRecipe) -> None:
        super().__init__()
        self.recipe = recipe
        self.dvae = DiscreteVae(recipe.network)
        self.dvae.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        size = recipe.network.vocabulary
        if recipe.first_pictures > 0:
            images = self.batch(random.Random(0), recipe.first_pictures, torch.device("cpu"))
            squares = typical_squares(images, recipe.network.encoder.patch, size)
            begin_with_squares(self.dvae, squares)
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
        with torch.set_grad_enabled(torch.is_grad_enabled() and self._encoder_learns):
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

    @property
    def _encoder_learns(self) -> bool:
        return self.recipe.first_pictures == 0

    @torch.no_grad()
    def _measure(self, batch: torch.Tensor, codes: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return what codes (B, h, w) are worth: without relaxation, and how many are in use."""
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
def begin_with_squares(dvae: DiscreteVae, squares: torch.Tensor) -> None:
    """Set a network of two towers of one group each, which see and paint one square of pixels at a
    time, so that it chooses the nearest of K `squares` (K, P) and paints just that.

    The squares are in the mapped range and in the order of `pixel_unshuffle`. Raises ValueError for
    another kind of network.
    """
    encoder, decoder, config = dvae.encoder, dvae.decoder, dvae.config
    pixels, code_width = squares.shape[1], config.code_width
    wide_enough = config.encoder.widths[0] > pixels and config.decoder.widths[0] >= 2 * code_width
    one_square = config.encoder.patch == config.decoder.patch == config.factor
    if not (one_square and config.first_kernel == 1 and wide_enough):
        raise ValueError("only a network that sees one square at a time can begin with squares")
    for module in dvae.modules():
        if isinstance(module, Block):  # residual paths begin with nothing to add
            torch.nn.init.zeros_(module.last.weight)

    # Pixels are positive, so the encoder's ReLUs let them through to the last layer, which computes
    # 2 x·s − |s|² for each square s: largest for the nearest. What is the same for all squares is
    # left out, and the last digits of |s|² come through a channel that is always 1, so that half
    # precision makes the same choices.
    torch.nn.init.dirac_(encoder.input.weight)
    encoder.input.bias = torch.nn.Parameter(torch.eye(config.encoder.widths[0])[pixels])
    next_nearest = torch.cdist(squares, squares).topk(2, largest=False).values[:, 1] ** 2
    sharpness = MARGIN / next_nearest.median()
    products = 2 * sharpness * (squares - squares.mean(dim=0))
    lengths = -sharpness * (squares**2).sum(dim=1)
    lengths -= lengths.mean()
    coarse = lengths.half().float()
    _set(encoder.output, torch.cat([products, (lengths - coarse)[:, None]], dim=1), coarse)

    # The decoder's logits are their mean and `code_width` principal components. Each component goes
    # through the ReLUs twice, with both signs.
    logits = squares.logit()
    mean = logits.mean(dim=0)
    directions = torch.linalg.svd(logits - mean, full_matrices=False).Vh[:code_width]
    _set(decoder.input, ((logits - mean) @ directions.T).T)
    one = torch.eye(code_width)
    _set(decoder.first_path, torch.cat([one, -one]))
    log_scales = torch.full_like(mean, math.log(FIRST_SCALE))
    _set(decoder.output, torch.cat([directions, -directions]).T, torch.cat([mean, log_scales]))


def _set(layer: torch.nn.Conv2d, weight: torch.Tensor, bias: torch.Tensor | None = None) -> None:
    """Fill the upper left corner of a 1×1 convolution, and the rest of it with zeros."""
    torch.nn.init.zeros_(layer.weight)
    layer.weight[: len(weight), : weight.shape[1], 0, 0] = weight
    if bias is not None and layer.bias is not None:
        layer.bias.copy_(bias)


def typical_squares(images: torch.Tensor, patch: int, number: int) -> torch.Tensor:
    """Return the centres (number, 3 · patch²) of clusters of the distinct squares of uint8 images.

    They are found by Lloyd's algorithm. Raises ValueError if there are fewer squares than that.
    """
    mapped = functional.pixel_unshuffle(map_pixels(images / 255), patch)
    squares = mapped.movedim(1, -1).flatten(0, 2).unique(dim=0)
    if len(squares) < number:
        raise ValueError(f"{len(squares)} different squares are too few for {number} codes")
    generator = torch.Generator().manual_seed(0)
    centres = squares[torch.randperm(len(squares), generator=generator)[:number]]
    for _ in range(LLOYD_STEPS):
        nearest = torch.cdist(squares, centres).argmin(dim=1)
        counts = torch.bincount(nearest, minlength=number)[:, None]
        sums = torch.zeros_like(centres).index_add_(0, nearest, squares)
        centres = torch.where(counts > 0, sums / counts.clamp(min=1), centres)
    return centres


def cosine(start: float, end: float, share: float) -> float:
    """From `start` to `end` along half a cosine, as `share` goes from 0 to 1; `end` after that."""
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * min(1.0, share)))


def usage(shares: torch.Tensor) -> dict[str, torch.Tensor]:
    """Measure how well a codebook is used, from the share (K,) of positions that choose each code.

    Returns the perplexity, and the part of the codes that are chosen at all.
    """
    shares = shares / shares.sum()
    entropy = -(shares * (shares + 1e-10).log()).sum()
    in_use = (shares > DEAD / len(shares)).float().mean()
    return {"perplexity": entropy.exp(), "codes in use": in_use}
