"""Teach a model of image tokens what somebody prefers: `salon-train prefer` for the DALL·E path.

Direct preference optimisation (Rafailov et al., arXiv 2305.18290, equation 7): of two images of one
prompt, the tokens of the chosen one should become likelier than they were, by more than those of
the rejected one. How likely they are is asked of what draws, with its guidance and temperature:
images that were drawn so would else be learned for being typical, and guided once more. Beside it
stand the chosen one's own gain (Pang et al., arXiv 2404.19733, equation 1), without which both
become unlikely, and the distance from the old model at each token (the forward KL of Zeng et al.,
arXiv 2404.11999): a choice of whole images says little of any one token. What is learned is a LoRA
on the layers of the transformer, which is put into their weights when they are saved: what comes
out is a folder that `-m` takes.
"""

from __future__ import annotations

import copy
import json
import random
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import LoraConfig, LoraModel
from PIL import Image
from torch.nn import functional

from pipelines.checkpoints.loading import save_network
from pipelines.checkpoints.places import FACTS, UPSAMPLER
from pipelines.dalle.draft import Sampling, Text
from pipelines.dalle.layers import Context, Layer
from pipelines.dalle.pipeline import Dalle
from pipelines.dalle.transformer import Transformer
from rerank.learn.choices import Choice, files_of
from train.loop import Task
from train.prefer import drawn_sheet

LEARNING_RATE = 3e-3
ADAPTER = "preferred"


@dataclass(frozen=True)
class PreferTokensConfig:
    """How strongly the model may change; `beta` is how dear its old ways are to it, `anchor` times
    beta what the gain of the chosen image counts beside the difference, and `distance` what a nat
    of distance from the old model counts."""

    rank: int = 8  # with all weights it learns the very images by heart
    beta: float = 0.1
    anchor: float = 0.3
    distance: float = 0.03


@dataclass(frozen=True)
class PreferredTokens:
    """A batch of choices; I image tokens."""

    chosen: torch.Tensor  # (B, I) int64
    rejected: torch.Tensor  # (B, I) int64
    weights: torch.Tensor  # (B,)
    texts: Text  # of B prompts
    compared: Text  # of B, with guidance, what it leads away from


