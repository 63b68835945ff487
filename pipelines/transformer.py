"""The autoregressive transformer: a prompt, then the codes of a picture, one after the other.

Ramesh et al., Zero-Shot Text-to-Image Generation (arXiv 2102.12092), §2.2 and appendix B: a
decoder-only sparse transformer over text positions followed by image positions in raster order.
Text sees the text before it; an image position sees all of the text, and of the image what the mask
of the layer lets it see. Where the prompt ends, each text position has a learned padding token of
its own. `sees` holds the masks, `Transformer` the network, `Cache` what decoding remembers.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache

import torch
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from pipelines.attention import Attention, attend, attend_shared


class Mask(StrEnum):
    """What an image position sees of the image: itself, and of the positions before it …

    Let W be the width of the grid, R the reach, and d the distance in raster order.
    """

    FULL = "full"  # all
    ROW = "row"  # d ≤ W: the row so far and the rest of the one above (the paper's)
    COLUMN = "column"  # d a multiple of W: the column above
    CONVOLUTION = "convolution"  # a (2R + 1)² window in raster order, so wrapped at the borders
    CONVOLUTION_CLIPPED = "convolution_clipped"  # the window cut at the borders (ruDALL-E, v3)
    CONVOLUTION_TORUS = "convolution_torus"  # the window wrapped along both axes (ruDALL-E, v2)
    CONVOLUTION_UP_LEFT = "convolution_up_left"  # up to R rows up and R columns left (lucidrains)


def sees(
    mask: Mask, query: torch.Tensor, key: torch.Tensor, width: int, reach: int
) -> torch.Tensor:
    """Whether image position `query` sees `key`; int64 tensors of raster positions that broadcast.

    Raster masks are functions of the distance alone, the others of rows and columns apart.
    """
    d = query - key
    rows, columns = query // width - key // width, query % width - key % width
    match mask:
        case Mask.FULL:
            near = torch.ones_like(d, dtype=torch.bool)
        case Mask.ROW:
            near = d <= width
        case Mask.COLUMN:
            near = d % width == 0
        case Mask.CONVOLUTION:
            nearest = ((d + width // 2) // width).clamp(max=reach)  # the row that centres on it
            near = (d - nearest * width).abs() <= reach
        case Mask.CONVOLUTION_CLIPPED:
            near = (rows.abs() <= reach) & (columns.abs() <= reach)
        case Mask.CONVOLUTION_TORUS:
            down, across = rows % width, columns % width  # the grid is as high as it is wide
            near = (torch.minimum(down, width - down) <= reach) & (
                torch.minimum(across, width - across) <= reach
            )
        case Mask.CONVOLUTION_UP_LEFT:
            near = (rows <= reach) & (columns >= 0) & (columns <= reach)
    return near & (d >= 0)


def paper_masks(layers: int) -> tuple[Mask, ...]:
    """Row, column, row, row, and again; the last layer convolution (appendix B.1)."""
    masks = [Mask.COLUMN if index % 4 == 1 else Mask.ROW for index in range(layers)]
    return (*masks[:-1], Mask.CONVOLUTION)


@dataclass(frozen=True)
class TransformerConfig:
    """The defaults are the paper's network of 12 billion parameters.

    Exactly one of `text_vocabulary` (text tokens in the stream, predicted too) and `prefix_width`
    (hidden states of a text encoder, projected) is set. `cross_attention_width` adds attention to
    other hidden states in each layer, and `extra_norms` a layer norm behind attention and MLP:
    public checkpoints have them. Raises ValueError for what does not fit together.
    """

    grid: int = 32  # image positions in a row, and rows
    image_vocabulary: int = 8192
    text_length: int = 256
    text_vocabulary: int | None = 16384
    prefix_width: int | None = None
    width: int = 3968
    heads: int = 62
    masks: tuple[Mask, ...] = paper_masks(64)  # one for each layer
    reach: int = 5  # of the convolution masks
    cross_attention_width: int | None = None
    extra_norms: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "masks", tuple(Mask(mask) for mask in self.masks))
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is no multiple of {self.heads} heads")
        if (self.text_vocabulary is None) == (self.prefix_width is None):
            raise ValueError("one of text_vocabulary and prefix_width must be set, not both")
        if min(self.grid, self.image_vocabulary, self.text_length, len(self.masks)) < 1:
            raise ValueError("grid, vocabulary, text_length and masks must not be empty")

    @property
    def image_length(self) -> int:
        """Image positions."""
        return self.grid**2

    @property
    def length(self) -> int:
        """All positions."""
        return self.text_length + self.image_length

    @property
    def text_outputs(self) -> int:
        """Text tokens that can be predicted: with the padding tokens, none for a prefix."""
        return 0 if self.text_vocabulary is None else self.text_vocabulary + self.text_length


@dataclass(frozen=True)
class Output:
    """Logits of what comes next, at all positions that have a next one."""

    text: torch.Tensor | None  # (B, T - 1, text vocabulary + T); None with a prefix
    image: torch.Tensor  # (B, I, image vocabulary)


class Transformer(nn.Module):
    """Predicts each token from those before it. T text positions, I image positions, width C."""

    def __init__(self, config: TransformerConfig, attention: Attention = "sdpa") -> None:
        super().__init__()
        self.config = config
        self.attention = attention
        self.gradient_checkpointing = False
        width, text = config.width, config.text_length
        if config.prefix_width is not None:
            self.text_projection = nn.Linear(config.prefix_width, width)
        else:
            self.text_embedding = nn.Embedding(config.text_outputs - text, width)
        self.padding = nn.Embedding(text, width)
        self.text_position = nn.Embedding(text, width)
        self.image_embedding = nn.Embedding(config.image_vocabulary, width)
        self.row_position = nn.Embedding(config.grid, width)
        self.column_position = nn.Embedding(config.grid, width)
        self.layers = nn.ModuleList(Layer(config) for _ in config.masks)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, config.text_outputs + config.image_vocabulary)
        self.apply(_initialise)
        for layer in self.layers:  # so that the sum over all layers keeps its size (GPT-2)
            for output in (layer.attention.out, layer.mlp.down):
                nn.init.normal_(output.weight, std=0.02 / math.sqrt(2 * len(self.layers)))

    def forward(
        self,
        text: torch.Tensor,
        present: torch.Tensor,
        image: torch.Tensor,
        context: torch.Tensor | None = None,
    ) -> Output:
        """Teacher forcing.

        text : (B, T) int64 tokens, or (B, T, D) hidden states for a prefix.
        present : (B, T) bool, False where the padding token of the position stands instead.
        image : (B, I) int64. The last token is only predicted.
        context : (B, S, X) hidden states for cross-attention.
        """
        T = self.config.text_length
        x = torch.cat([self.embed_text(text, present), self.embed_image(image[:, :-1])], dim=1)
        for mask, layer in zip(self.config.masks, self.layers, strict=True):
            visible = self._visible(mask, x.shape[1], x.device)
            if self.gradient_checkpointing and self.training:
                x = checkpoint(
                    layer, x, visible, context, self.attention, use_reentrant=False
                )  # type: ignore[assignment]
            else:
                x = layer(x, visible, context, self.attention)
        x = self.norm(x)
        read = self.config.text_outputs
        text_logits = None
        if read > 0:
            text_logits = functional.linear(
                x[:, : T - 1], self.head.weight[:read], self.head.bias[:read]
            )
        return Output(text_logits, self.image_logits(x[:, T - 1 :]))

    def embed_text(self, text: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
        """(B, T) tokens or (B, T, D) hidden states to (B, T, C)."""
        projected = self.config.prefix_width is not None
        x = self.text_projection(text) if projected else self.text_embedding(text)
        x = torch.where(present[..., None], x, self.padding.weight)
        return x + self.text_position.weight

    def embed_image(self, image: torch.Tensor, start: int = 0) -> torch.Tensor:
        """Tokens (B, n) of the positions from `start` to (B, n, C)."""
        position = torch.arange(start, start + image.shape[1], device=image.device)
        row, column = position // self.config.grid, position % self.config.grid
        return self.image_embedding(image) + (self.row_position(row) + self.column_position(column))

    def image_logits(self, x: torch.Tensor) -> torch.Tensor:
        """(…, C) of normed states to (…, image vocabulary)."""
        read = self.config.text_outputs
        return functional.linear(x, self.head.weight[read:], self.head.bias[read:])

    def _visible(self, mask: Mask, length: int, device: torch.device) -> torch.Tensor:
        config = self.config
        whole = visible_positions(mask, config.text_length, config.grid, config.reach)
        return whole[:length, :length].to(device)


class Layer(nn.Module):
    """Attention and an MLP, each behind a layer norm and added to what was there."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        width, crossed = config.width, config.cross_attention_width
        self.norm_1 = nn.LayerNorm(width)
        self.attention = SelfAttention(width, config.heads)
        self.post_1 = nn.LayerNorm(width) if config.extra_norms else nn.Identity()
        if crossed is not None:
            self.norm_cross = nn.LayerNorm(width)
            self.cross_attention = CrossAttention(width, crossed, config.heads)
        self.norm_2 = nn.LayerNorm(width)
        self.mlp = Mlp(width)
        self.post_2 = nn.LayerNorm(width) if config.extra_norms else nn.Identity()

    def forward(
        self,
        x: torch.Tensor,
        visible: torch.Tensor,
        context: torch.Tensor | None,
        attention: Attention,
    ) -> torch.Tensor:
        """x (B, L, C), visible (L, L) bool."""
        q, k, v = self.attention.project(self.norm_1(x))
        return self.finish(x, attend(q, k, v, visible, attention), self._crossed(context))

    def _crossed(self, context: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor] | None:
        """Keys and values of what cross-attention looks at."""
        return None if context is None else self.cross_attention.project(context)

    def finish(
        self,
        x: torch.Tensor,
        attended: torch.Tensor,
        crossed: tuple[torch.Tensor, torch.Tensor] | None,
    ) -> torch.Tensor:
        """All that follows self-attention, for x (B, L, C) and its output (B, H, L, c)."""
        x = x + self.post_1(self.attention.join(attended))
        if crossed is not None:
            x = x + self.cross_attention(self.norm_cross(x), *crossed)
        return x + self.post_2(self.mlp(self.norm_2(x)))


