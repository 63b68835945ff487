"""The ways from noise on which an image comes about: its embedding, the decoding, enlarging.

Each stage begins with noise of each candidate's own, takes a step at a time, and hands over to the
next. A state is never changed: a step returns a new one.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch.nn import functional

from pipelines.denoising import (
    clone_generator,
    copy_scheduler,
    interpolate,
    join_schedulers,
    predict_clean,
    slerp,
)
from pipelines.unclip.decoders import Decoder, Texts, TokensDecoder, guide
from pipelines.unclip.prior import Drawn, Known, Prior
from pipelines.unclip.spec import STOCHASTIC
from pipelines.unclip.text import Read, embedding_of

ROWS = ("embeddings", "told", "latents", "clean", "small")  # of a state: a row per candidate
SPREAD = 0.1  # how far the noise of candidates is turned from that of the image that is changed


@dataclass(frozen=True)
class State:
    """All that steps change, with a row for each of N candidates."""

    done: int
    generators: list[torch.Generator]  # one per candidate, on the CPU on every device
    scheduler: Any  # of the stage
    drawn: Drawn | None = None  # before there are embeddings
    embeddings: torch.Tensor | None = None  # (N, D) in CLIP's space
    told: torch.Tensor | None = None  # (N, D'), embeddings as the decoder takes them
    latents: torch.Tensor | None = None  # (N, C, h, w) float32
    clean: torch.Tensor | None = None  # (N, C, h, w), predicted by the last step
    small: torch.Tensor | None = None  # (N, 3, H, W), the image that is being enlarged
    inverted: torch.Tensor | None = None  # (1, C, h, w), of the image that is changed; of no row

    def copy(self) -> "State":
        """Return a State whose scheduler and generators can move on without touching this one's."""
        return replace(
            self,
            generators=[clone_generator(g) for g in self.generators],
            scheduler=copy_scheduler(self.scheduler),
            drawn=None if self.drawn is None else self.drawn.copy(),
        )

    def rows(self, indices: Sequence[int]) -> "State":
        """Return a State of some of the candidates that shares no memory with this one."""

        def cut(tensor: torch.Tensor | None) -> torch.Tensor | None:
            return None if tensor is None else tensor[list(indices)]

        scheduler = copy_scheduler(self.scheduler)
        if self.latents is not None:
            scheduler = copy_scheduler(scheduler, torch.tensor(indices), self.latents.shape)
        cut_rows: dict[str, Any] = {name: cut(getattr(self, name)) for name in ROWS}
        return replace(
            self,
            generators=[clone_generator(self.generators[i]) for i in indices],
            scheduler=scheduler,
            drawn=None if self.drawn is None else self.drawn.rows(indices),
            **cut_rows,
        )

    def joined(self, other: "State") -> "State":
        """Return a State of the candidates of both, which are equally far."""

        def both(a: torch.Tensor | None, b: torch.Tensor | None) -> torch.Tensor | None:
            return None if a is None or b is None else torch.cat([a, b])

        scheduler = copy_scheduler(self.scheduler)
        if self.latents is not None:
            scheduler = join_schedulers(scheduler, other.scheduler, self.latents.shape)
        drawn, beside = self.drawn, other.drawn
        rows: dict[str, Any] = {n: both(getattr(self, n), getattr(other, n)) for n in ROWS}
        return replace(
            self,
            generators=self.generators + other.generators,
            scheduler=scheduler,
            drawn=None if drawn is None or beside is None else drawn.joined(beside),
            **rows,
        )


