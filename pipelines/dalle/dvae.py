"""The discrete VAE: an image becomes a grid of codes, and a grid of codes an image.

Ramesh et al., Zero-Shot Text-to-Image Generation (arXiv 2102.12092), §2.1 and appendix A, with the
layers and key names of the code that was published with it (`w` and `b` are `weight` and `bias`
here). There are no normalisation layers; small residual gains and 1×1 convolutions on both sides of
the codes keep training stable.
"""

import math
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import cast

import torch
from torch import nn
from torch.nn import functional

PIXEL_MARGIN = 0.1  # the paper's ε: logits of 0 and 1 would be infinite
CHANNELS = 3


@dataclass(frozen=True)
class TowerConfig:
    """One half of the network. `widths` are those of its groups, the one nearest the pixels first;
    neighbouring groups differ by a factor of two in resolution."""

    widths: tuple[int, ...] = (256, 512, 1024, 2048)
    blocks: int = 2  # in each group
    kernel: int = 3  # of the three convolutions in the middle of a block
    patch: int = 1  # side of the square of pixels that is one position next to the pixels

    @property
    def factor(self) -> int:
        """Pixels of an image's side per code."""
        return self.patch * 2 ** (len(self.widths) - 1)

    @property
    def gain(self) -> float:
        """What a residual path is multiplied by: 1 / n² for n blocks."""
        return 1 / (len(self.widths) * self.blocks) ** 2


@dataclass(frozen=True)
class DvaeConfig:
    """The defaults are the paper's network for 256 × 256 pixels, 32 × 32 codes.

    Raises ValueError if the halves do not agree on the size of a code.
    """

    vocabulary: int = 8192
    size: int = 256  # of an image's sides, in pixels
    code_width: int = 128  # what a code becomes on its way into the decoder
    first_kernel: int = 7
    encoder: TowerConfig = field(default_factory=TowerConfig)
    decoder: TowerConfig = field(default_factory=TowerConfig)

    def __post_init__(self) -> None:
        if self.encoder.factor != self.decoder.factor:
            raise ValueError(
                f"the encoder shrinks by {self.encoder.factor}, the decoder enlarges by "
                f"{self.decoder.factor}"
            )
        if self.size % self.encoder.factor:
            raise ValueError(f"size {self.size} is no multiple of {self.encoder.factor}")

    @property
    def factor(self) -> int:
        """Pixels of an image's side per code."""
        return self.encoder.factor

    @property
    def grid(self) -> int:
        """Codes in a row, and rows."""
        return self.size // self.factor


