"""Fast decoding: one image token at a time, with a cache of all earlier keys and values.

The text is computed once for all candidates of a prompt, and its keys and values are shared. Each
candidate has its own image keys and values, in slots that are set aside at the start; a layer keeps
only those that later positions can still see, so a row layer has W + 1 slots and not W².
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import torch

from pipelines.dalle.attention import attend, attend_shared
from pipelines.dalle.layers import Context, ContextKeys
from pipelines.dalle.masks import Mask, image_visible
from pipelines.dalle.transformer import Transformer, TransformerConfig

COMPACT = torch.contiguous_format


@dataclass(frozen=True)
class Slots:
    """Where the image keys and values of a layer are kept, and which of them a position sees."""

    count: int
    of: tuple[int, ...]  # position → its slot
    seen: tuple[slice | torch.Tensor, ...]  # position → the slots that it sees, its own included


@lru_cache(maxsize=32)
def plan_slots(mask: Mask, width: int, reach: int, device: torch.device) -> Slots:
    """Plan the slots of a layer with this mask; all but convolutions read plain slices of them."""
    positions = range(width**2)
    if mask == Mask.COLUMN:  # column after column, so that one lies in one piece
        starts = [i % width * width for i in positions]
        of = tuple(start + i // width for i, start in zip(positions, starts, strict=True))
        seen = tuple(slice(start, slot + 1) for start, slot in zip(starts, of, strict=True))
        return Slots(width**2, of, seen)
    visible = image_visible(mask, width, reach)
    query, key = visible.nonzero().unbind(dim=1)
    ring = int((query - key).max()) + 1  # the farthest that any position looks back
    of = tuple(i % ring for i in positions)
    if mask in (Mask.FULL, Mask.ROW):
        return Slots(ring, of, tuple(slice(0, min(i + 1, ring)) for i in positions))
    return Slots(ring, of, tuple((row.nonzero()[:, 0] % ring).to(device) for row in visible))


@dataclass(frozen=True)
class LayerCache:
    """The keys and values of one layer, for P prompts with N candidates each."""

    slots: Slots
    text: torch.Tensor  # (2, P, H, T, c): keys, then values
    image: torch.Tensor  # (2, P·N, H, slots, c)
    context: ContextKeys | None  # of P prompts


@dataclass
class Cache:
    """The keys and values of all layers. P is 2 with guidance, else 1; rows go by prompt."""

    layers: list[LayerCache]
    prompts: int
    fed: int  # image tokens that have gone in; what was seen before may be overwritten after

    def keep(self, candidates: torch.Tensor) -> None:
        """Drop all but some candidates, given by their rows (n,) within a prompt."""
        self.layers = [self._cut(layer, candidates) for layer in self.layers]

    def divide(self, parts: Sequence[torch.Tensor]) -> list["Cache"]:
        """Split into caches of some candidates each, layer after layer, so that at most one layer
        is in memory twice: this is for when memory is short."""
        caches = [Cache([], self.prompts, self.fed) for _ in parts]
        while self.layers:
            layer = self.layers.pop(0)
            for cache, part in zip(caches, parts, strict=True):
                cache.layers.append(self._cut(layer, part))
        return caches

    def joined(self, other: "Cache") -> "Cache":
        """Return a cache of the candidates of both, which have been fed as far."""

        def together(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
            parts = [image.unflatten(1, (self.prompts, -1)) for image in (first, second)]
            return torch.cat(parts, dim=2).flatten(1, 2)  # (2, P·N, H, slots, c)

        pairs = zip(self.layers, other.layers, strict=True)
        layers = [replace(one, image=together(one.image, two.image)) for one, two in pairs]
        return Cache(layers, self.prompts, self.fed)

    def _cut(self, layer: LayerCache, candidates: torch.Tensor) -> LayerCache:
        number = layer.image.shape[1] // self.prompts
        rows = torch.cat([candidates + prompt * number for prompt in range(self.prompts)])
        return replace(layer, image=layer.image[:, rows])

    @property
    def own_bytes(self) -> int:
        """Memory that grows with the candidates."""
        return sum(layer.image.nbytes for layer in self.layers)

    @property
    def shared_bytes(self) -> int:
        """Memory that does not."""
        tensors = [t for layer in self.layers for t in (layer.text, *(layer.context or ()))]
        return sum(tensor.nbytes for tensor in tensors)


def prefill(
    transformer: Transformer,
    text: torch.Tensor,
    present: torch.Tensor,
    image: torch.Tensor,
    candidates: int,
    context: Context | None = None,
) -> tuple[Cache, torch.Tensor]:
    """Read P prompts, and the n image tokens that all their candidates begin with, in one pass.

    text (P, T) or (P, T, D), present (P, T), image (P, n), context of P rows. Returns the cache and
    the logits of image token n, (P, V).
    """
    config = transformer.config
    P, n = image.shape
    T = text.shape[1]
    shared = T - config.masks_begin_in_text
    x = torch.cat(
        [transformer.embed_text(text, present), transformer.embed_image(image)], dim=1
    )  # (P, T + n, C)
    rotations = transformer.rotations(T, n)
    layers = []
    for mask, layer in zip(config.masks, transformer.blocks(), strict=True):
        q, k, v = qkv = layer.attention.project(layer.norm_1(x), rotations)
        projected = layer.project_context(context)
        shown = transformer.visible(mask, T, n)
        x = layer.finish(x, attend(q, k, v, shown, transformer.kernel), projected)
        slots = plan_slots(mask, config.grid, config.reach, x.device)
        own = qkv[1:, :, :, shared:].repeat_interleave(candidates, dim=1)
        # A copy, even where the part is contiguous as it is: a view would keep all of the pass.
        text_only = qkv[1:, :, :, :shared].clone(memory_format=COMPACT)
        layers.append(LayerCache(slots, text_only, _into_slots(own, slots), projected))
    logits = transformer.image_logits(transformer.normed(x[:, -1]))
    return Cache(layers, P, fed=n), logits


def _into_slots(own: torch.Tensor, slots: Slots) -> torch.Tensor:
    """Lay out keys and values (2, B, H, n, c) of the first positions as `slots` says."""
    n = own.shape[3]
    kept = range(max(0, n - slots.count), n)  # in a ring, the later positions replace the earlier
    image = own.new_zeros(*own.shape[:3], slots.count, own.shape[4])
    image[:, :, :, [slots.of[i] for i in kept]] = own[:, :, :, kept.start :]
    return image


def advance(
    transformer: Transformer, cache: Cache, tokens: torch.Tensor, position: int
) -> torch.Tensor:
    """Feed the image token (P·N,) of `position` in each row; return logits (P·N, V) of the next
    token.

    Feeding a position again does no harm; feeding an earlier one does, since rings move on.
    """
    cache.fed = position + 1
    x = transformer.embed_next(tokens, position)  # (P·N, 1, C)
    place = position + transformer.config.masks_begin_in_text  # in the grid of the masks
    rotations = transformer.rotations_at(position)
    for layer, memory in zip(transformer.blocks(), cache.layers, strict=True):
        qkv = layer.attention.project(layer.norm_1(x), rotations)
        slot, seen = memory.slots.of[place], memory.slots.seen[place]
        memory.image[:, :, :, slot] = qkv[1:, :, :, 0]
        attended = attend_shared(qkv[0], memory.text, memory.image[:, :, :, seen])
        x = layer.finish(x, attended, memory.context)
    return transformer.image_logits(transformer.normed(x[:, 0]))


def bytes_per_candidate(
    config: TransformerConfig, prompts: int = 1, bytes_per_value: int = 4
) -> int:
    """Return the memory of one more candidate in a cache: the private part of all layers."""
    counts = [
        plan_slots(mask, config.grid, config.reach, torch.device("cpu")).count
        for mask in config.masks
    ]
    return 2 * prompts * sum(counts) * config.width * bytes_per_value