class Steps:
    """The timesteps of a stage, and the step of its scheduler."""

    def __init__(self, scheduler: Any, device: torch.device) -> None:
        self.scheduler = scheduler  # set to its timesteps, untouched
        self.device = device
        self.times = scheduler.timesteps  # on the CPU, for the scheduler

    def back(self) -> "Steps":
        """Return the steps from an image to its noise, which are one fewer."""
        steps = Steps(self.scheduler, self.device)
        steps.times = self.times.flip(0)[:-1]
        return steps

    @cached_property
    def alpha_bars(self) -> list[float]:
        """ᾱ at each step."""
        return interpolate(self.scheduler.alphas_cumprod, self.times)

    def take(self, state: State, i: int, output: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """Return x after step i of a state's scheduler, which changes; x is (R, …)."""
        kind, named = type(state.scheduler).__name__, dict[str, Any]()
        if kind in STOCHASTIC:
            drawn = state.drawn
            own = state.generators
            named["generator"] = own if drawn is None else drawn.generators(own)
        if kind == "UnCLIPScheduler":
            named["prev_timestep"] = self.times[i + 1] if i + 1 < len(self.times) else None
        stepped = state.scheduler.step(output, self.times[i], x, return_dict=False, **named)
        return stepped[0]


@dataclass(frozen=True)
class PriorStage:
    """Embeddings are drawn, and each candidate gets one of them."""

    prior: Prior
    text: Read
    negative: Read
    guidance: float
    steps: Steps

    @cached_property
    def known(self) -> Known:
        """What the prior knows of the texts."""
        guided = self.guidance > 1
        return self.prior.read([self.negative, self.text] if guided else [self.text])

    def begin(self, state: State) -> State:
        """Return the state as it is: its embeddings are noise already."""
        return state

    def step(self, state: State, i: int) -> State:
        """Return the state one step on."""
        drawn = state.drawn
        assert drawn is not None
        x_t = drawn.x.flatten(0, 1)  # (R, D)
        read = state.scheduler.scale_model_input(x_t, self.steps.times[i])
        t = self.steps.times[i].to(self.steps.device)
        output = self.prior.predict(read, t, self.known, self.guidance)
        x = self.steps.take(state, i, output, x_t).view(drawn.x.shape)
        return replace(state, drawn=replace(drawn, x=x))

    def finish(self, state: State) -> State:
        """Return the state with an embedding for each candidate."""
        drawn = state.drawn
        assert drawn is not None
        embeddings = self.prior.embeddings(drawn.x.flatten(0, 1)).float()
        chosen = drawn.chosen(embeddings, embedding_of(self.text))
        return replace(state, drawn=None, embeddings=chosen)


@dataclass(frozen=True)
class InversionStage:
    """An image is led back to the noise that it comes from, so that what is not changed stays.

    DDIM's steps, taken backwards, without guidance (Song et al., arXiv 2010.02502; Dhariwal and
    Nichol, arXiv 2105.05233, appendix F). One row, which all candidates begin with.
    """

    decoding: "DecoderStage"  # of the image's own embedding, without guidance
    embedding: torch.Tensor  # (1, D), that of the image
    latents: torch.Tensor  # (1, C, h, w), of the image
    steps: Steps

    def begin(self, state: State) -> State:
        """Return the state with the image itself."""
        return replace(state, inverted=self.latents)

    def step(self, state: State, i: int) -> State:
        """Return the state one step nearer to noise."""
        decoding, x = self.decoding, state.inverted
        assert x is not None
        later = decoding.steps
        place = len(later.times) - 1 - i  # of the decoder's step that is undone next
        told = decoding.decoder.prepare(self.embedding, [torch.Generator().manual_seed(0)])
        output = decoding.predict(x, later.times[place].to(later.device), told)
        kind = later.scheduler.config.prediction_type
        alpha_bar, following = later.alpha_bars[place], later.alpha_bars[place - 1]
        clean = predict_clean(x, output[:, : decoding.shape[0]], alpha_bar, kind)
        noise = (x - math.sqrt(alpha_bar) * clean) / math.sqrt(1 - alpha_bar)
        x = math.sqrt(following) * clean + math.sqrt(1 - following) * noise
        return replace(state, inverted=x)

    def finish(self, state: State) -> State:
        """Return the state as it is."""
        return state


@dataclass(frozen=True)
class DecoderStage:
    """The UNet draws what the embeddings say: latents, or a small image itself."""

    unet: Any
    decoder: Decoder
    texts: Texts | None  # None where the UNet reads none
    guidance: float
    image_guidance: float | None  # None guides by the prompt and the embedding together
    shape: tuple[int, int, int]  # C, h, w
    steps: Steps
    small: bool  # whether an image comes of it that is enlarged next

    def begin(self, state: State) -> State:
        """Return the state with noise, and what the decoder is told."""
        assert state.embeddings is not None
        told = self.decoder.prepare(state.embeddings, state.generators)
        noise = draw_noise(state.generators, self.shape).to(self.steps.device)
        if state.inverted is not None:
            noise = torch.cat([slerp(state.inverted, row[None], SPREAD) for row in noise])
        scheduler = copy_scheduler(self.steps.scheduler)
        latents = noise * scheduler.init_noise_sigma
        return replace(state, told=told, latents=latents, scheduler=scheduler)

    def step(self, state: State, i: int) -> State:
        """Return the state one step on."""
        assert state.latents is not None
        assert state.told is not None
        scheduler, config = state.scheduler, state.scheduler.config
        x_t = scheduler.scale_model_input(state.latents, self.steps.times[i])
        output = self.predict(x_t, self.steps.times[i].to(self.steps.device), state.told)
        if config.get("variance_type") not in ("learned", "learned_range"):
            output = output[:, : self.shape[0]]
        clean = predict_clean(
            x_t, output[:, : self.shape[0]], self.steps.alpha_bars[i], config.prediction_type
        )
        latents = self.steps.take(state, i, output, state.latents)
        return replace(state, latents=latents, clean=clean)

    def predict(self, x_t: torch.Tensor, t: torch.Tensor, told: torch.Tensor) -> torch.Tensor:
        """Return the UNet's output (N, C', h, w) in float32, guided."""
        guided = self.guidance > 1
        if guided and self.image_guidance is not None:
            return self._predict_apart(x_t, t, told)
        inputs = self.decoder.inputs(told, self.texts, guided=guided)
        read = torch.cat([x_t, x_t]) if guided else x_t
        output = self.unet(read.to(self.unet.dtype), t, **inputs, return_dict=False)[0].float()
        return guide(output, self.shape[0], self.guidance) if guided else output

    def _predict_apart(
        self, x_t: torch.Tensor, t: torch.Tensor, told: torch.Tensor
    ) -> torch.Tensor:
        """Guide by the prompt, and further by the embedding beside it, each as strongly as asked.

        As Brooks et al. (arXiv 2211.09800, §3.2.1) do with an image and a text.
        """
        assert isinstance(self.decoder, TokensDecoder)
        assert self.texts is not None
        assert self.image_guidance is not None
        inputs = self.decoder.inputs_apart(told, self.texts)
        read = torch.cat([x_t] * 3).to(self.unet.dtype)
        output = self.unet(read, t, **inputs, return_dict=False)[0].float()
        without, with_text, with_both = output.chunk(3)
        by_text = without + self.guidance * (with_text - without)
        return by_text + self.image_guidance * (with_both - with_text)

    def finish(self, state: State) -> State:
        """Return the state as it is, or with what is enlarged."""
        assert state.latents is not None
        if not self.small:
            return state
        return replace(state, small=state.latents.clamp(-1, 1))


@dataclass(frozen=True)
class SuperResStage:
    """Karlo's enlarging: a UNet draws beside the small image; another one takes the last step."""

    first: Any
    last: Any
    shape: tuple[int, int, int]  # 3, H, W
    steps: Steps

    def begin(self, state: State) -> State:
        """Return the state with noise, and the small image stretched."""
        assert state.small is not None
        small = functional.interpolate(
            state.small, size=self.shape[1:], mode="bicubic", align_corners=False, antialias=True
        )
        noise = draw_noise(state.generators, self.shape).to(self.steps.device)
        scheduler = copy_scheduler(self.steps.scheduler)
        latents = noise * scheduler.init_noise_sigma
        return replace(state, small=small, latents=latents, scheduler=scheduler)

    def step(self, state: State, i: int) -> State:
        """Return the state one step on."""
        assert state.latents is not None
        assert state.small is not None
        unet = self.last if i + 1 == len(self.steps.times) else self.first
        t = self.steps.times[i].to(self.steps.device)
        read = torch.cat([state.latents, state.small], dim=1).to(unet.dtype)
        output = unet(read, t, return_dict=False)[0].float()
        noise = output[:, : self.shape[0]]
        kind = state.scheduler.config.prediction_type
        clean = predict_clean(state.latents, noise, self.steps.alpha_bars[i], kind)
        latents = self.steps.take(state, i, output, state.latents)
        return replace(state, latents=latents, clean=clean)

    def finish(self, state: State) -> State:
        """Return the state as it is."""
        return state


Stage = PriorStage | InversionStage | DecoderStage | SuperResStage


def make_steps(
    config: Mapping[str, Any], steps: int, device: torch.device, kind: str | None = None
) -> Steps:
    """Return the steps of a scheduler_config.json, or of another `kind` of its numbers.

    Raises ValueError for too few.
    """
    import diffusers

    name = str(config["_class_name"]) if kind is None else kind
    if name == "UnCLIPScheduler" and steps < 2:
        raise ValueError(f"steps is {steps}; this model's scheduler takes 2 or more")
    scheduler = getattr(diffusers, name).from_config(dict(config))
    scheduler.set_timesteps(steps)  # on the CPU: schedulers index tables there without a sync
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(0)  # else the first step searches for its index
    return Steps(scheduler, device)


def draw_noise(generators: Sequence[torch.Generator], shape: Sequence[int]) -> torch.Tensor:
    """Return noise (N, …), each row by its own generator."""
    return torch.cat([torch.randn(1, *shape, generator=g) for g in generators])
