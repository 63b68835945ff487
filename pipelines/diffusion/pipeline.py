"""Latent diffusion: a prompt becomes candidates, drafted together and step by step.

    pipeline = LatentDiffusion.from_pretrained("stickers")
    with pipeline.begin("a panda", seeds=[7, 8, 9, 10]) as draft:
        while draft.done < draft.total:
            draft.step()
        pictures = draft.images()

Rombach et al., High-Resolution Image Synthesis with Latent Diffusion Models (arXiv 2112.10752).
"""

import copy
import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from PIL import Image

from pipelines import families
from pipelines.checkpoints import specs
from pipelines.checkpoints.errors import WeightsError
from pipelines.checkpoints.loading import Progress, tell_nobody
from pipelines.checkpoints.specs import NONE_ADDED, Additions, Spec
from pipelines.diffusion import decoding
from pipelines.diffusion.adapters import add
from pipelines.diffusion.networks import Networks, load_networks
from pipelines.diffusion.prompt_weights import SYNTAXES
from pipelines.diffusion.safety import SafetyChecker
from pipelines.diffusion.samplers import SAMPLERS, check_sampler, make_scheduler
from pipelines.diffusion.text import Encoding, Text
from pipelines.drafts import check_indices, check_seeds
from pipelines.runtime.devices import choose_device, choose_dtype, compile_networks, set_attention
from pipelines.runtime.offloading import check_offload, offload_networks

FLAGGED = "the model's own safety checker flagged it; without --safety it is shown"


