"""The VQGAN: an image becomes a grid of codes, and a grid of codes an image.

Esser et al., Taming Transformers for High-Resolution Image Synthesis (arXiv 2012.09841), with the
layers and key names of the code that was published with it. It stands where the discrete VAE stands
in models of the DALL·E path that are not by OpenAI.
"""

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

CHANNELS = 3


@dataclass(frozen=True)
class VqganConfig:
    """The defaults are the network of ruDALL-E, for 256 × 256 pixels and 32 × 32 codes.

    Widths are `width` times `multipliers`, the one nearest the pixels first; neighbouring levels
    differ by a factor of two in resolution. Raises ValueError for what does not fit together.
    """

    vocabulary: int = 8192
    size: int = 256  # of an image's sides, in pixels
    code_width: int = 256
    z_channels: int = 256  # of what is next to the codes
    width: int = 128
    multipliers: tuple[int, ...] = (1, 1, 2, 4)
    blocks: int = 2  # in each level of the encoder; the decoder has one more
    attention_levels: tuple[int, ...] = (3,)  # besides the middle, which always has attention
    norm_groups: int = 32
    norm_eps: float = 1e-6
    signed: bool = True  # pixels come out of the decoder in [−1, 1], not [0, 1]
    has_encoder: bool = True  # one that picks the code with the largest logit …
    nearest_code: bool = False  # … or, without logits, the nearest one
    unit_codes: bool = False  # codes are scaled to length 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "multipliers", tuple(self.multipliers))
        object.__setattr__(self, "attention_levels", tuple(self.attention_levels))
        if self.size % self.factor:
            raise ValueError(f"size {self.size} is no multiple of {self.factor}")

    @property
    def factor(self) -> int:
        """Pixels of an image's side per code."""
        return 2 ** (len(self.multipliers) - 1)

    @property
    def grid(self) -> int:
        """Codes in a row, and rows."""
        return self.size // self.factor

    @property
    def widths(self) -> tuple[int, ...]:
        """Of the levels, the one nearest the pixels first."""
        return tuple(self.width * multiplier for multiplier in self.multipliers)


class Vqgan(nn.Module):
    """Images are (B, 3, H, W), codes (B, h, w) int64 below `vocabulary`, with H = factor · h."""

    def __init__(self, config: VqganConfig) -> None:
        super().__init__()
        self.config = config
        if config.has_encoder:
            self.encoder = Encoder(config)
            self.quant_conv = nn.Conv2d(config.z_channels, config.code_width, 1)
            if not config.nearest_code:
                self.code_logits = nn.Conv2d(config.code_width, config.vocabulary, 1)
        self.codebook = nn.Embedding(config.vocabulary, config.code_width)
        self.post_quant_conv = nn.Conv2d(config.code_width, config.z_channels, 1)
        self.decoder = Decoder(config)

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        """Encode uint8 images (B, 3, H, W) as codes (B, h, w).

        Raises ValueError if there is no encoder.
        """
        if not self.config.has_encoder:
            raise ValueError("this VQGAN has no encoder: it only makes images of codes")
        x = (pixels / 127.5 - 1).to(self.codebook.weight.dtype)
        z = self.quant_conv(self.encoder(x))
        return self._nearest(z) if self.config.nearest_code else self.code_logits(z).argmax(dim=1)

    def _nearest(self, z: torch.Tensor) -> torch.Tensor:
        """Return the codes (B, h, w) nearest to (B, C, h, w): |z − e|² is |z|² − 2 (z·e − |e|² /
        2)."""
        codes = self._scaled(self.codebook.weight)  # (V, C)
        return (z.movedim(1, -1) @ codes.T - codes.square().sum(dim=1) / 2).argmax(dim=-1)

    def _scaled(self, codes: torch.Tensor) -> torch.Tensor:
        """Scale codes (…, C) as the decoder knows them."""
        return functional.normalize(codes, dim=-1) if self.config.unit_codes else codes

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        """Decode codes (B, h, w) to images (B, 3, H, W) in [0, 1], float32."""
        z = self._scaled(self.codebook(codes)).movedim(-1, 1)  # (B, C, h, w)
        x = self.decoder(self.post_quant_conv(z)).float()
        if self.config.signed:
            x = (x + 1) / 2
        return x.clamp(0, 1)


