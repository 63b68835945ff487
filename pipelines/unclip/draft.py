"""Candidates in progress: first as embeddings, then as images."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from PIL import Image

from pipelines.drafts import Draft, check_indices, to_image
from pipelines.unclip.stages import Stage, State

if TYPE_CHECKING:
    from pipelines.unclip.pipeline import Unclip


class UnclipDraft(Draft):
    """Candidates that go from stage to stage; a step evaluates a network once for all of them.

    While the prior draws, there is nothing to see. Then `embeddings` holds what each candidate will
    show, in CLIP's space, where it can be scored before anything is decoded.
    """

    def __init__(
        self,
        pipeline: "Unclip",
        stages: Sequence[Stage],
        size: tuple[int, int],
        seeds: Sequence[int],
        state: State,
    ) -> None:
        """Begin with the state before the first step of the first stage."""
        super().__init__(seeds, size, pipeline.device)
        self._pipeline = pipeline
        self._stages = tuple(stages)
        self._size = size
        self._state: State | None = state
        self._total = sum(len(stage.steps.times) for stage in stages)

    @property
    def total(self) -> int:
        """Network evaluations in all."""
        return self._total

    @property
    def done(self) -> int:
        """Network evaluations so far."""
        return self._open.done

    @property
    def embeddings(self) -> torch.Tensor | None:
        """What the candidates show, (N, D) in CLIP's space; None while the prior draws."""
        return self._open.embeddings

    @torch.inference_mode()
    def _advance(self, count: int) -> None:
        state = self._open.copy()
        for _ in range(count):
            stage, i = self._place(state.done)
            if i == 0:
                state = stage.begin(state)
            state = stage.step(state, i)
            if i + 1 == len(stage.steps.times):
                state = stage.finish(state)
            state = replace(state, done=state.done + 1)
        self._state = state

    def _place(self, done: int) -> tuple[Stage, int]:
        """Return the stage of the next step, and which of its steps that is."""
        for stage in self._stages:
            if done < len(stage.steps.times):
                return stage, done
            done -= len(stage.steps.times)
        raise IndexError("there are no more steps")

    @torch.inference_mode()
    def preview(
        self, indices: Sequence[int] | None = None, exact: bool = False
    ) -> list[Image.Image | None] | None:
        """Return what the candidates will look like; None before the decoder's first step."""
        clean = self._clean
        if clean is None:
            return None
        seeds = self.seeds
        if indices is not None:
            check_indices(indices, len(seeds))
            clean = clean[list(indices)]
            seeds = tuple(seeds[i] for i in indices)
        if not exact and (rough := self._pipeline.rough_images(clean, self._size)) is not None:
            return rough
        images = [None if p is None else to_image(p) for p in self._shown(seeds, clean)]
        return self._laid(seeds, images, exact)

    @torch.inference_mode()
    def completed(self) -> list[torch.Tensor | None]:
        """Return the images that the decoder predicts now."""
        clean = self._clean
        if clean is None:
            raise RuntimeError("before the decoder's first step there is nothing to complete")
        return self._shown(self.seeds, clean)

    def close(self) -> None:
        """Free all memory. A closed draft can only be closed again."""
        super().close()
        self._state = None

    @property
    def _open(self) -> State:
        if self._state is None:
            raise RuntimeError("this draft is closed")
        return self._state

    @property
    def _clean(self) -> torch.Tensor | None:
        state = self._open
        return state.latents if state.done == self.total else state.clean

    def _cut(self, indices: Sequence[int]) -> None:
        self._state = self._open.rows(indices)

    def _append(self, other: "UnclipDraft") -> None:
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
        assert latents is not None
        return self._shown([self.seeds[i] for i in indices], latents[list(indices)])

    def _shown(self, seeds: Sequence[int], latents: torch.Tensor) -> list[torch.Tensor | None]:
        """Return images of latents (n, C, h, w); None for one that is not finite."""
        images = self._pipeline.decode(latents)
        for seed, image, row in zip(seeds, images, latents, strict=True):
            if image is None:
                what = "decoder" if row.isfinite().all() else "network"
                self.failed[seed] = f"the {what} made values that are not finite"
        return images
