"""Image embeddings and what is drawn of them: a prompt becomes an embedding, and that images.

    pipeline = Unclip.from_pretrained("folder/of/karlo")
    with pipeline.begin("a panda", seeds=[7, 8, 9, 10]) as draft:
        while draft.done < draft.total:
            draft.step()
        images = draft.images()

Ramesh et al., Hierarchical Text-Conditional Image Generation with CLIP Latents (arXiv 2204.06125).
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Unpack

import torch
from PIL import Image, ImageOps
from torch.nn.functional import normalize

from pipelines import decoding
from pipelines.checkpoints import specs
from pipelines.checkpoints.errors import WeightsError
from pipelines.checkpoints.places import locate
from pipelines.checkpoints.specs import Spec
from pipelines.denoising import slerp
from pipelines.drafts import check_seeds, draw, to_image, to_pixels, to_uint8
from pipelines.loading import LoadOptions, Report, ignore_progress
from pipelines.runtime.devices import choose_device, choose_dtype, set_attention
from pipelines.runtime.offloading import check_offload, offload_networks
from pipelines.settings import with_defaults
from pipelines.unclip.decoders import (
    ClassDecoder,
    Decoder,
    ProjectedDecoder,
    ProjectingDecoder,
    Texts,
    TokensDecoder,
)
from pipelines.unclip.draft import UnclipDraft
from pipelines.unclip.image_prompt import ImagePrompt
from pipelines.unclip.networks import Parts, load_parts
from pipelines.unclip.prior import Prior, begin_drawn
from pipelines.unclip.settings import DrawingSettings
from pipelines.unclip.spec import INVERTIBLE, SUPER_RES_STEPS, read_spec
from pipelines.unclip.stages import (
    DecoderStage,
    InversionStage,
    PriorStage,
    Stage,
    State,
    SuperResStage,
    make_steps,
)
from pipelines.unclip.text import Reader, embedding_of

NO_PRIOR = "has no prior of its own: name the folder of one with --prior, or an image to vary"


class Unclip:
    """A prior and a decoder, with the text and image encoders that they understand.

    `device`, `dtype` and `attention` say what really runs; `spec` holds the defaults of every
    setting. `prior` is None where only images can be varied, `vae` where the UNet draws pixels.
    """

    def __init__(
        self, spec: Spec, parts: Parts, device: torch.device, dtype: torch.dtype, attention: str
    ) -> None:
        self.spec = spec
        self.device = device
        self.dtype = dtype
        self.attention = attention
        self.unet = parts.networks["unet"]
        self.vae = parts.vae
        self._parts = parts
        self.reader = self._reader("")
        self.decoder_reader = self._reader("decoder_") or self.reader
        self.prior = None
        if "prior" in parts.networks:
            assert self.reader is not None
            scheduler = parts.schedulers["prior_scheduler"]
            self.prior = Prior(parts.networks["prior"], scheduler, self.reader)
        self.decoder = self._make_decoder()
        self._latent_rgb: decoding.LatentRgb | None = None

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype | None = None,
        attention: str | None = None,
        *,
        prior: str | Path | None = None,
        offload: str | None = None,
        progress: Report = ignore_progress,
    ) -> "Unclip":
        """Load a diffusers folder of Karlo, Kandinsky 2.1 or 2.2, or Stable unCLIP.

        `prior` is the folder of a prior, or its name on the hub, for those that have none.
        `device`, `dtype`, `attention`, `offload` and `progress` are as in
        `LatentDiffusion.from_pretrained`.

        Raises WeightsError for weights that are incomplete, damaged or do not fit together, and
        ValueError for an unavailable device, dtype, attention or offload.
        """
        place = None if prior is None else str(locate(str(prior)).path)
        adapters = specs.read_adapters(prior=place)
        spec = specs.with_adapters(read_spec(locate(str(folder))), adapters)
        return cls.load(spec, LoadOptions(device, dtype, attention, offload=offload), progress)

    @classmethod
    def load(cls, spec: Spec, options: LoadOptions, report: Report = ignore_progress) -> "Unclip":
        """Load the model of a Spec; see `from_pretrained`."""
        specs.warn_of_licence(spec)
        device = choose_device(options.device)
        dtype = choose_dtype(device, options.dtype)
        offload = check_offload(options.offload, device)
        stays = device if offload == "none" else torch.device("cpu")
        parts = load_parts(spec, stays, dtype, report)
        ran = set_attention([parts.networks["unet"]], options.attention, device, dtype)
        if offload != "none":
            offload_networks(list(parts.networks.values()), offload, device)
        return cls(spec, parts, device, dtype, ran)

    def begin(
        self,
        prompt: str,
        *,
        seeds: Sequence[int],
        images: ImagePrompt | None = None,
        **settings: Unpack[DrawingSettings],
    ) -> UnclipDraft:
        """Start one candidate per seed. What is not given is the model's default.

        pipelines/unclip/settings.py describes the settings. With `images` candidates are drawn from
        their embeddings, not from those that the prior would draw. A guidance of at most 1 follows
        the prompt without comparing it with `negative_prompt`. With `images`, `image_guidance` is
        by default the guidance, and says nothing unless `decoder_text` is True.

        Raises ValueError with the rule for a value that cannot be, TypeError for an unknown name.
        """
        check_seeds(seeds)
        chosen = with_defaults(DrawingSettings, settings, self.spec.defaults)
        size = self._check_size(chosen)
        for name in ("guidance", "image_guidance", "prior_guidance"):
            if not math.isfinite(chosen.get(name, 0)):
                raise ValueError(f"{name} is {chosen[name]}; it must be a finite number")
        negative = chosen.get("negative_prompt", "")
        reads = settings.get("decoder_text", images is None)
        told = prompt if reads else ""
        if images is not None:
            chosen["image_guidance"] = settings.get("image_guidance", chosen["guidance"])
        if not (reads and isinstance(self.decoder, TokensDecoder)):
            chosen["image_guidance"] = None
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        if images is not None:
            stages = self._stages_of_images(images, told, negative, size, chosen)
            given = self._turned(images).expand(len(seeds), -1)
            state = State(0, generators, stages[0].steps.scheduler, embeddings=given)
            return UnclipDraft(self, stages, size, seeds, state)
        first = self._prior_stage(prompt, negative, chosen)
        pool = None
        if "prior_candidates" in chosen:
            pool = chosen.get("prior_seed", seeds[0]), chosen["prior_candidates"]
        width, draws = first.prior.width, chosen["prior_draws"]
        drawn = begin_drawn(generators, seeds, width, draws, pool, self.device)
        state = State(0, generators, first.steps.scheduler, drawn=drawn)
        stages = [first, *self._decoding(told, negative, size, chosen)]
        return UnclipDraft(self, stages, size, seeds, state)

    def __call__(
        self, prompt: str, *, seeds: Sequence[int], **settings: Unpack[DrawingSettings]
    ) -> list[Image.Image | None]:
        """Return one image per seed; None where there is none to show. See `begin`."""
        return draw(self.begin(prompt, seeds=seeds, **settings))

    def token_count(self, prompt: str) -> int:
        """Return the number of tokens of a prompt, with those that begin and end it, uncut."""
        reader = self.reader or self.decoder_reader
        return 0 if reader is None else reader.token_count(prompt)

    def dropped_text(self, prompt: str) -> str:
        """Return the end of a prompt that is beyond the context; "" if all of it is read."""
        reader = self.reader or self.decoder_reader
        return "" if reader is None else reader.dropped(prompt)

    @torch.inference_mode()
    def embed(self, images: Sequence[Image.Image]) -> torch.Tensor:
        """Return the embeddings (M, D) of RGB images, float32, in CLIP's space.

        Raises ValueError for a model without an image encoder.
        """
        encoder, processor = self._parts.networks.get("image_encoder"), self._parts.image_processor
        if encoder is None or processor is None:
            raise ValueError(f"{self.spec.name} has no image encoder, so it draws from text alone")
        pixels = processor(list(images), return_tensors="pt").pixel_values
        return encoder(pixels.to(self.device, self.dtype)).image_embeds.float()

    @torch.inference_mode()
    def decode(self, latents: torch.Tensor) -> list[torch.Tensor | None]:
        """Return images, uint8 (3, H, W), of latents (N, C, h, w); None where not finite."""
        if self.vae is not None:
            return decoding.decode(self.vae, latents)
        finite = latents.isfinite().flatten(1).all(dim=1).tolist()
        pixels = to_uint8(latents / 2 + 0.5)
        return [p if ok else None for p, ok in zip(pixels, finite, strict=True)]

    def rough_images(
        self, latents: torch.Tensor, size: tuple[int, int]
    ) -> list[Image.Image | None]:
        """Return quick images of latents (N, C, h, w) in their final size (width, height)."""
        if self.vae is None:
            return [
                None if p is None else to_image(p).resize(size, Image.Resampling.BILINEAR)
                for p in self.decode(latents)
            ]
        if self._latent_rgb is None:
            channels = self.vae.config.latent_channels
            stored = decoding.read_latent_rgb(self.spec.part("vae"), channels)
            fitted = decoding.fit_latent_rgb(self.vae, self.device) if stored is None else stored
            self._latent_rgb = fitted
        return self._latent_rgb.images(latents, size)

    def _prior_stage(self, prompt: str, negative: str, chosen: dict[str, Any]) -> PriorStage:
        if self.prior is None:
            raise ValueError(f"{self.spec.name} {NO_PRIOR}")
        read = self.prior.reader.read
        steps = make_steps(self.prior.scheduler, chosen["prior_steps"], self.device)
        return PriorStage(self.prior, read(prompt), read(negative), chosen["prior_guidance"], steps)

    def _stages_of_images(
        self,
        images: ImagePrompt,
        prompt: str,
        negative: str,
        size: tuple[int, int],
        chosen: dict[str, Any],
    ) -> list[Stage]:
        """Return the stages from images; one that words change is led back to its noise first."""
        if images.toward is None:
            return self._decoding(prompt, negative, size, chosen)
        stages = self._decoding(prompt, negative, size, chosen, INVERTIBLE)
        decoding = stages[0]
        assert isinstance(decoding, DecoderStage)
        if len(decoding.steps.times) < 2:
            raise ValueError("steps is 1; an image is changed by words in 2 or more")
        own = replace(decoding, guidance=1.0)
        latents = self._encode(images.images[0], decoding.shape, size)
        back = decoding.steps.back()
        return [InversionStage(own, self.embed(images.images[:1]), latents, back), *stages]

    @torch.inference_mode()
    def _encode(
        self, image: Image.Image, shape: tuple[int, int, int], size: tuple[int, int]
    ) -> torch.Tensor:
        """Return what the UNet would draw of an image: latents (1, C, h, w), or itself, small."""
        height, width = shape[1:]
        fitted = ImageOps.fit(image, size if self.vae is not None else (width, height))
        pixels = to_pixels(fitted)[None].to(self.device) / 127.5 - 1
        return pixels if self.vae is None else decoding.encode(self.vae, pixels)

    @torch.inference_mode()
    def _turned(self, images: ImagePrompt) -> torch.Tensor:
        """Return the embedding (1, D) that is decoded: of one image, between two, or toward words.

        Directions are turned along the arc between them, and lengths go straight from one to the
        other.
        """
        embeddings = self.embed(images.images)
        first, *others = embeddings.split(1)
        if images.toward is not None:
            reader = self.reader
            if reader is None:
                raise ValueError(f"{self.spec.name} {NO_PRIOR}")
            texts = [
                embedding_of(reader.read(t)).float() for t in (images.toward, images.away_from)
            ]
            other = normalize(texts[0], dim=-1) - normalize(texts[1], dim=-1)
            others = [normalize(other, dim=-1) * first.norm()]
        if not others:
            return first
        [other] = others
        length = torch.lerp(first.norm(), other.norm(), images.turned)
        turned = slerp(normalize(first, dim=-1), normalize(other, dim=-1), images.turned)
        return turned * length

    def _decoding(
        self,
        prompt: str,
        negative: str,
        size: tuple[int, int],
        chosen: dict[str, Any],
        scheduler: str | None = None,
    ) -> list[Stage]:
        """Return the stages from an embedding to an image."""
        reader, networks, unet = self.decoder_reader, self._parts.networks, self.unet
        texts = None
        if reader is not None and self._reads_text:
            texts = Texts(reader.read(prompt), reader.read(negative))
        enlarges = "super_res_first" in networks
        sides = (unet.config.sample_size,) * 2
        if self.vae is not None:
            factor = 2 ** (len(self.vae.config.block_out_channels) - 1)
            sides = (size[1] // factor, size[0] // factor)
        shape = (unet.config.in_channels, *sides)
        config = self._parts.schedulers["scheduler"]
        timing = make_steps(config, chosen["steps"], self.device, scheduler)
        stages: list[Stage] = [
            DecoderStage(
                unet,
                self.decoder,
                texts,
                chosen["guidance"],
                chosen["image_guidance"],
                shape,
                timing,
                enlarges,
            )
        ]
        if enlarges:
            config = self._parts.schedulers["super_res_scheduler"]
            timing = make_steps(config, SUPER_RES_STEPS, self.device)
            first, last = networks["super_res_first"], networks["super_res_last"]
            large = (first.config.in_channels // 2, size[1], size[0])
            stages.append(SuperResStage(first, last, large, timing))
        return stages

    def _reader(self, prefix: str) -> Reader | None:
        """Return what reads prompts for the prior, or for the decoder alone."""
        tokenizer = self._parts.tokenizers.get(f"{prefix}tokenizer")
        if tokenizer is None:
            return None
        encoder = self._parts.networks[f"{prefix}text_encoder"]
        return Reader(tokenizer, encoder, self.spec.context, self.device)

    @property
    def _reads_text(self) -> bool:
        """Whether the UNet reads tokens of a text."""
        return self.unet.config.encoder_hid_dim_type != "image_proj"

    def _make_decoder(self) -> Decoder:
        networks, config = self._parts.networks, self.unet.config
        if "text_proj" in networks:
            return ProjectedDecoder(networks["text_proj"])
        if "image_tokens" in networks:
            return TokensDecoder(networks["image_tokens"])
        if "image_normalizer" in networks:
            import diffusers

            noising = self._parts.schedulers["image_noising_scheduler"]
            kind = getattr(diffusers, str(noising["_class_name"]))
            return ClassDecoder(networks["image_normalizer"], kind.from_config(dict(noising)))
        if config.encoder_hid_dim_type not in ("image_proj", "text_image_proj"):
            raise WeightsError(f"{self.spec.folder}: its UNet takes no embedding of an image")
        return ProjectingDecoder(
            self._nothing(), adds_text=config.addition_embed_type == "text_image"
        )

    @torch.inference_mode()
    def _nothing(self) -> torch.Tensor:
        """Return the embedding (1, D) of no image: that of grey."""
        encoder = self._parts.networks.get("image_encoder")
        if encoder is None:
            raise WeightsError(f"{self.spec.name} {NO_PRIOR}")
        side = encoder.config.image_size
        grey = torch.zeros(1, 3, side, side, dtype=self.dtype, device=self.device)
        return encoder(grey).image_embeds

    def _check_size(self, chosen: dict[str, Any]) -> tuple[int, int]:
        multiple, largest = self.spec.size_multiple, self.spec.max_size
        for name in ("width", "height"):
            pixels = chosen[name]
            if not multiple <= pixels <= largest or pixels % multiple:
                raise ValueError(
                    f"{name} is {pixels}; it must be a multiple of {multiple}, "
                    f"from {multiple} to {largest}"
                )
        return chosen["width"], chosen["height"]