class Encoder(nn.Module):
    """Images (B, 3, H, W) in [−1, 1] to (B, Z, h, w)."""

    def __init__(self, config: VqganConfig) -> None:
        super().__init__()
        inputs = config.widths[0]
        self.conv_in = nn.Conv2d(CHANNELS, inputs, 3, padding=1)
        self.down = nn.ModuleList()
        for number, width in enumerate(config.widths):
            level = Level(config, number, inputs, width, config.blocks)
            if number < len(config.widths) - 1:
                level.downsample = Downsample(width)
            self.down.append(level)
            inputs = width
        self.mid = Middle(config, inputs)
        self.norm_out = norm(config, inputs)
        self.conv_out = nn.Conv2d(inputs, config.z_channels, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv_in(x)
        for level in self.down:
            x = level(x)
        return self.conv_out(functional.silu(self.norm_out(self.mid(x))))


class Decoder(nn.Module):
    """(B, Z, h, w) to pixels (B, 3, H, W)."""

    def __init__(self, config: VqganConfig) -> None:
        super().__init__()
        inputs = config.widths[-1]
        self.conv_in = nn.Conv2d(config.z_channels, inputs, 3, padding=1)
        self.mid = Middle(config, inputs)
        levels = []
        for number, width in reversed(list(enumerate(config.widths))):
            level = Level(config, number, inputs, width, config.blocks + 1)
            if number > 0:
                level.upsample = Upsample(width)
            levels.append(level)
            inputs = width
        self.up = nn.ModuleList(reversed(levels))  # stored with the one nearest the pixels first
        self.norm_out = norm(config, inputs)
        self.conv_out = nn.Conv2d(inputs, CHANNELS, 3, padding=1)

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        x = self.mid(self.conv_in(z))
        for level in reversed(self.up):
            x = level(x)
        return self.conv_out(functional.silu(self.norm_out(x)))


class Level(nn.Module):
    """Residual blocks at one resolution, then the way to the next one."""

    def __init__(
        self, config: VqganConfig, number: int, inputs: int, width: int, blocks: int
    ) -> None:
        super().__init__()
        self.block = nn.ModuleList(
            ResidualBlock(config, inputs if i == 0 else width, width) for i in range(blocks)
        )
        attends = number in config.attention_levels
        self.attn = nn.ModuleList(Attention(config, width) for _ in range(blocks if attends else 0))
        self.downsample: nn.Module | None = None
        self.upsample: nn.Module | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for i, block in enumerate(self.block):
            x = block(x)
            if len(self.attn) > 0:
                x = self.attn[i](x)
        for resample in (self.downsample, self.upsample):
            if resample is not None:
                x = resample(x)
        return x


class Middle(nn.Module):
    """What is between encoder and codes, or codes and decoder."""

    def __init__(self, config: VqganConfig, width: int) -> None:
        super().__init__()
        self.block_1 = ResidualBlock(config, width, width)
        self.attn_1 = Attention(config, width)
        self.block_2 = ResidualBlock(config, width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.block_2(self.attn_1(self.block_1(x)))


class ResidualBlock(nn.Module):
    """Two convolutions, each behind a norm and SiLU."""

    def __init__(self, config: VqganConfig, inputs: int, outputs: int) -> None:
        super().__init__()
        self.norm1 = norm(config, inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.norm2 = norm(config, outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.nin_shortcut = nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.conv1(functional.silu(self.norm1(x)))
        return self.nin_shortcut(x) + self.conv2(functional.silu(self.norm2(h)))


class Attention(nn.Module):
    """Each place of an image attends to all, with one head."""

    def __init__(self, config: VqganConfig, width: int) -> None:
        super().__init__()
        self.norm = norm(config, width)
        self.q = nn.Conv2d(width, width, 1)
        self.k = nn.Conv2d(width, width, 1)
        self.v = nn.Conv2d(width, width, 1)
        self.proj_out = nn.Conv2d(width, width, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        normed = self.norm(x)
        q, k, v = (
            project(normed).flatten(2).mT[:, None]  # (B, 1, h·w, C)
            for project in (self.q, self.k, self.v)
        )
        attended = functional.scaled_dot_product_attention(q, k, v)
        return x + self.proj_out(attended[:, 0].mT.reshape(x.shape))


class Downsample(nn.Module):
    """Half the size, by a strided convolution that is padded on the right and below only."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, stride=2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(functional.pad(x, (0, 1, 0, 1)))


class Upsample(nn.Module):
    """Twice the size."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(functional.interpolate(x, scale_factor=2.0, mode="nearest"))


def norm(config: VqganConfig, width: int) -> nn.GroupNorm:
    """Build the normalisation that all layers use."""
    return nn.GroupNorm(config.norm_groups, width, eps=config.norm_eps)
