"""The token model: a transformer that draws the codes of the discrete VAE, one after the other,
conditioned on the frozen CLIP text encoder as a projected prefix (`pipelines.dalle.transformer`).

Ramesh et al. (arXiv 2102.12092, §2.2), with captions dropped now and then for classifier-free
guidance (Ho & Salimans, arXiv 2207.12598). Codes are made in bulk ahead and kept in memory;
captions are new each time that an image is used.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import CLIPTextModel, CLIPTokenizer

from pipelines.checkpoints.loading import save_network
from pipelines.dalle.cache import advance, prefill
from pipelines.dalle.draft import Sampling, Text
from pipelines.dalle.dvae import DiscreteVae
from pipelines.dalle.layers import Layer
from pipelines.dalle.masks import Mask
from pipelines.dalle.token_sampling import draw_tokens
from pipelines.dalle.transformer import Transformer, TransformerConfig, token_loss
from train.diffusion import ENCODED_TOGETHER, SHEET_PROMPTS, draw_indices, save_text_encoder
from train.loop import Task
from train.sheets import tile
from train.stickers.captions import phrase
from train.stickers.facts import describe
from train.stickers.renderer import render
from train.stickers.scene import Scene, draw_scene
from train.stickers.wording import Wording


@dataclass(frozen=True)
class DalleRecipe:
    width: int = 192
    heads: int = 6
    # Row and column layers find what is near and what is above at once, full ones the whole.
    masks: tuple[Mask, ...] = (Mask.ROW, Mask.COLUMN, Mask.FULL) * 2
    reads_hidden_states: bool = True  # of the text encoder; else text tokens in the stream
    drop_captions: float = 0.1
    gradient_checkpointing: bool = False
    pool: int = 60_000  # scenes with codes made ahead
    snap: bool = True
    free: float = 0.0  # of the captions are in free wordings


def build(
    recipe: DalleRecipe, dvae: DiscreteVae, text_encoder: CLIPTextModel, tokenizer: CLIPTokenizer
) -> Transformer:
    """Return the network with fresh weights."""
    hidden = recipe.reads_hidden_states
    config = TransformerConfig(
        grid=dvae.config.grid,
        image_vocabulary=dvae.config.vocabulary,
        text_length=tokenizer.model_max_length,
        text_vocabulary=None if hidden else len(tokenizer),
        prefix_width=text_encoder.config.hidden_size if hidden else None,
        width=recipe.width,
        heads=recipe.heads,
        masks=recipe.masks,
    )
    transformer = Transformer(config)
    transformer.gradient_checkpointing = recipe.gradient_checkpointing
    return transformer


@dataclass(frozen=True)
class DalleBatch:
    codes: torch.Tensor  # (B, I) int64
    tokens: torch.Tensor  # (B, T) int64
    present: torch.Tensor  # (B, T) bool, False where the caption has ended


class DalleTask(Task):
    """Trains the transformer; the discrete VAE and the text encoder stay as they are."""

    blocks = (Layer,)

    def __init__(
        self,
        recipe: DalleRecipe,
        dvae: DiscreteVae,
        text_encoder: CLIPTextModel,
        tokenizer: CLIPTokenizer,
        cache: Path | None = None,
    ) -> None:
        super().__init__()
        self.recipe, self.tokenizer, self.cache = recipe, tokenizer, cache
        self.frozen = (dvae.eval(), text_encoder.eval())  # a tuple hides them from parameters()
        self.transformer = build(recipe, dvae, text_encoder, tokenizer)
        self.wording = Wording(recipe.free) if recipe.free else None
        self.pool: CodePool | None = None

    def batch(self, rng: random.Random, size: int, device: torch.device) -> DalleBatch:
        if self.pool is None:
            dvae = self.frozen[0].to(device)
            self.pool = CodePool(dvae, self.recipe.pool, self.recipe.snap, self.cache)
        indices = draw_indices(self.pool.scenes, size, rng, even=self.recipe.free == 0)
        say = phrase if self.wording is None else self.wording.say
        captions = [
            ""
            if rng.random() < self.recipe.drop_captions
            else say(describe(self.pool.scenes[index], rng), rng)
            for index in indices
        ]
        tokens, present = tokenize(self.tokenizer, captions)
        codes = self.pool.codes[indices].long()
        return DalleBatch(codes.to(device), tokens.to(device), present.to(device))

    def forward(self, batch: DalleBatch, generator: torch.Generator) -> dict[str, torch.Tensor]:
        output = self.transformer(self.read(batch.tokens), batch.present, batch.codes)
        text = None if self.recipe.reads_hidden_states else batch.tokens
        right = (output.image.argmax(dim=-1) == batch.codes).float().mean()
        return {**token_loss(output, text, batch.present, batch.codes), "right": right}

    def read(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return what the transformer reads of tokens (B, T): themselves or their hidden states."""
        if not self.recipe.reads_hidden_states:
            return tokens
        with torch.no_grad():
            return self.frozen[1].to(tokens.device)(tokens).last_hidden_state

    def sheet(self) -> Image.Image:
        """Four images of each of a dozen prompts, guidance 2, seed 0."""
        prompts = [prompt for prompt in SHEET_PROMPTS for _ in range(4)]
        return tile(self.draw(prompts, seed=0), columns=12, captions=prompts)

    def draw(
        self, prompts: Sequence[str], seed: int, guidance: float = 2.0, temperature: float = 1.0
    ) -> torch.Tensor:
        """(N, 3, H, W) uint8."""
        transformer, N = self.transformer, len(prompts)
        device = transformer.head.weight.device
        dvae = self.frozen[0].to(device)
        compared = [""] * N if guidance > 1 else []
        tokens, present = tokenize(self.tokenizer, [*prompts, *compared])
        text = Text(self.read(tokens.to(device)), present.to(device))
        length = transformer.config.image_length
        uniforms = torch.rand(N, length, generator=torch.Generator().manual_seed(seed)).to(device)
        sampling = Sampling(guidance, temperature, None, None)
        codes = draw_codes(transformer, text, sampling, uniforms)
        codes = codes.view(N, dvae.config.grid, dvae.config.grid)
        return (dvae.decode(codes) * 255).round().to(torch.uint8)

    def save(self, folder: Path) -> None:
        """Return the transformer, and with it the networks whose language it learned."""
        dvae, text_encoder = self.frozen
        save_network(self.transformer, self.transformer.config, folder / "transformer")
        save_network(dvae, dvae.config, folder / "dvae")
        if self.recipe.reads_hidden_states:
            save_text_encoder(text_encoder, folder / "text_encoder")


