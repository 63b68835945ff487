"""Teach a model of latent diffusion what somebody prefers: `salon-train prefer`.

Diffusion-DPO (Wallace et al., arXiv 2311.12908, equation 14): of two images of one prompt, noised
alike, the network should become better at the chosen one than it was, by more than at the rejected
one. Beside it stands the chosen one's own gain (as in Pang et al., arXiv 2404.19733, equation 1, of
language models), lest the network just become worse at both. What is learned is a LoRA on the
attention layers, as diffusers saves it.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from diffusers.utils import convert_state_dict_to_diffusers
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from PIL import Image
from torch.nn import functional

from pipelines.decoding import encode
from pipelines.diffusion.draft import Condition
from pipelines.diffusion.pipeline import LatentDiffusion
from pipelines.diffusion.samplers import make_scheduler
from pipelines.diffusion.text import Encoding
from pipelines.drafts import Pipeline
from rerank.learn.choices import Choice, files_of
from train.diffusion import logit_normal
from train.loop import Task
from train.sheets import tile

TARGETS = ("to_q", "to_k", "to_v", "to_out.0")
LEARNING_RATE = 2e-3  # for 5 million parameters; larger networks want less
SHOWN = 8  # prompts on a contact sheet


@dataclass(frozen=True)
class PreferConfig:
    """How strongly the model may change.

    `beta` is how dear its old ways are to it, `anchor` times beta what the gain of the chosen image
    counts beside the difference. Times are logit-normal, as in `train.diffusion`: there it is
    decided what stands where.
    """

    rank: int = 32
    beta: float = 50.0
    anchor: float = 0.2
    time_mean: float = 0.4
    time_deviation: float = 1.0


@dataclass(frozen=True)
class Preferred:
    """A batch of choices."""

    chosen: torch.Tensor  # (B, C, h, w) latents
    rejected: torch.Tensor  # (B, C, h, w)
    weights: torch.Tensor  # (B,)
    texts: list[Encoding]


class PreferTask(Task):
    """Trains the LoRA; all else stays as it is."""

    alpha_bars: torch.Tensor

    def __init__(
        self, pipeline: LatentDiffusion, choices: Sequence[Choice], config: PreferConfig
    ) -> None:
        super().__init__()
        self.choices, self.config = list(choices), config
        pipeline.unet.requires_grad_(False)
        torch.manual_seed(0)  # of the first factors; the second begin as zeros
        pipeline.unet.add_adapter(
            LoraConfig(r=config.rank, lora_alpha=config.rank, target_modules=list(TARGETS))
        )
        self.frozen = (pipeline,)  # a tuple hides it from parameters()
        learned = [p for p in pipeline.unet.parameters() if p.requires_grad]
        self.lora = torch.nn.ParameterList(learned)
        scheduler = make_scheduler("ddim", "default", pipeline.scheduler_config)
        self.register_buffer("alpha_bars", scheduler.alphas_cumprod.clone(), persistent=False)
        self.prediction_type = scheduler.config.prediction_type
        self.latents = self._encode()
        self.texts = {prompt: self._read(prompt) for prompt in {c.prompt for c in choices}}

    def batch(self, rng: random.Random, size: int, device: torch.device) -> Preferred:
        """Draw choices."""
        drawn = [rng.choice(self.choices) for _ in range(size)]
        return Preferred(
            torch.stack([self.latents[choice.chosen] for choice in drawn]).to(device),
            torch.stack([self.latents[choice.rejected] for choice in drawn]).to(device),
            torch.tensor([choice.weight for choice in drawn]).to(device),
            [self.texts[choice.prompt] for choice in drawn],
        )

    def forward(self, batch: Preferred, generator: torch.Generator) -> dict[str, torch.Tensor]:
        """Return the loss, how often the chosen image gains more than the rejected one, and what
        each gains of the mean squared error."""
        B = len(batch.chosen)
        mean, deviation = self.config.time_mean, self.config.time_deviation
        t = logit_normal(B, len(self.alpha_bars), mean, deviation, generator)  # the same for both
        noise = torch.randn(batch.chosen.shape, generator=generator).to(batch.chosen.device)
        x_0 = torch.cat([batch.chosen, batch.rejected])
        t, noise = t.to(x_0.device).repeat(2), noise.repeat(2, 1, 1, 1)
        unet = self.frozen[0].unet
        error = self._error(x_0, noise, t, batch.texts * 2)
        unet.disable_adapters()
        try:
            with torch.no_grad():
                before = self._error(x_0, noise, t, batch.texts * 2)
        finally:
            unet.enable_adapters()
        won, lost = (before - error).chunk(2)  # by how much each has become better
        margin = self.config.beta * (won - lost)
        each = -functional.logsigmoid(margin) - self.config.anchor * self.config.beta * won
        return {
            "loss": (batch.weights * each).sum() / batch.weights.sum(),
            "agrees": (margin > 0).float().mean(),
            "chosen": won.mean(),
            "rejected": lost.mean(),
        }

    def sheet(self) -> Image.Image:
        """Four images of each of some prompts, by the model's own defaults."""
        return drawn_sheet(self.frozen[0], list(self.texts))

    def save(self, folder: Path) -> None:
        """Write pytorch_lora_weights.safetensors, which diffusers and `--lora` read."""
        state = convert_state_dict_to_diffusers(get_peft_model_state_dict(self.frozen[0].unet))
        StableDiffusionPipeline.save_lora_weights(folder, unet_lora_layers=state)

    def _error(
        self, x_0: torch.Tensor, noise: torch.Tensor, t: torch.Tensor, texts: list[Encoding]
    ) -> torch.Tensor:
        """Return (B,) the mean squared error of what the network predicts at each t."""
        alpha_bar = self.alpha_bars[t].view(-1, 1, 1, 1)
        alpha, sigma = alpha_bar.sqrt(), (1 - alpha_bar).sqrt()
        x_t = alpha * x_0 + sigma * noise
        target = noise
        if self.prediction_type == "v_prediction":
            target = alpha * noise - sigma * x_0
        pipeline = self.frozen[0]
        sizes = None
        if pipeline.takes_sizes:
            height, width = (side * 8 for side in x_0.shape[2:])
            sizes = torch.tensor([[height, width, 0, 0, height, width]], device=x_0.device)
        condition = Condition((texts[0],), (1.0,), None, 1.0, None, sizes)
        output = condition.evaluate(pipeline.unet, x_t, t, texts)
        return (output - target).square().mean(dim=(1, 2, 3))

    @torch.no_grad()
    def _encode(self) -> dict[Path, torch.Tensor]:
        """Return the latents (C, h, w) of all images. Raises ValueError for one of another size."""
        pipeline = self.frozen[0]
        size = pipeline.spec.defaults["width"], pipeline.spec.defaults["height"]
        latents = {}
        for file in files_of(self.choices):
            with Image.open(file) as image:
                if image.size != size:
                    raise ValueError(f"{file} is not {size[0]}x{size[1]}, as the model draws")
                pixels = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)
            latents[file] = encode(pipeline.vae, pixels[None] / 127.5 - 1)[0].float().cpu().clone()
        return latents

    def _read(self, prompt: str) -> Encoding:
        """Return what the text encoders make of a prompt, as tensors that training may use."""
        told = self.frozen[0].text.encode(prompt)
        pooled = None if told.pooled is None else told.pooled.clone()
        return replace(told, hidden=told.hidden.clone(), pooled=pooled)


def drawn_sheet(pipeline: Pipeline, prompts: Sequence[str]) -> Image.Image:
    """Return four images of each of the first prompts, drawn with the model's own defaults."""
    shown, images = prompts[:SHOWN], []
    for prompt in shown:
        with pipeline.begin(prompt, seeds=range(4)) as draft:
            draft.step(draft.total)
            images.append(draft.pixels().cpu())
    captions = [prompt for prompt in shown for _ in range(4)]
    return tile(torch.cat(images), columns=8, captions=captions)
