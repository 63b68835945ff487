"""Candidates of latent diffusion in progress, and the arithmetic of a step."""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Self

import torch
from PIL import Image

from pipelines import decoding
from pipelines.denoising import (
    clone_generator,
    copy_scheduler,
    interpolate,
    join_schedulers,
    predict_clean,
)
from pipelines.diffusion.editing import Given, undecided
from pipelines.diffusion.text import Encoding
from pipelines.drafts import Draft, check_indices, to_image
from pipelines.editing import Start

if TYPE_CHECKING:
    from pipelines.diffusion.pipeline import LatentDiffusion

FLAGGED = "the model's own safety checker flagged it; without --safety it is shown"


@dataclass(frozen=True)
class Condition:
    """What all candidates are told at a step. One row: dropping some changes nothing."""

    texts: tuple[Encoding, ...]  # one, or those that AND joins
    weights: tuple[float, ...]  # how strongly each text is followed
    negative: Encoding | None  # None draws without comparing
    guidance: float
    embedding: torch.Tensor | None  # (1, K), for a UNet that was distilled to take guidance so
    sizes: torch.Tensor | None  # (1, 6), for a UNet conditioned on sizes and crops

    def predict(self, unet: Any, x_t: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """Return the UNet's output (B, C, h, w) in float32, guided (Ho and Salimans, arXiv
        2207.12598); by several texts as in Liu et al. (arXiv 2206.01714), and by their weighted
        mean where nothing is compared."""
        B, M = len(x_t), len(self.texts)
        encodings = [text for text in self.texts for _ in range(B)]
        if self.negative is None:
            told = self.evaluate(unet, torch.cat([x_t] * M), t, encodings).chunk(M)
            return told[0] if M == 1 else self._sum(told) / sum(self.weights)
        rows = torch.cat([x_t] * (M + 1))
        without, *each = self.evaluate(unet, rows, t, [self.negative] * B + encodings).chunk(M + 1)
        return without + self.guidance * self._sum([with_text - without for with_text in each])

    def _sum(self, rows: Sequence[torch.Tensor]) -> torch.Tensor:
        weighted = [weight * each for weight, each in zip(self.weights, rows, strict=True)]
        return torch.stack(weighted).sum(dim=0) if len(weighted) > 1 else weighted[0]

    def evaluate(
        self, unet: Any, x_t: torch.Tensor, t: torch.Tensor, encodings: list[Encoding]
    ) -> torch.Tensor:
        """Run the UNet on rows that each have an encoding."""
        B, dtype = len(x_t), self.texts[0].hidden.dtype  # asking the UNet walks all its parameters
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


@dataclass(frozen=True)
class State:
    """All that a step changes. Steps work on a copy, which replaces it when they are through."""

    latents: torch.Tensor  # (N, C, h, w) float32, at the scheduler's scale
    clean: torch.Tensor | None  # (N, C, h, w), the clean latents that were predicted last
    generators: list[torch.Generator]  # one per candidate, on the CPU on every device
    scheduler: Any
    done: int
    given: Given | None = None  # what an edit holds fixed

    def copy(self) -> "State":
        """Return a State whose scheduler and generators can move on without touching this one's."""
        return replace(
            self,
            generators=[clone_generator(g) for g in self.generators],
            scheduler=copy_scheduler(self.scheduler),
        )

    def rows(self, indices: Sequence[int]) -> "State":
        """Return a State of some of the candidates that shares no memory with this one."""
        index = torch.tensor(indices, device=self.latents.device)
        return replace(
            self,
            latents=self.latents[index],
            clean=None if self.clean is None else self.clean[index],
            generators=[clone_generator(self.generators[i]) for i in indices],
            scheduler=copy_scheduler(self.scheduler, index, self.latents.shape),
            given=None if self.given is None else self.given.rows(index),
        )

    def joined(self, other: "State") -> "State":
        """Return a State of the candidates of both, which are equally far."""
        first, second = self.clean, other.clean
        given, beside = self.given, other.given
        return replace(
            self,
            latents=torch.cat([self.latents, other.latents]),
            clean=None if first is None or second is None else torch.cat([first, second]),
            generators=self.generators + other.generators,
            scheduler=join_schedulers(self.scheduler, other.scheduler, self.latents.shape),
            given=None if given is None or beside is None else given.joined(beside),
        )


class Pass:
    """A way from noise to images, or the end of one: its timesteps and what the UNet is told."""

    def __init__(
        self,
        conditions: Sequence[Condition],
        size: tuple[int, int],
        scheduler: Any,
        first: int,
        begin: Callable[[State, Sequence[int]], State] | None = None,
        resampling: int = 1,
    ) -> None:
        """Keep the timesteps of a scheduler from the `first` on, and a condition for each step.

        `begin` makes the state of this pass of the one before it, and the seeds. Noisy steps are
        taken `resampling` times.
        """
        self.conditions = conditions
        self.size = size
        self.begin = begin
        times = scheduler.timesteps[first:]  # on the CPU, for the scheduler
        alpha_bars = interpolate(scheduler.alphas_cumprod, times)
        goes = [  # but one for the second half of a step
            resampling if i % scheduler.order == 0 and undecided(alpha_bar) else 1
            for i, alpha_bar in enumerate(alpha_bars)
        ]
        # The step that each evaluation of the network is for.
        self.steps = [i for i, count in enumerate(goes) for _ in range(count)]
        self.times, self.alpha_bars = times[self.steps], [alpha_bars[i] for i in self.steps]

    def comes_again(self, i: int) -> bool:
        """Return whether the evaluation after this one is for the same step."""
        return self.steps[i : i + 2] == [self.steps[i]] * 2


class DiffusionDraft(Draft):
    """Candidates of latent diffusion; a step evaluates the UNet once for all of them."""

    def __init__(
        self,
        pipeline: "LatentDiffusion",
        passes: Sequence[Pass],
        stochastic: bool,
        seeds: Sequence[int],
        state: State,
        start: Start | None = None,
    ) -> None:
        """Begin with the state of the first pass; each next one begins where the last has ended."""
        super().__init__(seeds, passes[-1].size, pipeline.device, start)
        self._pipeline = pipeline
        self._passes = passes
        self._stochastic = stochastic
        self._state: State | None = state
        self._ends = list(itertools.accumulate(len(each.times) for each in passes))
        self._total = self._ends[-1]

    @property
    def total(self) -> int:
        """Network evaluations in all."""
        return self._total

    @property
    def done(self) -> int:
        """Network evaluations so far."""
        return self._open.done

    @torch.inference_mode()
    def _advance(self, count: int) -> None:
        state = self._open.copy()
        end = state.done + count
        for one, last in zip(self._passes, self._ends, strict=True):
            if state.done < min(end, last):
                state = self._along(one, state, last - len(one.times), min(end, last))
        self._state = state

    def _along(self, one: Pass, state: State, before: int, end: int) -> State:
        """Return the state after `end` steps of all, within a pass that begins `before` them."""
        if one.begin is not None and state.done == before:
            state = one.begin(state, self.seeds)
        scheduler, latents, clean = state.scheduler, state.latents, state.clean
        noise = {"generator": state.generators} if self._stochastic else {}
        prediction_type, given = scheduler.config.prediction_type, state.given
        timesteps = one.times.to(latents.device)
        for i in range(state.done - before, end - before):
            t = one.times[i]
            x_t = scheduler.scale_model_input(latents, t)
            step = min(one.steps[i] // scheduler.order, len(one.conditions) - 1)
            predict = partial(one.conditions[step].predict, self._pipeline.unet, t=timesteps[i])
            if given is not None:
                predict = partial(given.predict, predict, one.alpha_bars[i], prediction_type)
            output = predict(x_t)
            clean = predict_clean(x_t, output, one.alpha_bars[i], prediction_type)
            if given is not None and one.comes_again(i):
                latents = given.renew(clean, scheduler, one.times[i : i + 1], state.generators)
                continue
            latents = scheduler.step(output, t, latents, return_dict=False, **noise)[0]
            if given is not None:
                latents = given.keep(latents, scheduler, one.times[i + 1 : i + 2])
        return replace(state, latents=latents, clean=clean, done=end)

    @property
    def _shown(self) -> torch.Tensor | None:
        """Latents (N, C, h, w) of what the images are by now: those that a pass has finished, or
        those that were predicted last; None before the first step."""
        state = self._open
        return state.latents if state.done in self._ends else state.clean

    @torch.inference_mode()
    def preview(
        self, indices: Sequence[int] | None = None, exact: bool = False
    ) -> list[Image.Image | None] | None:
        """Return what the candidates will look like; None before the first step.

        A linear map of the predicted clean latents, which is too rough to be checked for safety,
        or with `exact` their images by the real decoder. A candidate whose values are not finite,
        or whose exact preview is flagged, is None in the list.
        """
        clean = self._shown
        if clean is None:
            return None
        seeds = self.seeds
        if indices is not None:
            check_indices(indices, len(seeds))
            clean = clean[torch.tensor(indices, device=clean.device)]
            seeds = tuple(seeds[i] for i in indices)
        if not exact:
            images = self._pipeline.latent_rgb.images(clean, self._passes[-1].size)
        else:
            decoded = self._checked(seeds, clean)
            images = [None if p is None else to_image(p) for p in decoded]
        return self._laid(seeds, images, exact)

    @torch.inference_mode()
    def completed(self) -> list[torch.Tensor | None]:
        """Return the images that the network predicts now, by the real decoder."""
        clean = self._shown
        if clean is None:
            raise RuntimeError("before the first step there is nothing to complete")
        return self._checked(self.seeds, clean)

    def close(self) -> None:
        """Free all memory. A closed draft can only be closed again."""
        super().close()
        self._state = None

    @property
    def _open(self) -> State:
        if self._state is None:
            raise RuntimeError("this draft is closed")
        return self._state

    def _cut(self, indices: Sequence[int]) -> None:
        self._state = self._open.rows(indices)

    def _append(self, other: Self) -> None:
        self._state = self._open.joined(other._open)

    def _copy_rows(self, indices: Sequence[int], seeds: Sequence[int | None]) -> None:
        state = self._open.rows(indices)
        generators = [
            old if seed is None else torch.Generator().manual_seed(seed)
            for old, seed in zip(state.generators, seeds, strict=True)
        ]
        self._state = replace(state, generators=generators)

    @torch.inference_mode()
    def _decode(self, indices: Sequence[int]) -> list[torch.Tensor | None]:
        latents = self._open.latents
        rows = latents[torch.tensor(indices, device=latents.device)]
        return self._checked([self.seeds[i] for i in indices], rows)

    def _checked(self, seeds: Sequence[int], latents: torch.Tensor) -> list[torch.Tensor | None]:
        """Decode latents (n, C, h, w) to images; None for one that cannot or must not be shown.

        The reason is then in `failed`. All images of the real decoder leave a draft through here.
        """
        checker = self._pipeline.checker
        images = decoding.decode(self._pipeline.vae, latents)
        for i, (seed, image) in enumerate(zip(seeds, images, strict=True)):
            if image is None and latents[i].isfinite().all():
                self.failed[seed] = "the decoder made values that are not finite, in float32 too"
            elif image is None:
                self.failed[seed] = "the network made values that are not finite"
            elif checker is not None and checker.flags([image]) == [True]:
                self.failed[seed] = FLAGGED
                images[i] = None
        return images


def guidance_embedding(w: float, size: int) -> torch.Tensor:
    """Embed guidance as a vector (1, size) for a distilled UNet (Luo et al., arXiv 2310.04378)."""
    half = size // 2
    frequencies = torch.exp(torch.arange(half) * (-math.log(10000) / (half - 1)))
    angles = 1000 * w * frequencies
    embedding = torch.cat([angles.sin(), angles.cos()])
    return torch.nn.functional.pad(embedding, (0, size % 2))[None]
