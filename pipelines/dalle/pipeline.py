"""The DALL·E path: a prompt becomes candidates, drafted together and image token by image token.

    pipeline = Dalle.from_pretrained("stickers-dalle")
    with pipeline.begin("a panda", seeds=[7, 8, 9, 10]) as draft:
        while draft.done < draft.total:
            draft.step()
        pictures = draft.images()

Ramesh et al., Zero-Shot Text-to-Image Generation (arXiv 2102.12092): the transformer draws the
codes of a discrete VAE, whose decoder makes the picture.
"""

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType

import torch
from PIL import Image
from torch.nn import functional
from transformers.models.t5.modeling_t5 import T5Stack

from pipelines import families
from pipelines.checkpoints import specs
from pipelines.checkpoints.errors import WeightsError
from pipelines.checkpoints.loading import Progress, tell_nobody
from pipelines.checkpoints.specs import Spec
from pipelines.dalle import prompts
from pipelines.dalle.attention import choose_kernel
from pipelines.dalle.bart import BartEncoder
from pipelines.dalle.cache import Cache, advance, prefill
from pipelines.dalle.networks import DalleNetworks, load_dalle
from pipelines.dalle.token_sampling import draw_tokens
from pipelines.dalle.transformer import Context
from pipelines.diffusion import decoding
from pipelines.drafts import check_indices, check_seeds
from pipelines.runtime.devices import choose_device, choose_dtype

REMEMBERED_PROMPTS = 8
GREY = 128  # what is not drawn yet, in previews


