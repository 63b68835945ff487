"""The DALL·E path: a prompt becomes candidates, drafted together and image token by image token.

    pipeline = Dalle.from_pretrained("stickers-dalle")
    with pipeline.begin("a panda", seeds=[7, 8, 9, 10]) as draft:
        while draft.done < draft.total:
            draft.step()
        images = draft.images()

Ramesh et al., Zero-Shot Text-to-Image Generation (arXiv 2102.12092): the transformer draws the
codes of a discrete VAE, whose decoder makes the image.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Unpack

import torch
from PIL import Image
from torch.nn import functional
from transformers.models.t5.modeling_t5 import T5Stack

from pipelines.checkpoints import specs
from pipelines.checkpoints.errors import WeightsError
from pipelines.checkpoints.places import locate
from pipelines.checkpoints.specs import Spec
from pipelines.dalle import prompts
from pipelines.dalle.attention import choose_kernel
from pipelines.dalle.bart import BartEncoder
from pipelines.dalle.draft import DalleDraft, Sampling, State, Text, draw_uniforms
from pipelines.dalle.layers import Context
from pipelines.dalle.networks import DalleNetworks, load_dalle
from pipelines.dalle.settings import DrawingSettings
from pipelines.dalle.spec import read_spec
from pipelines.drafts import check_seeds, draw
from pipelines.editing import Start
from pipelines.images import opened
from pipelines.loading import LoadOptions, Report, ignore_progress
from pipelines.runtime.devices import choose_device, choose_dtype
from pipelines.settings import with_defaults

REMEMBERED_PROMPTS = 8


class Dalle:
    """A text encoder, a transformer and a discrete VAE that turn prompts into images.

    `device`, `dtype` and `attention` say what really runs; `spec` holds the defaults of every
    setting. `text_encoder` is None where the transformer reads text tokens; `dvae` may be a VQGAN.
    """

    def __init__(
        self,
        spec: Spec,
        networks: DalleNetworks,
        device: torch.device,
        dtype: torch.dtype,
        attention: str,
    ) -> None:
        self.spec = spec
        self.device = device
        self.dtype = dtype
        self.attention = attention
        self.tokenizer = networks.tokenizer
        self.text_encoder = networks.text_encoder
        self.transformer = networks.transformer
        self.dvae = networks.dvae
        self.transformer.kernel = attention
        self._texts: dict[str, Text] = {}

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype | None = None,
        attention: str | None = None,
        safety: bool = False,
        *,
        progress: Report = ignore_progress,
    ) -> "Dalle":
        """Load a known model by name, or a folder with a model_index.json that says Dalle.

        `device` None is the best there is, `dtype` None half precision on CUDA and float32
        elsewhere, `attention` one of auto, xformers, sdpa, flex. No folder of this kind has a
        safety checker, so `safety` is a WeightsError, as is a folder that is incomplete, damaged or
        does not fit together. Raises ValueError for an unavailable device, dtype or attention.
        `progress` is called with the bytes loaded so far and their total.
        """
        spec = read_spec(locate(str(folder)))
        options = LoadOptions(device, dtype, attention, safety)
        return cls.load(spec, options, progress)

    @classmethod
    def load(cls, spec: Spec, options: LoadOptions, report: Report = ignore_progress) -> "Dalle":
        """Load the model of a Spec; see `from_pretrained`."""
        if options.safety:
            raise WeightsError(f"{spec.folder} has no safety_checker/: draw without --safety")
        specs.warn_of_licence(spec)
        device = choose_device(options.device)
        dtype = choose_dtype(device, options.dtype)
        kernel = choose_kernel(options.attention, device)
        networks = load_dalle(spec, device, dtype, report)
        return cls(spec, networks, device, dtype, kernel)

    def begin(
        self,
        prompt: str,
        *,
        seeds: Sequence[int],
        start: Start | None = None,
        forced: Mapping[int, int] | None = None,
        **settings: Unpack[DrawingSettings],
    ) -> DalleDraft:
        """Start one candidate per seed. What is not given is the model's default.

        pipelines/dalle/settings.py describes the settings. A guidance of at most 1 follows the
        prompt without comparing it with `negative_prompt`, or with what a model that takes none has
        learned in its place. `init_image` and `keep_rows`: an image of the model's own size whose
        upper rows of tokens, from 1 to all but one, are kept while the rest is drawn. `forced` are
        image tokens that are given, by their positions in raster order. Of a `start`, the tokens
        outside its mask are given, and of those inside a share of its strength is drawn, others for
        each candidate, in as many ways as its `resampling` says (`pipelines.dalle.ways`); its
        images have the model's own size.

        Raises ValueError with the rule for a value that cannot be, TypeError for an unknown name.
        """
        chosen = with_defaults(DrawingSettings, settings, self.spec.defaults)
        guidance = chosen["guidance"]
        check_seeds(seeds)
        sampling = Sampling(
            guidance, chosen["temperature"], chosen.get("token_top_k"), chosen.get("token_top_p")
        )
        given = {} if forced is None else dict(forced)
        init_image, keep_rows = chosen.get("init_image"), chosen.get("keep_rows")
        if init_image is not None or keep_rows is not None:
            if init_image is None and start is not None:
                init_image = start.images[0]
            given = self._upper_rows(init_image, keep_rows) | given
        self._check_tokens(given)

        texts = [self.encode(prompt)]
        if guidance > 1:
            texts.append(self.compared(texts[0], chosen.get("negative_prompt")))
        length, ways = self.transformer.config.image_length, count_ways(start, sampling)
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        uniforms = torch.cat([draw_uniforms(g, length, ways) for g in generators])
        tokens = torch.zeros(len(uniforms), length, dtype=torch.int64)
        is_given = torch.zeros(len(uniforms), length, dtype=torch.bool)
        if start is not None and keep_rows is None:
            tokens, is_given = self._start_tokens(start, generators)
            tokens, is_given = (each.repeat_interleave(ways, 0) for each in (tokens, is_given))
        for position, token in given.items():
            tokens[:, position], is_given[:, position] = token, True
        return DalleDraft(
            pipeline=self,
            text=Text.together(texts),
            sampling=sampling,
            seeds=seeds,
            state=State.at_first_drawn(
                uniforms.to(self.device), tokens.to(self.device), is_given.to(self.device)
            ),
            start=start,
        )

    def __call__(
        self, prompt: str, *, seeds: Sequence[int], **settings: Unpack[DrawingSettings]
    ) -> list[Image.Image | None]:
        """Return one image per seed; None where none could be made. See `begin`."""
        return draw(self.begin(prompt, seeds=seeds, **settings))

    def token_count(self, prompt: str) -> int:
        """Return how many tokens a prompt has, with those that begin and end it, before any cut."""
        return prompts.token_count(self.tokenizer, prompt)

    def dropped_text(self, prompt: str) -> str:
        """Return the end of a prompt that is beyond the context and is not read; "" if all of it
        is."""
        return prompts.dropped_text(self.tokenizer, prompt, self.spec.context)

    @torch.inference_mode()
    def encode(self, prompt: str) -> Text:
        """Encode one prompt as the transformer reads it; the last few prompts are cached."""
        if prompt in self._texts:
            self._texts[prompt] = self._texts.pop(prompt)  # now the latest
            return self._texts[prompt]
        encoded = self.tokenizer(
            prompt,
            padding="max_length",
            max_length=self.spec.context,
            truncation=True,
            return_tensors="pt",
        ).to(self.device)
        text = self._read(encoded.input_ids, encoded.attention_mask.bool())
        self._texts[prompt] = text
        if len(self._texts) > REMEMBERED_PROMPTS:
            del self._texts[next(iter(self._texts))]
        return text

    def _read(self, ids: torch.Tensor, present: torch.Tensor) -> Text:
        """Return tokens (1, S) as the transformer takes them: as they are, encoded, or as a
        context."""
        if self.text_encoder is None:
            return Text(ids, present)
        if isinstance(self.text_encoder, T5Stack):  # which needs no padding, nor does what follows
            states = self.text_encoder(ids[:, : int(present.sum())])[0]
            return Text(states.to(self.dtype), present[:, : states.shape[1]])
        if not isinstance(self.text_encoder, BartEncoder):
            return Text(self.text_encoder(ids)[0], present)
        length = int(present.sum())
        states = self.text_encoder(ids[:, :length])
        states = functional.pad(states, (0, 0, 0, ids.shape[1] - length))
        nothing = ids.new_zeros(1, self.transformer.config.text_length)
        return Text(nothing, nothing.bool(), Context(states, present))

    def compared(self, text: Text, negative_prompt: str | None = None) -> Text:
        """Return what guidance leads away from: a prompt, or the learned empty one in the length of
        `text`."""
        if not self.transformer.config.null_prefix:
            return self.encode("" if negative_prompt is None else negative_prompt)
        if negative_prompt is not None:
            raise ValueError(
                f"{self.spec.name} takes no negative_prompt: it has learned what no prompt is"
            )
        return Text(self.transformer.null_prefix[None, -text.read.shape[1] :], text.present)

    @torch.inference_mode()
    def tokens(self, image: str | Path | Image.Image) -> torch.Tensor:
        """Encode an RGB image of the model's own size as image tokens (grid, grid).

        Raises ValueError for another size or colour mode.
        """
        size = self.dvae.config.size
        if not isinstance(image, Image.Image):
            with opened(image) as file:
                file.load()
                image = file
        check_init_image(image, size, size)
        pixels = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
        pixels = pixels.view(1, size, size, 3).permute(0, 3, 1, 2)
        return self.dvae.encode(pixels.to(self.device))[0]

    @torch.inference_mode()
    def _start_tokens(
        self, start: Start, generators: Sequence[torch.Generator]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the tokens of a start for each candidate, (N, I), and which of them stay.

        Each candidate draws anew a share of its own of those under the mask, in whole numbers.
        """
        side = self.dvae.config.size
        if start.size != (side, side):
            raise ValueError(f"a start of {self.spec.name} is {side}x{side}, not {start.size}")
        codes = self.dvae.encode(start.pixels().to(self.device)).flatten(1).cpu()  # (M, I)
        codes = codes.expand(len(generators), -1).clone()
        cells = start.drawn_cells(side // self.transformer.config.grid)
        inside = torch.ones(codes.shape[1], dtype=torch.bool) if cells is None else cells.flatten()
        drawn = math.ceil(start.strength * int(inside.sum()))
        is_given = torch.ones(codes.shape, dtype=torch.bool)
        for row, generator in enumerate(generators):
            order = torch.rand(len(inside), generator=generator).masked_fill(~inside, 2).argsort()
            is_given[row, order[:drawn]] = False
        return codes, is_given

    def _upper_rows(
        self, init_image: str | Path | Image.Image | None, keep_rows: int | None
    ) -> dict[int, int]:
        """Return the tokens, by position, of the part of an image that is kept."""
        grid = self.transformer.config.grid
        if init_image is None or keep_rows is None:
            raise ValueError("init_image and keep_rows go together: which image, how much of it")
        if not 1 <= keep_rows < grid:
            raise ValueError(f"keep_rows is {keep_rows}; it must be from 1 to {grid - 1}")
        kept = self.tokens(init_image)[:keep_rows].flatten().tolist()
        return dict(enumerate(kept))

    def _check_tokens(self, given: Mapping[int, int]) -> None:
        config = self.transformer.config
        for position, token in given.items():
            if not 0 <= position < config.image_length or not 0 <= token < config.image_vocabulary:
                raise ValueError(
                    f"forced token {token} at {position}: positions are below "
                    f"{config.image_length}, tokens below {config.image_vocabulary}"
                )


def count_ways(start: Start | None, sampling: Sampling) -> int:
    """Return in how many ways a candidate is drawn: one, unless chance draws what a mask frees."""
    if start is None or start.mask is None or sampling.temperature == 0:
        return 1
    return start.resampling


def check_init_image(image: Image.Image, width: int, height: int) -> None:
    """Raise ValueError unless an image can be encoded as it is."""
    if image.size != (width, height):
        raise ValueError(
            f"init_image is {image.width}x{image.height}; it must be {width}x{height}: resize it"
        )
    if image.mode != "RGB":
        raise ValueError(f"init_image is in mode {image.mode}; it must be RGB: convert it")
