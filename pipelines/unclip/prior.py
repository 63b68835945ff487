"""The prior: from a text to the embedding of an image (Ramesh et al., arXiv 2204.06125, §2.2)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from diffusers.models.transformers.prior_transformer import PriorTransformer
from torch.nn import functional

from pipelines.denoising import clone_generator
from pipelines.unclip.text import Read, Reader, embedding_of

DIVERSITY = 0.3  # of the choice among a pool: what being different counts beside being near
_NOT_SEEN = -10_000.0  # added to what attention sees of a token, as the network was trained
_STREAM = 0x9E3779B97F4A7C15  # between the seeds of a candidate's embeddings
_SEEDS = 2**63


@dataclass(frozen=True)
class Prior:
    """The network, how its noise is taken away, and what reads prompts for it.

    The network reads states of tokens as wide as embeddings are. Those of a CLIP whose text tower
    has another width go through CLIP's own projection.
    """

    network: PriorTransformer
    scheduler: Mapping[str, Any]  # scheduler_config.json
    reader: Reader

    @property
    def width(self) -> int:
        """Numbers of an embedding."""
        return int(self.network.config.embedding_dim)

    def read(self, texts: Sequence[Read]) -> "Known":
        """Return what the network knows of P texts, whatever the time and the embedding.

        Each of its tokens looks at those before it only, and what is drawn stands behind the text:
        so the text is read once, not for each embedding at each step. What fills up all of them is
        not looked at, and is left out.
        """
        network, positions = self.network, self.network.positional_embedding
        present = torch.cat([text.present for text in texts])  # (P, T)
        T, length = present.shape[1], int(present.any(dim=0).nonzero().max()) + 1
        hidden = torch.cat([self._states(text) for text in texts])[:, :length]
        if network.encoder_hidden_states_proj is not None:
            hidden = network.encoder_hidden_states_proj(hidden)
        told = torch.cat([embedding_of(text) for text in texts])
        if network.embedding_proj_norm is not None:
            told = network.embedding_proj_norm(told)
        told = network.embedding_proj(told)[:, None] + positions[:, T : T + 1]
        x = torch.cat([hidden + positions[:, :length], told], dim=1)  # (P, length + 1, C)
        absent = functional.pad(~present[:, :length], (0, 1)) * _NOT_SEEN
        seen = absent[:, None, None] + network.causal_attention_mask[:, : length + 1, : length + 1]
        _, keys = _through(network, x, seen.to(x.dtype))
        return Known(keys, absent)

    def predict(
        self, x_t: torch.Tensor, t: torch.Tensor, known: "Known", guidance: float
    ) -> torch.Tensor:
        """Return the network's output (R, D) in float32 for a text, or of two that are known guided
        away from the first."""
        network, P = self.network, len(known.absent)
        x = network.proj_in(torch.cat([x_t] * P).to(network.dtype))[:, None]  # (P · R, 1, C)
        time = network.time_embedding(network.time_proj(t.reshape(1)).to(x.dtype))
        own = [time[:, None].expand_as(x), x]
        if network.prd_embedding is not None:
            own.append(network.prd_embedding.expand_as(x))
        x = torch.cat(own, dim=1)
        rows, length = known.rows(len(x_t)), x.shape[1]
        absent = functional.pad(rows.absent, (0, length))
        causal = network.causal_attention_mask[:, -length:, -absent.shape[1] :]
        seen = absent[:, None, None] + causal
        x = x + network.positional_embedding[:, -length:]
        x, _ = _through(network, x, seen.to(x.dtype), rows.keys)
        output = network.proj_to_clip_embeddings(network.norm_out(x[:, -1])).float()
        if P == 1:
            return output
        without, with_text = output.chunk(2)
        return without + guidance * (with_text - without)

    def embeddings(self, x: torch.Tensor) -> torch.Tensor:
        """Return embeddings (R, D) as CLIP has them, of what was drawn at the prior's scale."""
        return self.network.post_process_latents(x)

    def _states(self, text: Read) -> torch.Tensor:
        if text.hidden.shape[-1] == self.width:
            return text.hidden
        return self.reader.encoder.text_projection(text.hidden)  # as training does


@dataclass(frozen=True)
class Known:
    """What the network knows of P texts: what each of its blocks keeps of their L tokens."""

    keys: Sequence[tuple[torch.Tensor, torch.Tensor]]  # keys and values, (P, H, L, c)
    absent: torch.Tensor  # (P, L), what is added to attention: much less than 0 for what fills up

    def rows(self, number: int) -> "Known":
        """Return it for so many embeddings of each text."""

        def repeated(tensor: torch.Tensor) -> torch.Tensor:
            return tensor.repeat_interleave(number, dim=0)

        return Known([(repeated(k), repeated(v)) for k, v in self.keys], repeated(self.absent))