class Dalle:
    """A text encoder, a transformer and a discrete VAE that turn prompts into pictures.

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
        progress: Progress = tell_nobody,
    ) -> "Dalle":
        """Load a known model by name, or a folder with a model_index.json that says Dalle.

        `device` None is the best there is, `dtype` None half precision on CUDA and float32
        elsewhere, `attention` one of auto, xformers, sdpa, flex. No folder of this kind has a
        safety checker, so `safety` is a WeightsError, as is a folder that is incomplete, damaged or
        does not fit together. Raises ValueError for a device, dtype or attention that there is not.
        `progress` is told how many bytes of how many are loaded.
        """
        spec = families.find(str(folder))
        if spec.kind != "dalle":
            raise WeightsError(f"{spec.folder} holds no Dalle, but a {spec.kind} model")
        if safety:
            raise WeightsError(f"{spec.folder} has no safety_checker/: draw without --safety")
        specs.warn_of_licence(spec)
        chosen_device = choose_device(device)
        chosen_dtype = choose_dtype(chosen_device, dtype)
        kernel = choose_kernel(attention, chosen_device)
        networks = load_dalle(spec, chosen_device, chosen_dtype, progress)
        return cls(spec, networks, chosen_device, chosen_dtype, kernel)

    def begin(
        self,
        prompt: str,
        negative_prompt: str | None = None,
        *,
        seeds: Sequence[int],
        guidance: float | None = None,
        temperature: float | None = None,
        token_top_k: int | None = None,
        token_top_p: float | None = None,
        init_image: str | Path | Image.Image | None = None,
        keep_rows: int | None = None,
        forced: Mapping[int, int] | None = None,
    ) -> "Draft":
        """Start one candidate per seed. What is None is the model's default in `spec.defaults`.

        guidance : at most 1 follows the prompt without comparing it with `negative_prompt`, or with
            what a model that takes none has learned in its place.
        temperature, token_top_k, token_top_p : see `draw_tokens`.
        init_image, keep_rows : a picture of the model's own size whose upper rows of tokens, from 1
            to all but one, are kept while the rest is drawn.
        forced : image tokens that are given, by their positions in raster order.

        Raises ValueError with the rule for a value that cannot be.
        """
        defaults = self.spec.defaults
        guidance = defaults["guidance"] if guidance is None else guidance
        temperature = defaults["temperature"] if temperature is None else temperature
        token_top_k = defaults.get("token_top_k") if token_top_k is None else token_top_k
        token_top_p = defaults.get("token_top_p") if token_top_p is None else token_top_p
        check_seeds(seeds)
        sampling = Sampling(guidance, temperature, token_top_k, token_top_p)
        given = {} if forced is None else dict(forced)
        if init_image is not None or keep_rows is not None:
            given = self._upper_rows(init_image, keep_rows) | given
        self._check_tokens(given)

        texts = [self.encode(prompt)]
        if guidance > 1:
            texts.append(self._compared(texts[0], negative_prompt))
        length = self.transformer.config.image_length
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        uniforms = torch.stack([torch.rand(length, generator=g) for g in generators])
        return Draft(
            pipeline=self,
            text=Text.together(texts),
            sampling=sampling,
            forced=given,
            seeds=tuple(seeds),
            uniforms=uniforms.to(self.device),
        )

    def __call__(
        self,
        prompt: str,
        negative_prompt: str | None = None,
        *,
        seeds: Sequence[int],
        guidance: float | None = None,
        temperature: float | None = None,
        token_top_k: int | None = None,
        token_top_p: float | None = None,
        init_image: str | Path | Image.Image | None = None,
        keep_rows: int | None = None,
        forced: Mapping[int, int] | None = None,
    ) -> list[Image.Image | None]:
        """One picture per seed; None where none could be made. See `begin`."""
        with self.begin(
            prompt,
            negative_prompt,
            seeds=seeds,
            guidance=guidance,
            temperature=temperature,
            token_top_k=token_top_k,
            token_top_p=token_top_p,
            init_image=init_image,
            keep_rows=keep_rows,
            forced=forced,
        ) as draft:
            draft.step(draft.total)
            return draft.images()

    def token_count(self, prompt: str) -> int:
        """How many tokens a prompt has, with those that begin and end it, before any cut."""
        return prompts.token_count(self.tokenizer, prompt)

    def dropped_text(self, prompt: str) -> str:
        """The end of a prompt that is beyond the context and is not read; "" if all of it is."""
        return prompts.dropped_text(self.tokenizer, prompt, self.spec.context)

    @torch.inference_mode()
    def encode(self, prompt: str) -> "Text":
        """What the transformer reads of one prompt; the last few are remembered."""
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

    def _read(self, ids: torch.Tensor, present: torch.Tensor) -> "Text":
        """Tokens (1, S) as the transformer takes them: as they are, encoded, or as a context."""
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

    def _compared(self, text: "Text", negative_prompt: str | None) -> "Text":
        """What guidance leads away from: a prompt, or as much as `text` has of what was learned."""
        if not self.transformer.config.null_prefix:
            return self.encode("" if negative_prompt is None else negative_prompt)
        if negative_prompt is not None:
            raise ValueError(
                f"{self.spec.name} takes no negative_prompt: it has learned what no prompt is"
            )
        return Text(self.transformer.null_prefix[None, -text.read.shape[1] :], text.present)

    @torch.inference_mode()
    def tokens(self, image: str | Path | Image.Image) -> torch.Tensor:
        """The image tokens (grid, grid) of a picture of the model's own size and in RGB.

        Raises ValueError for another size or colour mode.
        """
        size = self.dvae.config.size
        if not isinstance(image, Image.Image):
            with Image.open(image) as file:
                file.load()
                image = file
        check_init_image(image, size, size)
        pixels = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
        pixels = pixels.view(1, size, size, 3).permute(0, 3, 1, 2)
        return self.dvae.encode(pixels.to(self.device))[0]

    def _upper_rows(
        self, init_image: str | Path | Image.Image | None, keep_rows: int | None
    ) -> dict[int, int]:
        """The tokens, by position, of the part of a picture that is kept."""
        grid = self.transformer.config.grid
        if init_image is None or keep_rows is None:
            raise ValueError("init_image and keep_rows go together: which picture, how much of it")
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


def check_init_image(image: Image.Image, width: int, height: int) -> None:
    """Raise ValueError unless a picture can be encoded as it is."""
    if image.size != (width, height):
        raise ValueError(
            f"init_image is {image.width}x{image.height}; it must be {width}x{height}: resize it"
        )
    if image.mode != "RGB":
        raise ValueError(f"init_image is in mode {image.mode}; it must be RGB: convert it")


@dataclass(frozen=True)
class Text:
    """What the transformer reads of P prompts."""

    read: torch.Tensor  # (P, T) int64 tokens, or (P, T, D) hidden states
    present: torch.Tensor  # (P, T) bool, False where the prompt has ended
    context: Context | None = None  # of P rows, where the prompt is read by cross-attention

    @staticmethod
    def together(texts: Sequence["Text"]) -> "Text":
        """Several prompts as one."""
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
        """Logits (P·N, V) of the prompt, and of what it is compared with, to logits (N, V)."""
        if self.guidance <= 1:
            return logits
        with_text, without = logits.chunk(2)
        return without + self.guidance * (with_text - without)


@dataclass(frozen=True)
class State:
    """All that a step changes, but for the cache, which follows from it."""

    seeds: tuple[int, ...]
    uniforms: torch.Tensor  # (N, I) float32, one for every token
    tokens: torch.Tensor  # (N, I) int64; those from `done` on mean nothing
    log_likelihood: torch.Tensor  # (N,) float32, of the tokens that were drawn
    done: int

    def rows(self, index: torch.Tensor) -> "State":
        """A State of some of the candidates."""
        return replace(
            self,
            seeds=tuple(self.seeds[i] for i in index.tolist()),
            uniforms=self.uniforms[index],
            tokens=self.tokens[index],
            log_likelihood=self.log_likelihood[index],
        )


class Draft:
    """Candidates in the making, as one batch; a step draws one image token of each.

    `seeds` are the candidates still in; every list follows their order. `failed` says, by seed,
    why `images()` has no picture. Tokens that are forced from the first on are there at once, so
    `done` begins behind them.
    """

    def __init__(
        self,
        pipeline: Dalle,
        text: Text,
        sampling: Sampling,
        forced: Mapping[int, int],
        seeds: tuple[int, ...],
        uniforms: torch.Tensor,
    ) -> None:
        self.failed: dict[int, str] = {}
        self.total = pipeline.transformer.config.image_length
        self._pipeline = pipeline
        self._text = text
        self._sampling = sampling
        self._forced = forced
        self._pictures: dict[int, torch.Tensor] = {}  # seed → uint8 (3, H, W)
        self._start = next((i for i in range(self.total) if i not in forced), self.total)
        tokens = torch.zeros(uniforms.shape, dtype=torch.int64)
        tokens[:, : self._start] = torch.tensor([forced[i] for i in range(self._start)])
        self._state: State | None = State(
            seeds,
            uniforms,
            tokens.to(uniforms.device),
            uniforms.new_zeros(len(seeds)),
            self._start,
        )
        self._cache: Cache
        self._first: torch.Tensor  # (P, V), the logits of the first token that is drawn
        self._prefill()

    @property
    def seeds(self) -> tuple[int, ...]:
        return self._open.seeds

    @property
    def done(self) -> int:
        """Image tokens so far, of `total`."""
        return self._open.done

    @property
    def log_likelihoods(self) -> list[float]:
        """Of the tokens drawn so far, in nats, under the prompt alone: at temperature 1, without
        guidance, and with all tokens to choose from."""
        return self._open.log_likelihood.tolist()

    @torch.inference_mode()
    def step(self, count: int = 1) -> None:
        """Draw `count` tokens of every candidate, or fewer if the draft is done before that.

        If it raises (memory, Ctrl-C), the draft is as it was before the call.
        """
        if count < 1:
            raise ValueError(f"count is {count}; it must be at least 1")
        state = self._open
        if self._cache.fed > state.done:  # a call that went further was given up
            self._replay()
        for _ in range(min(count, self.total - state.done)):
            state = self._drawn(state)
        self._state = state
        self.failed = {}

    def _drawn(self, state: State) -> State:
        """The state with one more token."""
        i = state.done
        logits = self._logits(state).float()  # (P·N, V)
        if i in self._forced:
            tokens = torch.full_like(state.tokens[:, i], self._forced[i])
            log_likelihood = state.log_likelihood
        else:
            sampling = self._sampling
            tokens = draw_tokens(
                sampling.guided(logits),
                state.uniforms[:, i],
                sampling.temperature,
                sampling.top_k,
                sampling.top_p,
            )
            likelihoods = logits[: len(tokens)].log_softmax(dim=-1)
            log_likelihood = state.log_likelihood + likelihoods.gather(1, tokens[:, None])[:, 0]
        state.tokens[:, i] = tokens  # nobody looks there until `done` says so
        return replace(state, log_likelihood=log_likelihood, done=i + 1)

    def _logits(self, state: State) -> torch.Tensor:
        """What the transformer says about the next token, (P·N, V)."""
        N, P = len(state.seeds), self._cache.prompts
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
            given[:, : self.total - 1],  # if all are given, there is nothing to draw
            candidates=len(state.seeds),
            context=self._text.context,
        )

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
        """The tokens so far by the real decoder, the rest in grey; None before the first token.

        The decoder is so cheap here that `exact` makes no difference. A candidate whose values are
        not finite is None in the list.
        """
        state = self._open
        if state.done == 0:
            return None
        if indices is not None:
            check_indices(indices, len(state.seeds))
            state = state.rows(torch.tensor(indices, device=state.tokens.device))
        drawn = torch.arange(self.total, device=state.tokens.device) < state.done
        factor, grid = self._pipeline.dvae.config.factor, self._pipeline.dvae.config.grid
        shown = drawn.view(grid, grid).repeat_interleave(factor, 0).repeat_interleave(factor, 1)
        pictures = self._paint(replace(state, tokens=state.tokens * drawn))
        return [None if p is None else decoding.to_image(p.where(shown, GREY)) for p in pictures]

    def keep(self, indices: Sequence[int]) -> None:
        """Drop all other candidates, in memory too. Raises ValueError unless `indices` increase."""
        check_indices(indices, len(self.seeds))
        index = torch.tensor(indices, device=self._open.tokens.device)
        cache = copy.copy(self._cache)
        cache.keep(index)
        self._become(index, cache)

    def _become(self, index: torch.Tensor, cache: Cache) -> None:
        """Go on with some of the candidates, whose cache is there already."""
        self._state, self._cache = self._open.rows(index), cache
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
        parts = torch.arange(N, device=self._open.tokens.device).tensor_split([N // 2])
        caches = self._cache.divide(parts)
        for half, part, cache in zip((first, second), parts, caches, strict=True):
            half._become(part, cache)
        self.close()
        return first, second

    def images(self) -> list[Image.Image | None]:
        """The finished pictures; None where none that is finite was made.

        The reasons are in `failed`. Raises RuntimeError before the last token.
        """
        self._decode()
        pictures = [self._pictures.get(seed) for seed in self.seeds]
        return [None if p is None else decoding.to_image(p) for p in pictures]

    def pixels(self) -> torch.Tensor:
        """The finished pictures as uint8 (M, 3, H, W) on the pipeline's device.

        One row per seed that is not in `failed`, in the order of `seeds`: M may be less than N.
        Raises RuntimeError before the last token.
        """
        self._decode()
        pictures = [self._pictures[seed] for seed in self.seeds if seed in self._pictures]
        if pictures:
            return torch.stack(pictures)
        size = self._pipeline.dvae.config.size
        return torch.empty((0, 3, size, size), dtype=torch.uint8, device=self._pipeline.device)

    def close(self) -> None:
        """Free everything. A closed draft can only be closed again."""
        self._state = None
        self._pictures = {}
        self.__dict__.pop("_cache", None)

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
            raise RuntimeError(f"the draft is at token {state.done} of {self.total}, not done")
        missing = [
            i
            for i, seed in enumerate(state.seeds)
            if seed not in self._pictures and seed not in self.failed
        ]
        if not missing:
            return
        rows = state.rows(torch.tensor(missing, device=state.tokens.device))
        pictures = zip(rows.seeds, self._paint(rows), strict=True)
        self._pictures.update({seed: p for seed, p in pictures if p is not None})

    def _paint(self, state: State) -> list[torch.Tensor | None]:
        """The pictures of a state's tokens; None for one that cannot be shown, which has failed."""
        dvae = self._pipeline.dvae
        codes = state.tokens.view(-1, dvae.config.grid, dvae.config.grid)
        pictures = decoding.decode_codes(dvae, codes)
        finite = state.log_likelihood.isfinite().tolist()
        for i, (seed, picture) in enumerate(zip(state.seeds, pictures, strict=True)):
            if not finite[i]:
                self.failed[seed] = "the network made values that are not finite"
                pictures[i] = None
            elif picture is None:
                self.failed[seed] = "the decoder made values that are not finite"
        return pictures