class SelfAttention(nn.Module):
    """The projections around attention; `pipelines.attention` has what is between."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def project(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """(B, L, C) to queries, keys and values (B, H, L, c)."""
        B, L, _ = x.shape
        q, k, v = self.qkv(x).view(B, L, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        return q, k, v

    def join(self, x: torch.Tensor) -> torch.Tensor:
        """(B, H, L, c) to (B, L, C)."""
        return self.out(x.transpose(1, 2).flatten(2))


class CrossAttention(nn.Module):
    """Attention of all positions to other hidden states (B, S, X)."""

    def __init__(self, width: int, context_width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q = nn.Linear(width, width)
        self.kv = nn.Linear(context_width, 2 * width)
        self.out = nn.Linear(width, width)

    def project(self, context: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values (B, H, S, c)."""
        B, S, _ = context.shape
        k, v = self.kv(context).view(B, S, 2, self.heads, -1).permute(2, 0, 3, 1, 4)
        return k, v

    def forward(self, x: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        B, L, _ = x.shape
        q = self.q(x).view(B, L, self.heads, -1).transpose(1, 2)
        attended = functional.scaled_dot_product_attention(q, k, v)
        return self.out(attended.transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    """Four times as wide inside."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down(functional.gelu(self.up(x), approximate="tanh"))


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear):
        nn.init.zeros_(module.bias)


@lru_cache(maxsize=32)
def visible_positions(mask: Mask, text_length: int, grid: int, reach: int) -> torch.Tensor:
    """(L, L) bool over text and image positions: row q is what q sees."""
    text, length = text_length, text_length + grid**2
    visible = torch.zeros(length, length, dtype=torch.bool)
    visible[:, :text] = True
    visible[:text, :text] = torch.ones(text, text, dtype=torch.bool).tril()
    image = torch.arange(grid**2)
    visible[text:, text:] = sees(mask, image[:, None], image, grid, reach)
    return visible


def token_loss(
    output: Output, text: torch.Tensor | None, present: torch.Tensor, image: torch.Tensor
) -> dict[str, torch.Tensor]:
    """Mean cross-entropies in nats and their weighted sum: an eighth text, seven eighths image
    (§2.2). With a prefix there is no text to predict, and the image is all."""
    image_loss = functional.cross_entropy(output.image.flatten(0, 1).float(), image.flatten())
    if output.text is None or text is None:
        return {"loss": image_loss, "image": image_loss}
    T = text.shape[1]
    vocabulary = output.text.shape[-1] - T
    padding = vocabulary + torch.arange(T, device=text.device)
    wanted = torch.where(present, text, padding)[:, 1:]
    text_loss = functional.cross_entropy(output.text.flatten(0, 1).float(), wanted.flatten())
    return {"loss": (text_loss + 7 * image_loss) / 8, "text": text_loss, "image": image_loss}


# --- decoding -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Slots:
    """Where a layer keeps the keys and values of image positions, and where a position finds those
    that it sees. Layers keep no more than can still be seen: a row layer W + 1 slots, in a ring."""

    count: int
    of: tuple[int, ...]  # position → its slot
    seen: tuple[slice | torch.Tensor, ...]  # position → the slots that it sees, itself included


@lru_cache(maxsize=32)
def plan_slots(mask: Mask, grid: int, reach: int, device: torch.device) -> Slots:
    """The slots of a layer with this mask. Row, column and full layers read plain slices."""
    positions = range(grid**2)
    if mask == Mask.FULL:
        return Slots(grid**2, tuple(positions), tuple(slice(0, i + 1) for i in positions))
    if mask == Mask.ROW:
        ring = min(grid + 1, grid**2)
        return Slots(
            ring,
            tuple(i % ring for i in positions),
            tuple(slice(0, min(i + 1, ring)) for i in positions),
        )
    if mask == Mask.COLUMN:  # column after column, so that one lies in one piece
        starts = [i % grid * grid for i in positions]
        return Slots(
            grid**2,
            tuple(start + i // grid for i, start in zip(positions, starts, strict=True)),
            tuple(
                slice(start, start + i // grid + 1)
                for i, start in zip(positions, starts, strict=True)
            ),
        )
    image = torch.arange(grid**2)
    visible = sees(mask, image[:, None], image, grid, reach)
    farthest = int((image[:, None] - image)[visible].max())
    ring = min(farthest + 1, grid**2)
    return Slots(
        ring,
        tuple(i % ring for i in positions),
        tuple((row.nonzero()[:, 0] % ring).to(device) for row in visible),
    )


class Cache:
    """What decoding remembers of N candidates: for each layer the text's keys and values, which all
    candidates of a prompt share, and those of the image tokens, which are each candidate's own.

    `prompts` is 1, or 2 with guidance: rows of the candidates come prompt after prompt.
    """

    def __init__(
        self, text: Sequence[tuple[torch.Tensor, torch.Tensor]], own: Sequence[torch.Tensor]
    ) -> None:
        self.text = text  # for each layer keys and values (prompts, H, T, c)
        self.own = own  # for each layer (2, prompts · N, H, slots, c)
        self.crossed: Sequence[tuple[torch.Tensor, torch.Tensor]] = ()  # (prompts, H, S, c) each

    def keep(self, indices: torch.Tensor) -> "Cache":
        """The cache of some of the candidates, by their rows in one prompt."""
        ...
