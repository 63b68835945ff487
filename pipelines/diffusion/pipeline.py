"""Latent diffusion: a prompt becomes candidates, drafted together and step by step.

    pipeline = LatentDiffusion.from_pretrained("stickers")
    with pipeline.begin("a panda", seeds=[7, 8, 9, 10]) as draft:
        while draft.done < draft.total:
            draft.step()
        images = draft.images()

Rombach et al., High-Resolution Image Synthesis with Latent Diffusion Models (arXiv 2112.10752).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Unpack

import torch
from PIL import Image

from pipelines import decoding
from pipelines.checkpoints import specs
from pipelines.checkpoints.places import locate
from pipelines.checkpoints.specs import NO_ADAPTERS, Adapters, Spec
from pipelines.denoising import copy_scheduler
from pipelines.diffusion import prompt_editing
from pipelines.diffusion.adapters import add
from pipelines.diffusion.draft import (
    Condition,
    DiffusionDraft,
    Pass,
    State,
    guidance_embedding,
)
from pipelines.diffusion.editing import (
    VARIATION,
    Given,
    all_drawn,
    begin_latents,
    draw_noise,
    encode_start,
    enlarge_latents,
    first_step,
)
from pipelines.diffusion.networks import Networks, load_networks
from pipelines.diffusion.prompt_editing import Moment
from pipelines.diffusion.prompt_weights import SYNTAXES
from pipelines.diffusion.safety import SafetyChecker
from pipelines.diffusion.samplers import SAMPLERS, check_sampler, make_scheduler
from pipelines.diffusion.settings import DrawingSettings
from pipelines.diffusion.spec import read_spec
from pipelines.diffusion.text import Encoding, Text
from pipelines.drafts import check_seeds, draw
from pipelines.editing import SecondPass, Start, second_steps
from pipelines.loading import LoadOptions, Report, ignore_progress
from pipelines.runtime.devices import choose_device, choose_dtype, compile_networks, set_attention
from pipelines.runtime.offloading import check_offload, offload_networks
from pipelines.settings import InputError, with_defaults


class LatentDiffusion:
    """Text encoders, a UNet and a VAE that turn prompts into images.

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
        adapters: Adapters = NO_ADAPTERS,
        *,
        offload: str | None = None,
        vae_tiling: bool = False,
        compiled: bool = False,
        progress: Report = ignore_progress,
    ) -> "LatentDiffusion":
        """Load a known model by name, or Stable Diffusion 1.x, 2.x or XL from where it is.

        That is a diffusers folder, or a single safetensors file.

        `device` None is the best there is, `dtype` None half precision on CUDA and float32
        elsewhere, `attention` one of auto, xformers, sdpa. With `safety` an image that the
        folder's own safety checker flags has failed; else the checker is not loaded. `adapters`
        are LoRA files, another VAE, and words learned by textual inversion.

        `offload` keeps what is not running off the GPU, one of none, model, sequential; with
        `vae_tiling` large images are decoded in tiles, which takes less memory and may change
        their tones a little; `compiled` spends minutes of the first image on faster ones.
        `progress` is called with the bytes loaded so far and their total.

        Raises WeightsError for weights that are incomplete, damaged or do not fit together, or
        without a checker that was asked for, and ValueError for an unavailable device, dtype,
        attention or offload.
        """
        spec = specs.with_adapters(read_spec(locate(str(folder))), adapters)
        options = LoadOptions(device, dtype, attention, safety, offload, vae_tiling, compiled)
        return cls.load(spec, options, progress)

    @classmethod
    def load(
        cls, spec: Spec, options: LoadOptions, report: Report = ignore_progress
    ) -> "LatentDiffusion":
        """Load the model of a Spec; see `from_pretrained`."""
        specs.warn_of_licence(spec)
        device = choose_device(options.device)
        dtype = choose_dtype(device, options.dtype)
        if options.compiled and options.offload == "sequential":
            raise ValueError("offload 'sequential' moves every layer, so nothing can be compiled")
        offload = check_offload(options.offload, device)
        checker = SafetyChecker.from_pretrained(spec.folder, device) if options.safety else None
        stays = device if offload == "none" else torch.device("cpu")
        networks = add(spec.adapters, load_networks(spec, stays, dtype, report))
        ran = set_attention([networks.unet, networks.vae], options.attention, device, dtype)
        if offload != "none":
            offload_networks(networks.all, offload, device)
        if options.vae_tiling:
            networks.vae.enable_tiling()
        if options.compiled:
            compile_networks([networks.unet, networks.vae.decoder], device)
        return cls(spec, networks, device, dtype, ran, checker)

    def begin(
        self,
        prompt: str,
        *,
        seeds: Sequence[int],
        start: Start | None = None,
        second: SecondPass | None = None,
        **settings: Unpack[DrawingSettings],
    ) -> DiffusionDraft:
        """Start one candidate per seed. What is not given is the model's default.

        With a `start` candidates begin from its images, in their size, each with noise of its own.
        With a `second` pass they are drawn again from what they have become, larger.

        pipelines/diffusion/settings.py describes the settings. A guidance of at most 1 follows
        the prompt without comparing it with `negative_prompt`. `clip_skip` 1 reads the layer of the
        text encoders that the model was trained with, 2 the one before that, and so on.

        Raises ValueError with the rule for a value that cannot be, TypeError for an unknown name.
        """
        chosen = with_defaults(DrawingSettings, settings, self.spec.defaults)
        width, height = (chosen["width"], chosen["height"]) if start is None else start.size
        steps = chosen["steps"]
        guidance, sampler, schedule = chosen["guidance"], chosen["sampler"], chosen["schedule"]
        clip_skip = chosen.get("clip_skip", 1)
        syntax = chosen.get("prompt_syntax", SYNTAXES[0])
        self._check(seeds, width, height, guidance)
        self.text.check_clip_skip(clip_skip)
        if syntax not in SYNTAXES:
            raise ValueError(f"no prompt_syntax {syntax!r}; choose from {', '.join(SYNTAXES)}")
        check_sampler(sampler, schedule, steps)

        left_out = 0 if start is None else first_step(steps, start.strength)
        negative = chosen.get("negative_prompt")
        told = prompt_editing.moments(prompt, negative, steps - left_out, syntax)
        scheduler = make_scheduler(sampler, schedule, self.scheduler_config)
        scheduler.set_timesteps(steps)  # on the CPU: schedulers index tables there without a sync
        first = left_out * scheduler.order
        if hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(first)  # else the first step searches for its index
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        factor = 2 ** (len(self.vae.config.block_out_channels) - 1)
        shape = (self.vae.config.latent_channels, height // factor, width // factor)
        base_seed, variation = chosen.get("base_seed"), chosen.get("variation", VARIATION)
        noise = draw_noise(generators, shape, base_seed, variation).to(self.device)
        latents = noise * scheduler.init_noise_sigma
        given = all_drawn(self, noise, factor)
        if start is not None:
            given = encode_start(self, start, noise, generators)
            latents = begin_latents(given, start.strength, scheduler, first)
        conditions = self._conditions(told, guidance, (width, height), clip_skip, syntax)
        again = 1 if start is None or start.mask is None or self.spec.inpaints else start.resampling
        passes = [Pass(conditions, (width, height), scheduler, first, resampling=again)]
        if second is not None:
            passes.append(self._second_pass(prompt, second, chosen))
        state = State(latents, None, generators, scheduler, 0, given)
        return DiffusionDraft(self, passes, SAMPLERS[sampler].stochastic, seeds, state, start)

    def _second_pass(self, prompt: str, second: SecondPass, chosen: Mapping[str, Any]) -> Pass:
        """Return the pass that begins with finished latents. Raises ValueError for its size."""
        self._check_size(*second.size)
        sampler, schedule = chosen["sampler"], chosen["schedule"]
        check_sampler(sampler, schedule, second.steps)
        steps, skipped = second_steps(second.steps, second.strength, SAMPLERS[sampler].max_steps)
        scheduler = make_scheduler(sampler, schedule, self.scheduler_config)
        scheduler.set_timesteps(steps)
        first = skipped * scheduler.order
        if hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(first)
        base_seed, variation = chosen.get("base_seed"), chosen.get("variation", VARIATION)
        factor = 2 ** (len(self.vae.config.block_out_channels) - 1)

        def begin(state: State, seeds: Sequence[int]) -> State:
            clean = enlarge_latents(self, state.latents, second, factor)
            generators = [torch.Generator().manual_seed(seed) for seed in seeds]
            noise = draw_noise(generators, clean.shape[1:], base_seed, variation).to(self.device)
            given = all_drawn(self, noise, factor)
            given = Given(clean, noise, None, None if given is None else given.beside)
            latents = begin_latents(given, second.strength, scheduler, first)
            return replace(
                state,
                latents=latents,
                clean=clean,
                scheduler=copy_scheduler(scheduler),
                given=given,
            )

        syntax, clip_skip = chosen.get("prompt_syntax", SYNTAXES[0]), chosen.get("clip_skip", 1)
        told = prompt_editing.moments(prompt, chosen.get("negative_prompt"), second.steps, syntax)
        conditions = self._conditions(told, chosen["guidance"], second.size, clip_skip, syntax)
        return Pass(conditions, second.size, scheduler, first, begin)

    def __call__(
        self, prompt: str, *, seeds: Sequence[int], **settings: Unpack[DrawingSettings]
    ) -> list[Image.Image | None]:
        """Return one image per seed; None where there is none to show. See `begin`."""
        return draw(self.begin(prompt, seeds=seeds, **settings))

    def token_count(self, prompt: str) -> int:
        """Return the number of tokens of a prompt, with the two that begin and end it, uncut.

        Of one that changes, those that it has at the end; of several, those of the longest.
        """
        return max(self.text.token_count(text) for text in self._finals(prompt))

    def dropped_text(self, prompt: str) -> str:
        """Return the end of a prompt that is beyond the context and is not read; "" if all of it
        is."""
        return next(filter(None, map(self.text.dropped, self._finals(prompt))), "")

    def _finals(self, prompt: str) -> list[str]:
        return prompt_editing.finals(prompt, self.spec.defaults["steps"])

    @property
    def latent_rgb(self) -> decoding.LatentRgb:
        """The linear map of previews: stored with the VAE, else fitted when first needed."""
        if self._latent_rgb is None:
            own, channels = self.spec.folder / "vae", self.vae.config.latent_channels
            replaced = self.spec.adapters.vae is not None
            stored = None if replaced else decoding.read_latent_rgb(own, channels)
            fitted = decoding.fit_latent_rgb(self.vae, self.device) if stored is None else stored
            self._latent_rgb = fitted
        return self._latent_rgb

    def _conditions(
        self,
        told: Sequence[Moment],
        guidance: float,
        size: tuple[int, int],
        clip_skip: int,
        syntax: str,
    ) -> list[Condition]:
        """Return the conditioning of each step; moments that are alike share theirs."""
        made = {
            moment: self._condition(moment, guidance, size, clip_skip, syntax)
            for moment in dict.fromkeys(told)
        }
        return [made[moment] for moment in told]

    def _condition(
        self,
        moment: Moment,
        guidance: float,
        size: tuple[int, int],
        clip_skip: int,
        syntax: str,
    ) -> Condition:
        texts = [self.text.encode(part.text, clip_skip, syntax) for part in moment.texts]
        weights = tuple(part.weight for part in moment.texts)
        negative: Encoding | None = None
        embedding = sizes = None
        if self.takes_sizes:
            width, height = size  # as if cut from an image of just this size
            sizes = torch.tensor([[height, width, 0, 0, height, width]], device=self.device)
        embedded = self.unet.config.time_cond_proj_dim
        if embedded is not None:
            embedding = guidance_embedding(guidance - 1, embedded).to(self.device, self.dtype)
        elif guidance > 1 and not (moment.negative is None and self.zeros_for_no_negative):
            said = "" if moment.negative is None else moment.negative
            negative = self.text.encode(said, clip_skip, syntax)
        length = max(e.hidden.shape[1] for e in (*texts, negative) if e is not None)
        texts = [self.text.stretched(text, length, clip_skip) for text in texts]
        if negative is not None:
            negative = self.text.stretched(negative, length, clip_skip)
        elif embedded is None and guidance > 1:
            negative = texts[0].zeros()
        elif len(weights) > 1 and sum(weights) <= 0:
            raise InputError(prompt_editing.NO_WEIGHT)
        return Condition(tuple(texts), weights, negative, guidance, embedding, sizes)

    def _check(self, seeds: Sequence[int], width: int, height: int, guidance: float) -> None:
        check_seeds(seeds)
        if not math.isfinite(guidance):
            raise ValueError(f"guidance is {guidance}; it must be a finite number")
        self._check_size(width, height)

    def _check_size(self, width: int, height: int) -> None:
        multiple, largest = self.spec.size_multiple, self.spec.max_size
        for name, pixels in (("width", width), ("height", height)):
            if not multiple <= pixels <= largest or pixels % multiple:
                raise ValueError(
                    f"{name} is {pixels}; it must be a multiple of {multiple}, "
                    f"from {multiple} to {largest}"
                )