def _through(
    network: PriorTransformer,
    x: torch.Tensor,
    seen: torch.Tensor,
    before: Sequence[tuple[torch.Tensor, torch.Tensor]] | None = None,
) -> tuple[torch.Tensor, list[tuple[torch.Tensor, torch.Tensor]]]:
    """Take tokens (R, L, C) through the blocks, behind others whose keys are known.

    `seen` (R, 1, L, all) is added to what attention sees. Returns the tokens, and keys and values
    of each block.
    """
    keys = []
    if network.norm_in is not None:
        x = network.norm_in(x)
    for i, block in enumerate(network.transformer_blocks):
        attention, normed = block.attn1, block.norm1(x)
        q, k, v = (
            layer(normed).unflatten(-1, (attention.heads, -1)).transpose(1, 2)  # (R, H, L, c)
            for layer in (attention.to_q, attention.to_k, attention.to_v)
        )
        if before is not None:
            k, v = (torch.cat(pair, dim=2) for pair in zip(before[i], (k, v), strict=True))
        keys.append((k, v))
        out = functional.scaled_dot_product_attention(q, k, v, attn_mask=seen)
        x = x + attention.to_out[0](out.transpose(1, 2).flatten(2))
        x = x + block.ff(block.norm3(x))
    return x, keys


@dataclass(frozen=True)
class Drawn:
    """Embeddings while they are drawn: K for each of N candidates, or a pool of K for them all."""

    x: torch.Tensor  # (N, K, D), or (1, K, D) of a pool
    others: tuple[tuple[torch.Generator, ...], ...]  # beside each candidate's own, or of the pool
    places: tuple[int, ...] | None  # of a pool: which of its embeddings each candidate takes

    def generators(self, own: Sequence[torch.Generator]) -> list[torch.Generator]:
        """Return a generator for each embedding; the first of a candidate goes on with its own."""
        if self.places is not None:
            return list(self.others[0])
        return [g for first, more in zip(own, self.others, strict=True) for g in (first, *more)]

    def copy(self) -> "Drawn":
        """Return embeddings whose generators can move on without touching these."""
        others = tuple(tuple(clone_generator(g) for g in row) for row in self.others)
        return replace(self, others=others)

    def rows(self, indices: Sequence[int]) -> "Drawn":
        """Return the embeddings of some of the candidates; a pool stays whole."""
        copied = self.copy()
        if self.places is not None:
            return replace(copied, places=tuple(self.places[i] for i in indices))
        index = torch.tensor(indices, device=self.x.device)
        return replace(copied, x=self.x[index], others=tuple(copied.others[i] for i in indices))

    def joined(self, other: "Drawn") -> "Drawn":
        """Return the embeddings of the candidates of both, which are equally far."""
        if self.places is not None and other.places is not None:
            return replace(self, places=self.places + other.places)
        return replace(self, x=torch.cat([self.x, other.x]), others=self.others + other.others)

    def chosen(self, embeddings: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
        """Return the embedding of each candidate (N, D) among all (R · K, D) in CLIP's space.

        Of its own, each takes the one with the largest cosine with the text (1, D).
        """
        cosines = functional.cosine_similarity(embeddings, text.float())  # (R · K,)
        if self.places is not None:
            order = rank(cosines, embeddings)
            return embeddings[[order[place % len(order)] for place in self.places]]
        best = cosines.view(self.x.shape[:2]).argmax(dim=1, keepdim=True)  # (N, 1)
        rows = embeddings.view(self.x.shape)
        return rows.take_along_dim(best[..., None], dim=1)[:, 0]


def begin_drawn(
    own: Sequence[torch.Generator],
    seeds: Sequence[int],
    width: int,
    draws: int,
    pool: tuple[int, int] | None,
    device: torch.device,
) -> Drawn:
    """Return the noise (N, K, D) that embeddings begin with.

    A candidate draws `draws` of them, the first by its `own` generator. A `pool` is so many for all
    candidates, from a first seed on; a candidate's place in it is its seed's distance from there.
    """
    if pool is not None:
        first, number = pool
        stream = tuple(_generator(first + i, 1) for i in range(number))
        drawn = Drawn(torch.empty(0), (stream,), tuple((s - first) % _SEEDS for s in seeds))
        shape = (1, number, width)
    else:
        others = tuple(tuple(_generator(s, k) for k in range(1, draws)) for s in seeds)
        drawn, shape = Drawn(torch.empty(0), others, None), (len(seeds), draws, width)
    noise = [torch.randn(1, width, generator=g) for g in drawn.generators(own)]
    return replace(drawn, x=torch.cat(noise).view(shape).to(device))


def _generator(seed: int, number: int) -> torch.Generator:
    return torch.Generator().manual_seed((seed + number * _STREAM) % _SEEDS)


def rank(cosines: torch.Tensor, embeddings: torch.Tensor) -> list[int]:
    """Return the order in which embeddings (K, D) are taken: near to the text, and different.

    Each is the best by its cosine with the text less its likeness to what is taken already (maximal
    marginal relevance, Carbonell and Goldstein, SIGIR 1998), both from 0 to 1 within the pool. The
    first so many of the order are the choice of so many.
    """
    vectors = functional.normalize(embeddings, dim=1)
    nearness, likeness = _from_0_to_1(cosines), _from_0_to_1(vectors @ vectors.T)  # (K,), (K, K)
    nearest = torch.zeros_like(nearness)  # likeness to what is taken
    left = torch.ones_like(nearness, dtype=torch.bool)
    order: list[int] = []
    for _ in range(len(nearness)):
        worth = (1 - DIVERSITY) * nearness - DIVERSITY * nearest
        best = int(worth.masked_fill(~left, -torch.inf).argmax())
        order.append(best)
        left[best] = False
        nearest = torch.maximum(nearest, likeness[best])
    return order


def _from_0_to_1(values: torch.Tensor) -> torch.Tensor:
    low, high = values.min(), values.max()
    return (values - low) / (high - low).clamp(min=1e-9)