class LatentDiffusion:
    """Text encoders, a UNet and a VAE that turn prompts into pictures.

    `device`, `dtype` and `attention` say what really runs; `spec` holds the defaults of every
    setting.
    """

    def __init__(
        self,
        spec: Spec,
        networks: Networks,
        device: torch.device,
        dtype: torch.dtype,
        attention: str,
        checker: SafetyChecker | None = None,
    ) -> None:
        self.spec = spec
        self.device = device
        self.dtype = dtype
        self.attention = attention
        self.checker = checker
        self.unet = networks.unet
        self.vae = networks.vae
        self.scheduler_config = networks.scheduler
        self.takes_sizes = networks.unet.config.addition_embed_type == "text_time"
        self.text = Text(
            networks.readers,
            spec.context,
            device,
            pooled=self.takes_sizes,
            long=spec.long_prompts,
            words=networks.words,
        )
        self.zeros_for_no_negative = networks.zeros_for_no_negative
        self._latent_rgb: decoding.LatentRgb | None = None

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype | None = None,
        attention: str | None = None,
        safety: bool = False,
        additions: Additions = NONE_ADDED,
        *,
        offload: str | None = None,
        vae_tiling: bool = False,
        compiled: bool = False,
        progress: Progress = tell_nobody,
    ) -> "LatentDiffusion":
        """Load a known model by name, or Stable Diffusion 1.x, 2.x or XL from where it is.

        That is a diffusers folder, or a single safetensors file in the original layout.

        `device` None is the best there is, `dtype` None half precision on CUDA and float32
        elsewhere, `attention` one of auto, xformers, sdpa. With `safety` a picture that the
        folder's own safety checker flags has failed; else the checker is not loaded. `additions`
        are LoRA files, another VAE, and words learned by textual inversion.

        `offload` keeps what is not running off the GPU, one of none, model, sequential; with
        `vae_tiling` large pictures are decoded in tiles, which takes less memory and may change
        their tones a little; `compiled` spends minutes of the first picture on faster ones.
        `progress` is told how many bytes of how many are loaded.

        Raises WeightsError for weights that are incomplete, damaged or do not fit together, or
        without a checker that was asked for, and ValueError for a device, dtype, attention or
        offload that there is not.
        """
        spec = replace(families.find(str(folder)), additions=additions)
        if spec.kind != "latent_diffusion":
            raise WeightsError(
                f"{spec.folder} holds no latent_diffusion model, but a {spec.kind} model"
            )
        specs.warn_of_licence(spec)
        chosen_device = choose_device(device)
        chosen_dtype = choose_dtype(chosen_device, dtype)
        if compiled and offload == "sequential":
            raise ValueError("offload 'sequential' moves every layer, so nothing can be compiled")
        offload = check_offload(offload, chosen_device)
        checker = SafetyChecker.from_pretrained(spec.folder, chosen_device) if safety else None
        stays = chosen_device if offload == "none" else torch.device("cpu")
        networks = add(additions, load_networks(spec, stays, chosen_dtype, progress), stays)
        ran = set_attention([networks.unet, networks.vae], attention, chosen_device, chosen_dtype)
        if offload != "none":
            offload_networks(networks.all, offload, chosen_device)
        if vae_tiling:
            networks.vae.enable_tiling()
        if compiled:
            compile_networks([networks.unet, networks.vae.decoder], chosen_device)
        return cls(spec, networks, chosen_device, chosen_dtype, ran, checker)

    def begin(
        self,
        prompt: str,
        negative_prompt: str | None = None,
        *,
        seeds: Sequence[int],
        width: int | None = None,
        height: int | None = None,
        steps: int | None = None,
        guidance: float | None = None,
        sampler: str | None = None,
        schedule: str | None = None,
        clip_skip: int | None = None,
        prompt_syntax: str | None = None,
    ) -> "Draft":
        """Start one candidate per seed. What is None is the model's default in `spec.defaults`.

        A guidance of at most 1 follows the prompt without comparing it with `negative_prompt`.
        `clip_skip` 1 listens to the layer of the text encoders that the model was trained with, 2
        to the one before that, and so on. `prompt_syntax` "a1111", the default, reads brackets as
        weights (pipelines/diffusion/prompt_weights.py), "plain" as any other signs.
        Raises ValueError with the rule for a value that cannot be.
        """
        defaults = self.spec.defaults
        width = defaults["width"] if width is None else width
        height = defaults["height"] if height is None else height
        steps = defaults["steps"] if steps is None else steps
        guidance = defaults["guidance"] if guidance is None else guidance
        sampler = defaults["sampler"] if sampler is None else sampler
        schedule = defaults["schedule"] if schedule is None else schedule
        clip_skip = 1 if clip_skip is None else clip_skip
        self._check(seeds, width, height, guidance)
        self.text.check_clip_skip(clip_skip)
        syntax = SYNTAXES[0] if prompt_syntax is None else prompt_syntax
        if syntax not in SYNTAXES:
            raise ValueError(f"no prompt_syntax {syntax!r}; choose from {', '.join(SYNTAXES)}")
        check_sampler(sampler, schedule, steps)

        scheduler = make_scheduler(sampler, schedule, self.scheduler_config)
        scheduler.set_timesteps(steps)  # on the CPU: schedulers index tables there without a sync
        if hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(0)  # else the first step searches for its index
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        factor = 2 ** (len(self.vae.config.block_out_channels) - 1)
        shape = (1, self.unet.config.in_channels, height // factor, width // factor)
        noise = torch.cat([torch.randn(shape, generator=g) for g in generators])
        latents = noise.to(self.device) * scheduler.init_noise_sigma
        return Draft(
            pipeline=self,
            condition=self._condition(
                prompt, negative_prompt, guidance, (width, height), clip_skip, syntax
            ),
            size=(width, height),
            stochastic=SAMPLERS[sampler].stochastic,
            state=State(tuple(seeds), latents, None, generators, scheduler, 0),
        )

    def __call__(
        self,
        prompt: str,
        negative_prompt: str | None = None,
        *,
        seeds: Sequence[int],
        width: int | None = None,
        height: int | None = None,
        steps: int | None = None,
        guidance: float | None = None,
        sampler: str | None = None,
        schedule: str | None = None,
        clip_skip: int | None = None,
        prompt_syntax: str | None = None,
    ) -> list[Image.Image | None]:
        """One picture per seed; None where there is none to show. See `begin`."""
        with self.begin(
            prompt,
            negative_prompt,
            seeds=seeds,
            width=width,
            height=height,
            steps=steps,
            guidance=guidance,
            sampler=sampler,
            schedule=schedule,
            clip_skip=clip_skip,
            prompt_syntax=prompt_syntax,
        ) as draft:
            draft.step(draft.total)
            return draft.images()

    def token_count(self, prompt: str) -> int:
        """How many tokens a prompt has, with the two that begin and end it, before any cut."""
        return self.text.token_count(prompt)

    def dropped_text(self, prompt: str) -> str:
        """The end of a prompt that is beyond the context and is not read; "" if all of it is."""
        return self.text.dropped(prompt)

    @property
    def latent_rgb(self) -> decoding.LatentRgb:
        """The linear map of previews: stored with the VAE, else fitted when first needed."""
        if self._latent_rgb is None:
            own, channels = self.spec.folder / "vae", self.vae.config.latent_channels
            replaced = self.spec.additions.vae is not None
            stored = None if replaced else decoding.read_latent_rgb(own, channels)
            fitted = decoding.fit_latent_rgb(self.vae, self.device) if stored is None else stored
            self._latent_rgb = fitted
        return self._latent_rgb

    def _condition(
        self,
        prompt: str,
        negative_prompt: str | None,
        guidance: float,
        size: tuple[int, int],
        clip_skip: int,
        syntax: str,
    ) -> "Condition":
        text = self.text.encode(prompt, clip_skip, syntax)
        negative = embedding = sizes = None
        if self.takes_sizes:
            width, height = size  # as if cut from a picture of just this size
            sizes = torch.tensor([[height, width, 0, 0, height, width]], device=self.device)
        embedded = self.unet.config.time_cond_proj_dim
        if embedded is not None:
            embedding = guidance_embedding(guidance - 1, embedded).to(self.device, self.dtype)
        elif guidance > 1 and negative_prompt is None and self.zeros_for_no_negative:
            negative = text.zeros()
        elif guidance > 1:
            said = "" if negative_prompt is None else negative_prompt
            negative = self.text.encode(said, clip_skip, syntax)
            length = max(text.hidden.shape[1], negative.hidden.shape[1])
            text = self.text.stretched(text, length, clip_skip)
            negative = self.text.stretched(negative, length, clip_skip)
        return Condition(text, negative, guidance, embedding, sizes)

    def _check(self, seeds: Sequence[int], width: int, height: int, guidance: float) -> None:
        check_seeds(seeds)
        if not math.isfinite(guidance):
            raise ValueError(f"guidance is {guidance}; it must be a finite number")
        multiple, largest = self.spec.size_multiple, self.spec.max_size
        for name, pixels in (("width", width), ("height", height)):
            if not multiple <= pixels <= largest or pixels % multiple:
                raise ValueError(
                    f"{name} is {pixels}; it must be a multiple of {multiple}, "
                    f"from {multiple} to {largest}"
                )


@dataclass(frozen=True)
class Condition:
    """What all candidates are drawn after. One row, so dropping candidates changes nothing."""

    text: Encoding
    negative: Encoding | None  # None draws without comparing
    guidance: float
    embedding: torch.Tensor | None  # (1, K), for a UNet that was distilled to take guidance so
    sizes: torch.Tensor | None  # (1, 6), for a UNet that is told what its picture was cut from

    def predict(self, unet: Any, x_t: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """The UNet's output (B, C, h, w) in float32, guided (Ho and Salimans, arXiv 2207.12598)."""
        B = len(x_t)
        if self.negative is None:
            return self._evaluate(unet, x_t, t, [self.text] * B)
        encodings = [self.negative] * B + [self.text] * B
        without, with_text = self._evaluate(unet, torch.cat([x_t, x_t]), t, encodings).chunk(2)
        return without + self.guidance * (with_text - without)

    def _evaluate(
        self, unet: Any, x_t: torch.Tensor, t: torch.Tensor, encodings: list[Encoding]
    ) -> torch.Tensor:
        """The UNet's output for rows that each have an encoding."""
        B, dtype = len(x_t), self.text.hidden.dtype  # asking the UNet walks all its parameters
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

    seeds: tuple[int, ...]
    latents: torch.Tensor  # (N, C, h, w) float32, at the scheduler's scale
    clean: torch.Tensor | None  # (N, C, h, w), the clean latents that were predicted last
    generators: list[torch.Generator]  # one per candidate, on the CPU on every device
    scheduler: Any
    done: int

    def copy(self) -> "State":
        """A State whose scheduler and generators can move on without touching this one's."""
        return replace(
            self,
            generators=[clone_generator(g) for g in self.generators],
            scheduler=copy_scheduler(self.scheduler),
        )

    def rows(self, indices: Sequence[int]) -> "State":
        """A State of some of the candidates, that shares no memory with this one."""
        index = torch.tensor(indices, device=self.latents.device)
        return replace(
            self,
            seeds=tuple(self.seeds[i] for i in indices),
            latents=self.latents[index],
            clean=None if self.clean is None else self.clean[index],
            generators=[clone_generator(self.generators[i]) for i in indices],
            scheduler=copy_scheduler(self.scheduler, index, self.latents.shape),
        )


class Draft:
    """Candidates in the making, as one batch.

    `seeds` are the candidates still in; every list follows their order. `failed` says, by seed,
    why `images()`, or an exact preview since the last step, has no picture. A Draft owns its
    scheduler and its noise, so Drafts of one pipeline may take turns.
    """

    log_likelihoods: list[float] | None = None  # no tokens, so nothing to tell

    def __init__(
        self,
        pipeline: LatentDiffusion,
        condition: Condition,
        size: tuple[int, int],
        stochastic: bool,
        state: State,
    ) -> None:
        self.failed: dict[int, str] = {}
        self._pipeline = pipeline
        self._condition = condition
        self._size = size
        self._stochastic = stochastic
        self._state: State | None = state
        self._pictures: dict[int, torch.Tensor] = {}  # seed → uint8 (3, H, W)
        timesteps = state.scheduler.timesteps
        self._timesteps = timesteps.to(pipeline.device)
        self._alpha_bars = interpolate(state.scheduler.alphas_cumprod, timesteps)
        self.total = len(timesteps)

    @property
    def seeds(self) -> tuple[int, ...]:
        return self._open.seeds

    @property
    def done(self) -> int:
        """Network evaluations so far, of `total`."""
        return self._open.done

    @torch.inference_mode()
    def step(self, count: int = 1) -> None:
        """Evaluate the network `count` times, or fewer if the draft is done before that.

        If it raises (memory, Ctrl-C), the draft is as it was before the call, noise included.
        """
        if count < 1:
            raise ValueError(f"count is {count}; it must be at least 1")
        state = self._open.copy()
        scheduler, latents, clean = state.scheduler, state.latents, state.clean
        noise = {"generator": state.generators} if self._stochastic else {}
        prediction_type = scheduler.config.prediction_type
        end = min(state.done + count, self.total)
        for i in range(state.done, end):
            t = scheduler.timesteps[i]
            x_t = scheduler.scale_model_input(latents, t)
            output = self._condition.predict(self._pipeline.unet, x_t, self._timesteps[i])
            clean = predict_clean(x_t, output, self._alpha_bars[i], prediction_type)
            latents = scheduler.step(output, t, latents, return_dict=False, **noise)[0]
        self._state = replace(state, latents=latents, clean=clean, done=end)
        self.failed = {}  # what a preview found may not hold for the picture

    @torch.inference_mode()
    def preview(
        self, indices: Sequence[int] | None = None, exact: bool = False
    ) -> list[Image.Image | None] | None:
        """What the candidates will look like, as far as can be told; None before the first step.

        A linear map of the predicted clean latents, which is too rough to be checked for safety,
        or with `exact` their pictures by the real decoder. A candidate whose values are not finite,
        or whose exact preview is flagged, is None in the list.
        """
        state = self._open
        clean = state.latents if state.done == self.total else state.clean
        if clean is None:
            return None
        seeds = state.seeds
        if indices is not None:
            check_indices(indices, len(seeds))
            clean = clean[torch.tensor(indices, device=clean.device)]
            seeds = tuple(seeds[i] for i in indices)
        if not exact:
            return self._pipeline.latent_rgb.pictures(clean, self._size)
        pictures = self._checked(seeds, clean)
        return [None if p is None else decoding.to_image(p) for p in pictures]

    def keep(self, indices: Sequence[int]) -> None:
        """Drop all other candidates, in memory too. Raises ValueError unless `indices` increase."""
        check_indices(indices, len(self.seeds))
        self._state = self._open.rows(indices)
        self._pictures = {s: p for s, p in self._pictures.items() if s in self.seeds}
        self.failed = {s: reason for s, reason in self.failed.items() if s in self.seeds}

    def split(self) -> "tuple[Draft, Draft]":
        """Two drafts of half the candidates each, to go on one after the other; this one closes.

        Raises ValueError if there is one candidate only.
        """
        N = len(self.seeds)
        if N < 2:
            raise ValueError("one candidate cannot be split")
        first, second = copy.copy(self), copy.copy(self)
        first.keep(range(N // 2))
        second.keep(range(N // 2, N))
        self.close()
        return first, second

    def images(self) -> list[Image.Image | None]:
        """The finished pictures; None where none that is finite, or may be shown, was made.

        The reasons are in `failed`. Raises RuntimeError before the last step.
        """
        self._decode()
        pictures = [self._pictures.get(seed) for seed in self.seeds]
        return [None if p is None else decoding.to_image(p) for p in pictures]

    def pixels(self) -> torch.Tensor:
        """The finished pictures as uint8 (M, 3, H, W) on the pipeline's device.

        One row per seed that is not in `failed`, in the order of `seeds`: M may be less than N.
        Raises RuntimeError before the last step.
        """
        self._decode()
        pictures = [self._pictures[seed] for seed in self.seeds if seed in self._pictures]
        if pictures:
            return torch.stack(pictures)
        width, height = self._size
        return torch.empty((0, 3, height, width), dtype=torch.uint8, device=self._pipeline.device)

    def close(self) -> None:
        """Free everything. A closed draft can only be closed again."""
        self._state = None
        self._pictures = {}

    def __enter__(self) -> "Draft":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def _open(self) -> State:
        if self._state is None:
            raise RuntimeError("this draft is closed")
        return self._state

    @torch.inference_mode()
    def _decode(self) -> None:
        """Make the pictures that are not made yet."""
        state = self._open
        if state.done < self.total:
            raise RuntimeError(f"the draft is at step {state.done} of {self.total}, not done")
        missing = [
            i
            for i, seed in enumerate(state.seeds)
            if seed not in self._pictures and seed not in self.failed
        ]
        if not missing:
            return
        latents = state.latents[torch.tensor(missing, device=state.latents.device)]
        seeds = [state.seeds[i] for i in missing]
        pictures = zip(seeds, self._checked(seeds, latents), strict=True)
        self._pictures.update({seed: p for seed, p in pictures if p is not None})

    def _checked(self, seeds: Sequence[int], latents: torch.Tensor) -> list[torch.Tensor | None]:
        """The pictures of latents (n, C, h, w); None for one that cannot or must not be shown.

        The reason is then in `failed`. All pictures of the real decoder leave a draft through here.
        """
        checker = self._pipeline.checker
        pictures = decoding.decode(self._pipeline.vae, latents)
        for i, (seed, picture) in enumerate(zip(seeds, pictures, strict=True)):
            if picture is None and latents[i].isfinite().all():
                self.failed[seed] = "the decoder made values that are not finite, in float32 too"
            elif picture is None:
                self.failed[seed] = "the network made values that are not finite"
            elif checker is not None and checker.flags([picture]) == [True]:
                self.failed[seed] = FLAGGED
                pictures[i] = None
        return pictures


def predict_clean(
    x_t: torch.Tensor, output: torch.Tensor, alpha_bar: float, prediction_type: str
) -> torch.Tensor:
    """The clean latents that a network's output means, for variance-preserving x_t (B, C, h, w).

    x_t = α x_0 + σ ε with α² = ᾱ, σ² = 1 − ᾱ. v: x_0 = α x_t − σ v (Salimans and Ho, arXiv
    2202.00512, appendix D); ε: x_0 = (x_t − σ ε) / α.
    """
    alpha, sigma = math.sqrt(alpha_bar), math.sqrt(1 - alpha_bar)
    if prediction_type == "v_prediction":
        return alpha * x_t - sigma * output
    return (x_t - sigma * output) / alpha


def interpolate(alphas_cumprod: torch.Tensor, timesteps: torch.Tensor) -> list[float]:
    """ᾱ at each timestep, which some samplers place between the trained ones."""
    table = alphas_cumprod.tolist()
    values = []
    for t in timesteps.tolist():
        low = min(max(int(t), 0), len(table) - 1)
        high = min(low + 1, len(table) - 1)
        values.append(table[low] + (t - low) * (table[high] - table[low]))
    return values


def guidance_embedding(w: float, size: int) -> torch.Tensor:
    """Guidance as a vector (1, size) for a distilled UNet (Luo et al., arXiv 2310.04378)."""
    half = size // 2
    frequencies = torch.exp(torch.arange(half) * (-math.log(10000) / (half - 1)))
    angles = 1000 * w * frequencies
    embedding = torch.cat([angles.sin(), angles.cos()])
    return torch.nn.functional.pad(embedding, (0, size % 2))[None]


def clone_generator(generator: torch.Generator) -> torch.Generator:
    """A generator that goes on with the same numbers."""
    clone = torch.Generator()
    clone.set_state(generator.get_state())
    return clone


def copy_scheduler(
    scheduler: Any, index: torch.Tensor | None = None, shape: torch.Size | None = None
) -> Any:
    """A scheduler in the same state, that can step without changing the first.

    With `index`, every tensor of the latents' `shape` is cut down to those rows, also inside the
    lists where multistep samplers hold earlier outputs: what is left whole would be broadcast, and
    bring dropped candidates back without an error.
    """

    def copied(value: Any) -> Any:
        if isinstance(value, (list, tuple)):
            return type(value)(copied(item) for item in value)
        if isinstance(value, deque):
            return deque((copied(item) for item in value), maxlen=value.maxlen)
        if index is not None and isinstance(value, torch.Tensor) and value.shape == shape:
            return value[index]
        return value

    twin = copy.copy(scheduler)
    vars(twin).update({name: copied(value) for name, value in vars(scheduler).items()})
    return twin