class PreferTokensTask(Task):
    """Trains the LoRA; the weights under it, the discrete VAE and what reads the prompt stay."""

    blocks = (Layer,)

    def __init__(
        self, pipeline: Dalle, choices: Sequence[Choice], config: PreferTokensConfig
    ) -> None:
        super().__init__()
        if pipeline.transformer.config.rotary:
            raise ValueError(
                f"{pipeline.spec.name} reads prompts of any length: it cannot learn yet"
            )
        self.choices, self.config = list(choices), config
        network = pipeline.transformer.requires_grad_(False)
        torch.manual_seed(0)  # of the first factors; the second begin as zeros
        lora = LoraConfig(r=config.rank, lora_alpha=config.rank, target_modules=_targets(network))
        self.transformer = LoraModel(network, lora, ADAPTER)
        self.frozen = (pipeline,)  # a tuple hides it from parameters()
        self.codes = {file: self._encode(file) for file in files_of(self.choices)}
        self.texts = {prompt: self._read(prompt) for prompt in {c.prompt for c in choices}}
        drawn = pipeline.spec.defaults
        self.sampling = Sampling(drawn["guidance"], drawn["temperature"], None, None)

    def batch(self, rng: random.Random, size: int, device: torch.device) -> PreferredTokens:
        """Draw choices."""
        drawn = [rng.choice(self.choices) for _ in range(size)]
        texts = [self.texts[choice.prompt] for choice in drawn]
        return PreferredTokens(
            torch.stack([self.codes[choice.chosen] for choice in drawn]).to(device),
            torch.stack([self.codes[choice.rejected] for choice in drawn]).to(device),
            torch.tensor([choice.weight for choice in drawn]).to(device),
            Text.together(texts),
            Text.together([self._copied(self.frozen[0].compared(text)) for text in texts]),
        )

    def forward(
        self, batch: PreferredTokens, generator: torch.Generator
    ) -> dict[str, torch.Tensor]:
        """Return the loss, how often the chosen image gains more than the rejected one, by how much
        the chosen one has become likelier, and how far the model is from the old one at all tokens
        of an image, in nats. Nothing here is left to chance."""
        codes = torch.cat([batch.chosen, batch.rejected])
        texts = [batch.texts] * 2
        if self.sampling.guidance > 1:
            texts += [batch.compared] * 2
        text = Text.together(texts)
        with torch.no_grad(), self._as_it_was():
            before = log_probabilities(self.transformer, text, codes, self.sampling)
        after = log_probabilities(self.transformer, text, codes, self.sampling)
        won, lost = (of_tokens(after, codes) - of_tokens(before, codes)).chunk(2)
        margin = self.config.beta * (won - lost)
        distance = functional.kl_div(after, before, reduction="none", log_target=True)
        apart = distance.sum(dim=(1, 2)).view(2, -1).mean(dim=0)
        each = -functional.logsigmoid(margin) - self.config.anchor * self.config.beta * won
        each = each + self.config.distance * apart
        loss = (batch.weights * each).sum() / batch.weights.sum()
        return {
            "loss": loss,
            "agrees": (margin > 0).float().mean(),
            "chosen": won.mean(),
            "distance": apart.mean(),
        }

    def sheet(self) -> Image.Image:
        """Four images of each of some prompts, by the model's own defaults."""
        return drawn_sheet(self.frozen[0], list(self.texts))

    def save(self, folder: Path) -> None:
        """Write the whole model, as `-m` reads it: the old one's files, and the new transformer."""
        spec = self.frozen[0].spec
        ours = shutil.ignore_patterns("transformer", "previews.json")
        shutil.copytree(spec.folder, folder, ignore=ours, dirs_exist_ok=True)
        beside = dict(spec.shared)  # what does not stand beside the copy
        if spec.upsampler is not None:
            beside[UPSAMPLER] = spec.upsampler
        for name, path in beside.items():
            shutil.copytree(path, folder / name, dirs_exist_ok=True)
        if (facts := folder / FACTS).is_file():
            told = json.loads(facts.read_text(encoding="utf-8"))
            kept = {name: told[name] for name in told if name not in ("shared", UPSAMPLER)}
            facts.write_text(json.dumps(kept, indent=2) + "\n", encoding="utf-8")
        merged = copy.deepcopy(self.transformer).merge_and_unload()
        save_network(merged, merged.config, folder / "transformer")

    @contextmanager
    def _as_it_was(self) -> Iterator[None]:
        """Compute without what was learned."""
        self.transformer.disable_adapter_layers()
        try:
            yield
        finally:
            self.transformer.enable_adapter_layers()

    def _encode(self, file: Path) -> torch.Tensor:
        """Return the tokens (I,) of an image. Raises ValueError for one of another size."""
        pipeline = self.frozen[0]
        side = pipeline.dvae.config.size
        with Image.open(file) as image:
            if image.size != (side, side):
                raise ValueError(f"{file} is not {side}x{side}, as the model draws")
            return pipeline.tokens(image.convert("RGB")).flatten().cpu().clone()

    def _read(self, prompt: str) -> Text:
        """Return what the transformer reads of a prompt, as tensors that training may use."""
        return self._copied(self.frozen[0].encode(prompt))

    def _copied(self, text: Text) -> Text:
        context = text.context
        if context is not None:
            context = Context(context.states.clone(), context.present.clone())
        return Text(text.read.clone(), text.present.clone(), context)


def log_probabilities(
    transformer: torch.nn.Module, text: Text, codes: torch.Tensor, sampling: Sampling
) -> torch.Tensor:
    """Return (B, I, V) nats: how likely each token of the vocabulary is drawn at each place, where
    those of `codes` (B, I) stand before it.

    `text` has B prompts and, with guidance, behind them the B that they are compared with.
    """
    every = codes.repeat(len(text.read) // len(codes), 1)
    logits = transformer(text.read, text.present, every, text.context).image.float()
    return functional.log_softmax(sampling.guided(logits) / (sampling.temperature or 1), dim=-1)


def of_tokens(nats: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
    """Return (B,) nats: how likely it is that the tokens `codes` (B, I) are drawn, all of them, by
    what is told of each, (B, I, V)."""
    return nats.gather(-1, codes[..., None]).squeeze(-1).sum(-1)


def _targets(transformer: Transformer) -> list[str]:
    """Return the names of the linear layers that learn."""
    return [
        f"{name}.{inner}"
        for name, layer in transformer.named_modules()
        if isinstance(layer, Layer)
        for inner, module in layer.named_modules()
        if isinstance(module, torch.nn.Linear)
    ]
