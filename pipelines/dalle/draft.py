"""Candidates of the DALL·E path in progress."""

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self

import torch
from PIL import Image

from pipelines.dalle.cache import Cache, advance, prefill
from pipelines.dalle.dvae import DiscreteVae
from pipelines.dalle.layers import Context
from pipelines.dalle.token_sampling import draw_tokens
from pipelines.dalle.vqgan import Vqgan
from pipelines.dalle.ways import choose_ways, draw_way
from pipelines.drafts import CHUNK_PIXELS, Draft, check_indices, in_chunks, to_image, to_uint8
from pipelines.editing import Start

if TYPE_CHECKING:
    from pipelines.dalle.pipeline import Dalle

GREY = 128  # what is not drawn yet, in previews


@dataclass(frozen=True)
class Text:
    """What the transformer reads of P prompts."""

    read: torch.Tensor  # (P, T) int64 tokens, or (P, T, D) hidden states
    present: torch.Tensor  # (P, T) bool, False where the prompt has ended
    context: Context | None = None  # of P rows, where the prompt is read by cross-attention

    @staticmethod
    def together(texts: Sequence["Text"]) -> "Text":
        """Join several prompts into one."""
        read = torch.cat([text.read for text in texts])
        present = torch.cat([text.present for text in texts])
        contexts = [text.context for text in texts if text.context is not None]
        if not contexts:
            return Text(read, present)
        states = torch.cat([context.states for context in contexts])
        return Text(read, present, Context(states, torch.cat([c.present for c in contexts])))


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn. Raises ValueError with the rule."""

    guidance: float
    temperature: float
    top_k: int | None
    top_p: float | None

    def __post_init__(self) -> None:
        if not math.isfinite(self.guidance):
            raise ValueError(f"guidance is {self.guidance}; it must be a finite number")
        if not 0 <= self.temperature < math.inf:
            raise ValueError(f"temperature is {self.temperature}; it must be 0 or more")
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(f"token_top_k is {self.top_k}; it must be 1 or more")
        if self.top_p is not None and not 0 <= self.top_p <= 1:
            raise ValueError(f"token_top_p is {self.top_p}; it must be from 0 to 1")

    def guided(self, logits: torch.Tensor) -> torch.Tensor:
        """Combine logits (P·N, V) of the prompt and of what it is compared with to (N, V)."""
        if self.guidance <= 1:
            return logits
        with_text, without = logits.chunk(2)
        return without + self.guidance * (with_text - without)


@dataclass(frozen=True)
class State:
    """All that a step changes, but for the cache, which follows from it.

    A candidate's ways are rows that lie side by side; without any, it is one row.
    """

    uniforms: torch.Tensor  # (N, I) float32, one for every token, and with ways one to choose by
    tokens: torch.Tensor  # (N, I) int64; those from `done` on mean nothing unless they are given
    is_given: torch.Tensor  # (N, I) bool, which tokens are not drawn
    log_likelihood: torch.Tensor  # (N,) float32, of the tokens that were drawn
    weight: torch.Tensor  # (N,) float32, log-likelihood of those given, since ways were chosen
    done: int

    @staticmethod
    def at_first_drawn(
        uniforms: torch.Tensor, tokens: torch.Tensor, is_given: torch.Tensor
    ) -> "State":
        """Return the State up to the first token that is drawn, or not the same for all."""
        missing = (~is_given | (tokens != tokens[:1])).any(dim=0).nonzero()
        first = int(missing[0]) if len(missing) else tokens.shape[1]
        nothing = uniforms.new_zeros(len(tokens))
        return State(uniforms, tokens, is_given, nothing, nothing, first)

    def rows(self, index: torch.Tensor) -> "State":
        """Return a State of some rows."""
        return replace(
            self,
            is_given=self.is_given[index],
            uniforms=self.uniforms[index],
            tokens=self.tokens[index],
            log_likelihood=self.log_likelihood[index],
            weight=self.weight[index],
        )


class DalleDraft(Draft):
    """Candidates of the DALL·E path; a step draws one image token of each.

    Tokens that are forced from the first on are there at once, so `done` begins behind them.
    """

    unit = "token"

    def __init__(
        self,
        pipeline: "Dalle",
        text: Text,
        sampling: Sampling,
        seeds: Sequence[int],
        state: State,
        start: Start | None = None,
    ) -> None:
        """Begin with a state; the tokens before its first are the same for all candidates.

        It has as many rows for each seed as there are ways: see `pipelines.dalle.ways`.
        """
        side = pipeline.dvae.config.size
        super().__init__(seeds, (side, side), pipeline.device, start)
        self._total = pipeline.transformer.config.image_length
        self._pipeline = pipeline
        self._text = text
        self._sampling = sampling
        self._start = state.done
        self._ways = len(state.tokens) // len(seeds)
        self._state: State | None = state
        self._cache: Cache
        self._first: torch.Tensor  # (P, V), the logits of the first token that is drawn
        self._prefill()

    @property
    def total(self) -> int:
        """Image tokens in all."""
        return self._total

    @property
    def done(self) -> int:
        """Image tokens so far."""
        return self._open.done

    @property
    def log_likelihoods(self) -> list[float]:  # type: ignore[override]
        """Of the tokens drawn so far, in nats, under the prompt alone.

        That is at temperature 1, without guidance, and with all tokens to choose from.
        """
        return self._shown(range(len(self.seeds))).log_likelihood.tolist()

    def _rows(self, indices: Sequence[int]) -> torch.Tensor:
        """Return the rows of all ways of some candidates."""
        index = torch.tensor(indices, device=self._open.tokens.device)
        own = torch.arange(self._ways, device=index.device)
        return (index[:, None] * self._ways + own).flatten()

    def _shown(self, indices: Sequence[int]) -> State:
        """Return the state of some candidates, a row each: one of its ways, by their weights."""
        state = self._open
        index = torch.tensor(indices, device=state.tokens.device)
        if self._ways == 1:
            return state.rows(index)
        own = state.uniforms[:: self._ways, -1]
        drawn = draw_way(state.weight.view(-1, self._ways), own)
        return state.rows(index * self._ways + drawn[index])

    @torch.inference_mode()
    def _advance(self, count: int) -> None:
        state = self._open
        if self._cache.fed > state.done:  # a call that went further was given up
            self._replay()
        for _ in range(count):
            state = self._drawn(state)
        self._state = state
        self._cache.fed = state.done - 1  # the last token is not fed yet

    def _drawn(self, state: State) -> State:
        """Return the state with one more token."""
        i = state.done
        logits = self._logits(state).float()  # (P·N, V)
        sampling, is_given = self._sampling, state.is_given[:, i]
        guided = sampling.guided(logits)
        drawn = draw_tokens(
            guided,
            state.uniforms[:, i],
            sampling.temperature,
            sampling.top_k,
            sampling.top_p,
        )
        tokens = state.tokens[:, i].where(is_given, drawn)
        likelihoods = logits[: len(tokens)].log_softmax(dim=-1).gather(1, tokens[:, None])[:, 0]
        log_likelihood = state.log_likelihood + likelihoods.masked_fill(is_given, 0)
        state.tokens[:, i] = tokens  # nobody looks there until `done` says so
        state = replace(state, log_likelihood=log_likelihood, done=i + 1)
        if self._ways == 1 or not is_given.any():
            return state
        return self._weighed(state, guided, is_given)

    def _weighed(self, state: State, guided: torch.Tensor, is_given: torch.Tensor) -> State:
        """Return the state after a last token that tells between the ways of those it was given."""
        last, temperature = state.done - 1, self._sampling.temperature
        told = (guided / temperature).log_softmax(dim=-1).gather(1, state.tokens[:, last, None])
        weight = state.weight + told[:, 0].masked_fill(~is_given, 0)
        own = state.uniforms[:: self._ways, last]  # of a given token, nothing was drawn with it
        rows, chosen = choose_ways(weight.view(-1, self._ways), own)
        if not torch.equal(rows, torch.arange(len(rows), device=rows.device)):
            self._cache.fed = self._total + 1  # if this is given up half-way, all is fed again
            self._cache.keep(rows)
        return replace(state.rows(rows), uniforms=state.uniforms, weight=chosen.flatten())

    def _logits(self, state: State) -> torch.Tensor:
        """Return the transformer's logits of the next token, (P·N, V)."""
        N, P = len(state.tokens), self._cache.prompts
        if state.done == self._start:
            return self._first.repeat_interleave(N, dim=0)
        last = state.tokens[:, state.done - 1].repeat(P)
        return advance(self._pipeline.transformer, self._cache, last, state.done - 1)

    @torch.inference_mode()
    def _prefill(self) -> None:
        """Read the prompt, and the tokens that all candidates begin with."""
        state = self._open
        given = state.tokens[:1, : self._start].expand(len(self._text.read), -1)
        transformer = self._pipeline.transformer
        self._cache, self._first = prefill(
            transformer,
            self._text.read,
            self._text.present,
            given[:, : self._total - 1],  # if all are given, there is nothing to draw
            candidates=len(state.tokens),
            context=self._text.context,
        )

    @torch.inference_mode()
    def _replay(self) -> None:
        """Bring the cache to where the state is, by feeding the tokens again."""
        state = self._open
        self._prefill()
        for i in range(self._start, state.done - 1):
            tokens = state.tokens[:, i].repeat(self._cache.prompts)
            advance(self._pipeline.transformer, self._cache, tokens, i)

    @torch.inference_mode()
    def preview(
        self, indices: Sequence[int] | None = None, exact: bool = False
    ) -> list[Image.Image | None] | None:
        """Return the tokens so far by the real decoder, the rest in grey; None before the first.

        The decoder is so cheap here that `exact` makes no difference. A candidate whose values are
        not finite is None in the list.
        """
        if self.done == 0:
            return None
        seeds = self.seeds
        if indices is None:
            indices = range(len(seeds))
        check_indices(indices, len(seeds))
        seeds, state = tuple(seeds[i] for i in indices), self._shown(indices)
        there = torch.arange(self._total, device=state.tokens.device) < state.done
        there = there | state.is_given  # (n, I)
        factor, grid = self._pipeline.dvae.config.factor, self._pipeline.dvae.config.grid
        shown = there.view(-1, grid, grid).repeat_interleave(factor, 1).repeat_interleave(factor, 2)
        decoded = self._decoded(seeds, replace(state, tokens=state.tokens * there))
        images = [
            None if p is None else to_image(p.where(whole, GREY))
            for p, whole in zip(decoded, shown, strict=True)
        ]
        return self._laid(seeds, images, exact)

    @torch.inference_mode()
    def completed(self) -> list[torch.Tensor | None]:
        """Return the images with each token that is not there yet like the one above it.

        The likeliest tokens would cost as much as finishing: one pass for each token.
        """
        state = self._shown(range(len(self.seeds)))
        if state.done == 0:
            raise RuntimeError("before the first token there is nothing to complete")
        grid = self._pipeline.dvae.config.grid
        positions = torch.arange(self._total, device=state.tokens.device)
        over = (positions - state.done).div(grid, rounding_mode="floor") + 1  # rows too far down
        nearest = positions - over.clamp(min=0) * grid
        nearest = nearest.where(nearest >= 0, state.done - 1)
        tokens = state.tokens.where(state.is_given, state.tokens[:, nearest])
        return self._decoded(self.seeds, replace(state, tokens=tokens))

    def close(self) -> None:
        """Free all memory. A closed draft can only be closed again."""
        super().close()
        self._state = None
        self.__dict__.pop("_cache", None)

    @property
    def _open(self) -> State:
        if self._state is None:
            raise RuntimeError("this draft is closed")
        return self._state

    def _cut(self, indices: Sequence[int]) -> None:
        rows, cache = self._rows(indices), copy.copy(self._cache)
        cache.keep(rows)
        self._state, self._cache = self._open.rows(rows), cache

    def _halve(self, first: Self, second: Self, middle: int) -> None:
        """Divide the cache, so that no more than one half of it is there twice."""
        halves = range(middle), range(middle, len(self.seeds))
        parts = [self._rows(half) for half in halves]
        caches = self._cache.divide(parts)
        for half, indices, part, cache in zip((first, second), halves, parts, caches, strict=True):
            half._state, half._cache = self._open.rows(part), cache
            half._forget_all_but([self.seeds[i] for i in indices])

    def _append(self, other: Self) -> None:
        for draft in (self, other):
            if draft._cache.fed > draft.done:
                draft._replay()
        first, second = self._open, other._open
        self._cache = self._cache.joined(other._cache)
        self._state = replace(
            first,
            uniforms=torch.cat([first.uniforms, second.uniforms]),
            tokens=torch.cat([first.tokens, second.tokens]),
            is_given=torch.cat([first.is_given, second.is_given]),
            log_likelihood=torch.cat([first.log_likelihood, second.log_likelihood]),
            weight=torch.cat([first.weight, second.weight]),
        )

    def _copy_rows(self, indices: Sequence[int], seeds: Sequence[int | None]) -> None:
        self._cut(indices)
        uniforms = self._open.uniforms.view(len(seeds), self._ways, -1)
        for own, seed in zip(uniforms, seeds, strict=True):
            if seed is not None:
                generator = torch.Generator().manual_seed(seed)
                own.copy_(draw_uniforms(generator, self._total, self._ways))

    @torch.inference_mode()
    def _decode(self, indices: Sequence[int]) -> list[torch.Tensor | None]:
        return self._decoded([self.seeds[i] for i in indices], self._shown(indices))

    def _decoded(self, seeds: Sequence[int], state: State) -> list[torch.Tensor | None]:
        """Return the images of a state's tokens; None for one that cannot be shown."""
        dvae = self._pipeline.dvae
        codes = state.tokens.view(-1, dvae.config.grid, dvae.config.grid)
        images = decode_codes(dvae, codes)
        finite = state.log_likelihood.isfinite().tolist()
        for i, (seed, pixels) in enumerate(zip(seeds, images, strict=True)):
            if not finite[i]:
                self.failed[seed] = "the network made values that are not finite"
                images[i] = None
            elif pixels is None:
                self.failed[seed] = "the decoder made values that are not finite"
        return images


def draw_uniforms(generator: torch.Generator, tokens: int, ways: int) -> torch.Tensor:
    """Return the uniform numbers in [0, 1) of a candidate: one for every token, (1, tokens), and
    with several ways one more for each, (ways, tokens + 1)."""
    return torch.rand(ways, tokens + (ways > 1), generator=generator)


def decode_codes(dvae: DiscreteVae | Vqgan, codes: torch.Tensor) -> list[torch.Tensor | None]:
    """Decode codes (N, h, w) to uint8 images (3, H, W); None for one that is not finite."""

    def decode_rows(rows: torch.Tensor) -> list[torch.Tensor | None]:
        decoded = dvae.decode(rows)  # (n, 3, H, W) in [0, 1]
        finite = decoded.isfinite().flatten(1).all(dim=1).tolist()
        return [p if ok else None for p, ok in zip(to_uint8(decoded), finite, strict=True)]

    return in_chunks(codes, CHUNK_PIXELS // dvae.config.size**2, decode_rows)