class DiscreteVae(nn.Module):
    """Images are (B, 3, H, W), codes (B, h, w) int64 below `vocabulary`, with H = factor · h."""

    def __init__(self, config: DvaeConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return the likeliest codes (B, h, w) of uint8 images (B, 3, H, W)."""
        x = map_pixels(pixels / 255).to(next(self.parameters()).dtype)
        return self.encoder(x).argmax(dim=1)

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        """Decode codes (B, h, w) to images (B, 3, H, W) in [0, 1], float32."""
        location = self.decoder.of_codes(codes)[:, :CHANNELS]
        return unmap_pixels(location.float().sigmoid())


class Encoder(nn.Module):
    """Images (B, 3, H, W) in the mapped range to logits of codes (B, K, h, w)."""

    def __init__(self, config: DvaeConfig) -> None:
        super().__init__()
        tower = config.encoder
        width = tower.widths[0]
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        pixels = CHANNELS * tower.patch**2
        layers["input"] = conv(pixels, width, config.first_kernel)
        for number, wider in enumerate(tower.widths, start=1):
            group = _blocks(tower, width, wider, narrow_first=False)
            if number < len(tower.widths):
                group["pool"] = nn.MaxPool2d(2)
            layers[f"group_{number}"] = nn.Sequential(group)
            width = wider
        output = [("relu", nn.ReLU()), ("conv", conv(width, config.vocabulary, 1))]
        layers["output"] = nn.Sequential(OrderedDict(output))
        self.patch = tower.patch
        self.blocks = nn.Sequential(layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.blocks(functional.pixel_unshuffle(x, self.patch))

    @property
    def input(self) -> nn.Conv2d:
        """The layer that pixels go into."""
        return cast(nn.Conv2d, self.blocks[0])

    @property
    def output(self) -> nn.Conv2d:
        """The layer that logits come out of."""
        return cast(nn.Conv2d, cast(nn.Sequential, self.blocks[-1])[-1])


class Decoder(nn.Module):
    """Codes to the parameters of each pixel's distribution (B, 6, H, W): of the three channels
    first the locations, then the logarithms of the scales."""

    def __init__(self, config: DvaeConfig) -> None:
        super().__init__()
        tower = config.decoder
        width = config.code_width
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        layers["input"] = conv(config.vocabulary, width, 1)
        for number, narrower in enumerate(reversed(tower.widths), start=1):
            group = _blocks(tower, width, narrower, narrow_first=True)
            if number < len(tower.widths):
                group["upsample"] = nn.Upsample(scale_factor=2, mode="nearest")
            layers[f"group_{number}"] = nn.Sequential(group)
            width = narrower
        statistics = conv(width, 2 * CHANNELS * tower.patch**2, 1)
        layers["output"] = nn.Sequential(OrderedDict([("relu", nn.ReLU()), ("conv", statistics)]))
        self.patch = tower.patch
        self.blocks = nn.Sequential(layers)

    def forward(self, weights: torch.Tensor) -> torch.Tensor:
        """Decode `weights` (B, K, h, w): how much of each code there is; one-hot for codes."""
        return self._decode(self.input(weights))

    def of_codes(self, codes: torch.Tensor) -> torch.Tensor:
        """Decode codes (B, h, w) to the same, without the product with a one-hot tensor."""
        table, bias = self.input.weight[:, :, 0, 0].T, self.input.bias  # (K, C), (C,)
        assert bias is not None
        x = functional.embedding(codes, table) + bias
        return self._decode(x.movedim(-1, 1))

    @property
    def input(self) -> nn.Conv2d:
        """The layer that codes go into."""
        return cast(nn.Conv2d, self.blocks[0])

    @property
    def first_path(self) -> nn.Conv2d:
        """How a code goes past the first block."""
        return cast(nn.Conv2d, cast(Block, cast(nn.Sequential, self.blocks[1])[0]).id_path)

    @property
    def output(self) -> nn.Conv2d:
        """The layer that pixels come out of."""
        return cast(nn.Conv2d, cast(nn.Sequential, self.blocks[-1])[-1])

    def _decode(self, x: torch.Tensor) -> torch.Tensor:
        for layer in list(self.blocks)[1:]:
            x = layer(x)
        return functional.pixel_shuffle(x, self.patch)


class Block(nn.Module):
    """A residual block: one 1×1 and three larger convolutions, a quarter as wide inside.

    The 1×1 comes last in the encoder and first in the decoder.
    """

    def __init__(
        self, inputs: int, outputs: int, kernel: int, gain: float, narrow_first: bool
    ) -> None:
        super().__init__()
        self.gain = gain
        hidden = outputs // 4
        self.id_path = nn.Identity() if inputs == outputs else conv(inputs, outputs, 1)
        kernels = (1, kernel, kernel, kernel) if narrow_first else (kernel, kernel, kernel, 1)
        widths = (inputs, hidden, hidden, hidden, outputs)
        path: OrderedDict[str, nn.Module] = OrderedDict()
        for number, side in enumerate(kernels, start=1):
            path[f"relu_{number}"] = nn.ReLU()
            path[f"conv_{number}"] = conv(widths[number - 1], widths[number], side)
        self.res_path = nn.Sequential(path)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.id_path(x) + self.gain * self.res_path(x)

    @property
    def last(self) -> nn.Conv2d:
        """The last layer of the residual path."""
        return cast(nn.Conv2d, self.res_path[-1])


def conv(inputs: int, outputs: int, kernel: int) -> nn.Conv2d:
    """Build a convolution that keeps the size, initialised as in the paper: variance 1 / fan-in, no
    bias."""
    layer = nn.Conv2d(inputs, outputs, kernel, padding=(kernel - 1) // 2)
    nn.init.normal_(layer.weight, std=1 / math.sqrt(inputs * kernel**2))
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def _blocks(
    tower: TowerConfig, inputs: int, outputs: int, narrow_first: bool
) -> OrderedDict[str, nn.Module]:
    return OrderedDict(
        (
            f"block_{number}",
            Block(
                inputs if number == 1 else outputs, outputs, tower.kernel, tower.gain, narrow_first
            ),
        )
        for number in range(1, tower.blocks + 1)
    )


def map_pixels(x: torch.Tensor) -> torch.Tensor:
    """Map [0, 1] to [ε, 1 − ε]."""
    return (1 - 2 * PIXEL_MARGIN) * x + PIXEL_MARGIN


def unmap_pixels(x: torch.Tensor) -> torch.Tensor:
    """Invert `map_pixels`, and clamp to [0, 1]."""
    return ((x - PIXEL_MARGIN) / (1 - 2 * PIXEL_MARGIN)).clamp(0, 1)


def logit_laplace(
    x: torch.Tensor, statistics: torch.Tensor, smallest_scale: float = 0.0
) -> torch.Tensor:
    """Return minus the log-likelihood of mapped pixels x (B, 3, H, W) under `statistics` (B, 6, H,
    W), per value (appendix A.3).

    `smallest_scale` is added to every scale: areas of one exact colour, which photographs do not
    have, would drive theirs to zero and the likelihood to infinity.
    """
    location, log_scale = statistics.chunk(2, dim=1)
    scale = log_scale.exp() + smallest_scale
    return (2 * scale * x * (1 - x)).log() + (x.logit() - location).abs() / scale


def relax(logits: torch.Tensor, uniforms: torch.Tensor, temperature: float) -> torch.Tensor:
    """Draw Gumbel-softmax samples of logits (…, K), from uniforms of the same shape in [0, 1) (Jang
    et al., arXiv 1611.01144): soft in the forward pass too, as in the paper."""
    tiny = torch.finfo(torch.float32).tiny
    gumbel = -(-uniforms.clamp(min=tiny).log()).clamp(min=tiny).log()
    return ((logits + gumbel) / temperature).softmax(dim=-1)


def divergence_from_uniform(log_q: torch.Tensor) -> torch.Tensor:
    """Return KL(q ‖ uniform) in nats (…), for logarithms of probabilities (…, K)."""
    return math.log(log_q.shape[-1]) + (log_q.exp() * log_q).sum(dim=-1)
