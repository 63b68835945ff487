"""The autoregressive transformer: a prompt, then the codes of an image, one after the other.

Ramesh et al., Zero-Shot Text-to-Image Generation (arXiv 2102.12092), §2.2 and appendix B: a
decoder-only sparse transformer over text positions followed by image positions in raster order.
Text sees the text before it; an image position sees all of the text, and of the image what the mask
of the layer lets it see. Where the prompt ends, each text position has a learned padding token of
its own. This is teacher forcing, over all positions at once; `pipelines.dalle.cache` decodes.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

import torch
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from pipelines.dalle.layers import Activation, Context, Layer, Mlp, norm_layer
from pipelines.dalle.masks import Mask, paper_masks, visible
from pipelines.dalle.rotary import behind_text, grid_rotations
from pipelines.runtime.cpu import linear


@dataclass(frozen=True)
class TransformerConfig:
    """The defaults are the paper's network of 12 billion parameters.

    Text positions hold text tokens, which are predicted too (`text_vocabulary`), or projected
    hidden states of a text encoder (`prefix_width`). Where neither is set they hold their padding
    tokens and nothing else: a start token, for networks that read the prompt by cross-attention
    (`cross_attention_width`). With `rotary` positions a prefix has none: it is as long as the
    prompt, up to `text_length`, and is never padded. The other fields are what public checkpoints
    do differently. Raises ValueError for what does not fit together.
    """

    grid: int = 32  # image positions in a row, and rows
    image_vocabulary: int = 8192
    text_length: int = 256
    text_vocabulary: int | None = 16384
    prefix_width: int | None = None
    prefix_mlp: bool = False  # projects a prefix by two layers, not one
    null_prefix: bool = False  # has a learned prefix of no prompt, to compare with
    width: int = 3968
    heads: int = 62
    masks: tuple[Mask, ...] = paper_masks(64)  # one for each layer
    reach: int = 5  # of the convolution masks
    cross_attention_width: int | None = None
    extra_norms: bool = False  # a layer norm behind each attention and behind, or in, the MLP
    gated_mlp: bool = False  # a GLU, with the extra norm inside (NormFormer, as in DALL·E mini)
    mlp_width: int | None = None  # None is four times as wide
    activation: Activation = Activation.GELU_TANH
    rms_norm: bool = False  # in place of all layer norms
    embedding_norm: bool = False  # behind the embeddings
    head_norm: bool = False  # a second one before the head
    raster_positions: bool = False  # a learned position per image token, not per row and column
    rotary: bool = False  # rotary position embeddings of image tokens; nothing is learned
    masks_begin_in_text: bool = False  # the last text position is the first of the masks' grid

    def __post_init__(self) -> None:
        object.__setattr__(self, "masks", tuple(Mask(mask) for mask in self.masks))
        object.__setattr__(self, "activation", Activation(self.activation))
        if self.heads < 1 or self.width % self.heads:
            raise ValueError(f"width {self.width} is no multiple of {self.heads} heads")
        if self.text_vocabulary is not None and self.prefix_width is not None:
            raise ValueError("one of text_vocabulary and prefix_width must be set, not both")
        sources = (self.text_vocabulary, self.prefix_width, self.cross_attention_width)
        if sources == (None, None, None):
            raise ValueError(
                "one of text_vocabulary and prefix_width must be set, or cross_attention_width"
            )
        if self.prefix_width is None and (self.prefix_mlp or self.null_prefix or self.rotary):
            raise ValueError("prefix_mlp, null_prefix and rotary need a prefix_width")
        if self.rotary and self.width // self.heads % 4:
            raise ValueError("rotary needs heads whose width is a multiple of four")
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
        """Text tokens that can be predicted: with the padding tokens; none where none are read."""
        return 0 if self.text_vocabulary is None else self.text_vocabulary + self.text_length

    @property
    def shared_length(self) -> int:
        """Text positions that all image positions see, whatever the mask."""
        return self.text_length - self.masks_begin_in_text


@dataclass(frozen=True)
class Output:
    """Logits of what comes next, at all positions that have a next one."""

    text: torch.Tensor | None  # (B, T - 1, text vocabulary + T); None with a prefix
    image: torch.Tensor  # (B, I, image vocabulary)


class Transformer(nn.Module):
    """Predicts each token from those before it. T text positions, I image positions, width C."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        self.kernel = "sdpa"  # one of attention.KERNELS
        self.gradient_checkpointing = False
        width, text = config.width, config.text_length
        if config.prefix_width is not None:
            self.text_projection = _prefix_projection(config.prefix_width, width, config.prefix_mlp)
        elif config.text_vocabulary is not None:
            self.text_embedding = nn.Embedding(config.text_vocabulary, width)
        if config.null_prefix:
            assert config.prefix_width is not None
            self.null_prefix = nn.Parameter(torch.zeros(text, config.prefix_width))
        self.image_embedding = nn.Embedding(config.image_vocabulary, width)
        if not config.rotary:
            self.padding = nn.Embedding(text, width)
            self.text_position = nn.Embedding(text, width)
            if config.raster_positions:
                self.image_position = nn.Embedding(config.image_length, width)
            else:
                self.row_position = nn.Embedding(config.grid, width)
                self.column_position = nn.Embedding(config.grid, width)
        rms = config.rms_norm
        self.embedding_norm = norm_layer(width, rms) if config.embedding_norm else nn.Identity()
        self.layers = nn.ModuleList(
            Layer(
                width,
                config.heads,
                config.mlp_width,
                config.activation,
                extra_norms=config.extra_norms,
                gated_mlp=config.gated_mlp,
                rms_norm=rms,
                context_width=config.cross_attention_width,
            )
            for _ in config.masks
        )
        self.norm = norm_layer(width, rms)
        self.head_norm = norm_layer(width, rms) if config.head_norm else nn.Identity()
        self.head = nn.Linear(width, config.text_outputs + config.image_vocabulary)
        self.apply(_initialise)
        for layer in self.blocks():  # so that the sum over all layers keeps its size (GPT-2)
            for output in (layer.attention.out, layer.mlp.down):
                nn.init.normal_(output.weight, std=0.02 / math.sqrt(2 * len(self.layers)))

    def forward(
        self,
        text: torch.Tensor,
        present: torch.Tensor,
        image: torch.Tensor,
        context: Context | None = None,
    ) -> Output:
        """Predict all tokens at once from the true ones before them (teacher forcing).

        text : (B, T) int64 tokens, or (B, T, D) hidden states for a prefix. T is the length that
            the config says, or anything up to it with rotary positions.
        present : (B, T) bool, False where the padding token of the position stands instead.
        image : (B, I) int64. The last token is only predicted.
        context : for cross-attention.
        """
        T, n = text.shape[1], image.shape[1] - 1
        x = torch.cat([self.embed_text(text, present), self.embed_image(image[:, :-1])], dim=1)
        rotations = self.rotations(T, n)
        for mask, layer in zip(self.config.masks, self.blocks(), strict=True):
            shown = self.visible(mask, T, n)
            if self.gradient_checkpointing and self.training:
                x = checkpoint(
                    layer, x, shown, context, self.kernel, rotations, use_reentrant=False
                )
            else:
                x = layer(x, shown, context, self.kernel, rotations)
        x = self.normed(x)
        image_logits = self.image_logits(x[:, T - 1 :])
        read = self.config.text_outputs
        if read == 0:
            return Output(None, image_logits)
        weight, bias = self.head.weight[:read], self.head.bias[:read]
        return Output(functional.linear(x[:, : T - 1], weight, bias), image_logits)

    def blocks(self) -> Iterator["Layer"]:
        """Iterate over the layers, in order."""
        return cast(Iterator[Layer], iter(self.layers))

    def embed_text(self, text: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
        """Embed tokens (B, T) or hidden states (B, T, D) of a text as (B, T, C)."""
        if self.config.rotary:
            return self.embedding_norm(self.text_projection(text))
        x = self.padding.weight
        if self.config.prefix_width is not None:
            x = torch.where(present[..., None], self.text_projection(text), x)
        elif self.config.text_vocabulary is not None:
            x = torch.where(present[..., None], self.text_embedding(text), x)
        else:
            x = x.expand(len(text), -1, -1)
        return self.embedding_norm(x + self.text_position.weight)

    def embed_image(self, image: torch.Tensor) -> torch.Tensor:
        """Embed the first n image tokens (B, n) as (B, n, C)."""
        x = self.image_embedding(image)
        if self.config.rotary:
            return self.embedding_norm(x)
        position = torch.arange(image.shape[1], device=image.device)
        if self.config.raster_positions:
            place = self.image_position(position)
        else:
            row, column = position // self.config.grid, position % self.config.grid
            place = self.row_position(row) + self.column_position(column)
        return self.embedding_norm(x + place)

    def embed_next(self, image: torch.Tensor, position: int) -> torch.Tensor:
        """Embed the tokens (B,) of one position as (B, 1, C)."""
        x = self.image_embedding(image)[:, None]
        if self.config.rotary:
            return self.embedding_norm(x)
        if self.config.raster_positions:
            place = self.image_position.weight[position]
        else:
            row, column = divmod(position, self.config.grid)
            place = self.row_position.weight[row] + self.column_position.weight[column]
        return self.embedding_norm(x + place)

    def normed(self, x: torch.Tensor) -> torch.Tensor:
        """Normalise the output of the last layer for the head."""
        return self.head_norm(self.norm(x))

    def image_logits(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits (…, image vocabulary) of normed states (…, C)."""
        read = self.config.text_outputs
        return linear(x, self.head.weight[read:], self.head.bias[read:])

    def visible(self, mask: Mask, text: int, image: int) -> torch.Tensor:
        """Return (L, L) bool: what `text` text positions and the first `image` image positions see
        in a layer with this mask; L is both together."""
        config = self.config
        device = self.image_embedding.weight.device
        shared = text - config.masks_begin_in_text
        return visible(mask, shared, config.grid, config.reach, text + image, device)

    def rotations(self, text: int, image: int) -> torch.Tensor | None:
        """Return the rotations (2, L, c / 2) of the same positions; None unless they are rotary."""
        whole = self._grid_rotations()
        return None if whole is None else behind_text(whole[:, :image], text)

    def rotations_at(self, position: int) -> torch.Tensor | None:
        """Return the rotation (2, 1, c / 2) of one image position; None unless it is rotary."""
        whole = self._grid_rotations()
        return None if whole is None else whole[:, position : position + 1]

    def _grid_rotations(self) -> torch.Tensor | None:
        config = self.config
        if not config.rotary:
            return None
        device = self.image_embedding.weight.device
        return grid_rotations(config.grid, config.width // config.heads, device)


def _prefix_projection(inputs: int, width: int, mlp: bool) -> nn.Linear | Mlp:
    return Mlp(inputs, width, Activation.GELU_TANH, width) if mlp else nn.Linear(inputs, width)


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear):
        nn.init.zeros_(module.bias)


def token_loss(
    output: Output, text: torch.Tensor | None, present: torch.Tensor, image: torch.Tensor
) -> dict[str, torch.Tensor]:
    """Return mean cross-entropies in nats and their weighted sum: an eighth text, seven eighths
    image (§2.2). With a prefix there is no text to predict, and the image is all."""
    image_loss = functional.cross_entropy(output.image.flatten(0, 1).float(), image.flatten())
    if output.text is None or text is None:
        return {"loss": image_loss, "image": image_loss}
    T = text.shape[1]
    vocabulary = output.text.shape[-1] - T
    padding = vocabulary + torch.arange(T, device=text.device)
    wanted = torch.where(present, text, padding)[:, 1:]
    text_loss = functional.cross_entropy(output.text.flatten(0, 1).float(), wanted.flatten())
    return {"loss": (text_loss + 7 * image_loss) / 8, "text": text_loss, "image": image_loss}
