"""A LoRA on the transformer of a model of image tokens, whatever it learns by."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
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
from train.loop import Task
from train.prefer import drawn_sheet

ADAPTER = "preferred"


class TokenLoraTask(Task):
    """Trains the LoRA; the weights under it, the discrete VAE and what reads the prompt stay.

    It is on all linear layers of the transformer, and is put into their weights when they are
    saved: what comes out is a folder that `-m` takes.
    """

    def __init__(self, pipeline: Dalle, prompts: Sequence[str], rank: int) -> None:
        """Raise ValueError for a model that cannot learn."""
        super().__init__()
        if pipeline.transformer.config.rotary:
            raise ValueError(
                f"{pipeline.spec.name} reads prompts of any length: it cannot learn yet"
            )
        network = pipeline.transformer.requires_grad_(False)
        torch.manual_seed(0)  # of the first factors; the second begin as zeros
        lora = LoraConfig(r=rank, lora_alpha=rank, target_modules=_targets(network))
        self.transformer = LoraModel(network, lora, ADAPTER)
        self.frozen = (pipeline,)  # a tuple hides it from parameters()
        self.prompts = list(dict.fromkeys(prompts))
        drawn = pipeline.spec.defaults
        self.sampling = Sampling(drawn["guidance"], drawn["temperature"], None, None)

    def sheet(self) -> Image.Image:
        """Four images of each of some prompts, by the model's own defaults."""
        return drawn_sheet(self.frozen[0], self.prompts)

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

    def read(self, prompts: Sequence[str]) -> Text:
        """Return what the transformer reads of P prompts and, with guidance, behind them what each
        is compared with."""
        read = {prompt: self._read(prompt) for prompt in dict.fromkeys(prompts)}
        texts = [read[prompt] for prompt in prompts]
        if self.sampling.guidance > 1:
            texts += [self._copied(self.frozen[0].compared(text)) for text in texts]
        return Text.together(texts)

    def before_and_after(
        self, text: Text, codes: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return (B, I, V) nats twice: how likely each token of the vocabulary is drawn at each
        place, where those of `codes` (B, I) stand before it, by the old model and by the new."""
        with torch.no_grad(), self._as_it_was():
            before = log_probabilities(self.transformer, text, codes, self.sampling)
        return before, log_probabilities(self.transformer, text, codes, self.sampling)

    @contextmanager
    def _as_it_was(self) -> Iterator[None]:
        """Compute without what was learned."""
        self.transformer.disable_adapter_layers()
        try:
            yield
        finally:
            self.transformer.enable_adapter_layers()

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


def distance(drawn: torch.Tensor, told: torch.Tensor) -> torch.Tensor:
    """Return (B,) nats: KL(drawn ‖ told) of all tokens of an image, of nats (B, I, V) each."""
    each = functional.kl_div(told, drawn, reduction="none", log_target=True)
    return each.sum(dim=(1, 2))


def _targets(transformer: Transformer) -> list[str]:
    """Return the names of the linear layers that learn."""
    return [
        f"{name}.{inner}"
        for name, layer in transformer.named_modules()
        if isinstance(layer, Layer)
        for inner, module in layer.named_modules()
        if isinstance(module, torch.nn.Linear)
    ]