def draw_codes(
    transformer: Transformer, text: Text, sampling: Sampling, uniforms: torch.Tensor
) -> torch.Tensor:
    """Draw the tokens (B, I) of B images by as many uniform numbers (B, I) in [0, 1).

    `text` has the prompts, each for as many images as the others, prompt by prompt, and with a
    guidance above 1 behind them those that they are compared with.
    """
    both = 2 if sampling.guidance > 1 else 1
    rows = len(uniforms) * both
    nothing = torch.zeros(len(text.read), 0, dtype=torch.int64, device=uniforms.device)
    candidates = rows // len(text.read)
    cache, first = prefill(
        transformer, text.read, text.present, nothing, candidates, context=text.context
    )
    logits = first.repeat_interleave(candidates, dim=0)  # (rows, V)
    drawn: list[torch.Tensor] = []
    for position in range(uniforms.shape[1]):
        if drawn:
            logits = advance(transformer, cache, drawn[-1].repeat(both), position - 1)
        guided = sampling.guided(logits.float())
        drawn.append(draw_tokens(guided, uniforms[:, position], sampling.temperature))
    return torch.stack(drawn, dim=1)


class CodePool:
    """Scenes with their codes, made once and kept in the file `cache`.

    Raises ValueError for a file of another size, or by another discrete VAE.
    """

    def __init__(self, dvae: DiscreteVae, size: int, snap: bool, cache: Path | None) -> None:
        rng = random.Random(f"pool:{size}:{snap}")
        self.scenes: list[Scene] = [draw_scene(rng, snap=snap) for _ in range(size)]
        maker = fingerprint(dvae)
        if cache is None:
            self.codes = self._encode(dvae)  # (size, I) int16
            return
        if not cache.is_file():
            save_file({"codes": self._encode(dvae)}, cache, {"dvae": maker})
        with safe_open(cache, framework="pt") as file:
            made_by, self.codes = file.metadata()["dvae"], file.get_tensor("codes")
        if (made_by, len(self.codes)) != (maker, size):
            raise ValueError(f"{cache} holds codes of another discrete VAE or pool: remove it")

    @torch.inference_mode()
    def _encode(self, dvae: DiscreteVae) -> torch.Tensor:
        device = dvae.decoder.input.weight.device
        parts = []
        for start in range(0, len(self.scenes), ENCODED_TOGETHER):
            images = render(self.scenes[start : start + ENCODED_TOGETHER], device=device)
            parts.append(dvae.encode(images).flatten(1).to(torch.int16).cpu())
        return torch.cat(parts)


def fingerprint(network: torch.nn.Module) -> str:
    """Return a hash of the weights."""
    total = hashlib.sha256()
    for name, value in network.state_dict().items():
        total.update(name.encode() + value.cpu().contiguous().numpy().tobytes())
    return total.hexdigest()


def tokenize(
    tokenizer: CLIPTokenizer, captions: Sequence[str]
) -> tuple[torch.Tensor, torch.Tensor]:
    """(B, T) int64 tokens, filled up to the whole context, and (B, T) bool where they are words."""
    encoded = tokenizer(list(captions), padding="max_length", truncation=True, return_tensors="pt")
    return encoded["input_ids"], encoded["attention_mask"].bool()
