"""Teach a model of image tokens by what its own images are worth: `salon-train reinforce`.

The policy gradient of learning from people (Ouyang et al., arXiv 2203.02155) and from what can be
verified. In each step the model draws a group of images of each of some prompts; those that are
worth more than the others of their group become likelier, and those worth less become unlikelier
(GRPO: Shao et al., arXiv 2402.03300, §4.1, with one update for each drawing). What an image
is worth says a reward head that was learned from choices beside a reranker, or a world's judge. A
file of choices can be learned by heart; here no image comes twice. To draw is cheaper than to learn
from what is drawn, so of each group the best and the worst are learned from (Xu et al., arXiv
2504.13818), and nothing of one whose images are all worth the same.

As in `train.prefer_tokens`, the likelihood is that of drawing with the model's guidance and
temperature, and the distance from the old model is held at each token. Here it is the one that
costs much where the new model draws what the old one would not, and little where it leaves out what
the old one would: what comes of it is near to choosing the best of several of the old one's images.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count

import torch

from pipelines.dalle.draft import Text
from pipelines.dalle.pipeline import Dalle
from pipelines.drafts import to_uint8
from rerank.panel import standardised
from train.dalle import draw_codes
from train.rewards import Rewards
from train.token_lora import TokenLoraTask, distance, of_tokens

LEARNING_RATE = 2e-3


@dataclass(frozen=True)
class ReinforceConfig:
    """`group` is how many images of a prompt are drawn, `extremes` of how many of the best and as
    many of the worst is learned, `distance` what a nat of distance from the old model counts, where
    one deviation of what these are worth counts 1."""

    rank: int = 8
    group: int = 16
    extremes: int = 4
    distance: float = 0.25

    def __post_init__(self) -> None:
        if self.group < 2:
            raise ValueError(f"{self.group} candidate: at least 2 of a prompt are compared")


@dataclass(frozen=True)
class Drawing:
    """What is drawn in a step: P prompts, and for each image B = P · group its chance."""

    prompts: list[str]
    text: Text  # as `TokenLoraTask.read` has it
    uniforms: torch.Tensor  # (B, I)


class ReinforceTask(TokenLoraTask):
    """Learns from rewards. Each process draws by itself, so the network cannot be sharded."""

    def __init__(
        self, pipeline: Dalle, prompts: Sequence[str], rewards: Rewards, config: ReinforceConfig
    ) -> None:
        super().__init__(pipeline, prompts, config.rank)
        self.rewards, self.config = rewards, config

    def batch(self, rng: random.Random, size: int, device: torch.device) -> Drawing:
        """Choose prompts."""
        prompts = rng.sample(self.prompts, min(size, len(self.prompts)))
        generator = torch.Generator().manual_seed(rng.getrandbits(63))
        length = self.frozen[0].transformer.config.image_length
        uniforms = torch.rand(len(prompts) * self.config.group, length, generator=generator)
        return Drawing(prompts, self.read(prompts), uniforms.to(device))

    def forward(self, batch: Drawing, generator: torch.Generator) -> dict[str, torch.Tensor]:
        """Return the loss, the mean of each kind of reward, and how far the model is from the old
        one at all tokens of an image that it draws, in nats. Chance is in the batch."""
        codes, images = self._draw(batch)
        seen = [
            self.rewards(prompt, own)
            for prompt, own in zip(batch.prompts, images.split(self.config.group), strict=True)
        ]
        index, worth = self._compared([each.scores for each in seen])
        prompts = [batch.prompts[int(i) // self.config.group] for i in index]
        codes = codes[index.to(codes.device)]
        before, after = self.before_and_after(self.read(prompts), codes)
        apart = distance(after, before).mean()
        gain = (worth.to(codes.device) * of_tokens(after, codes)).mean()
        figures = {"loss": self.config.distance * apart - gain, "distance": apart}
        for name in seen[0].parts:
            raw = torch.tensor([value for each in seen for value in each.parts[name]])
            figures[name] = raw.nanmean()
        return figures

    def _compared(self, scores: Sequence[Sequence[float]]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return which images (K,) are learned from, and what each is worth beside the others of
        its prompt. Where those of each prompt are all alike, two are, and worth nothing."""
        number = min(self.config.extremes, self.config.group // 2)
        found, worth = [], []
        for first, own in zip(count(step=self.config.group), scores, strict=False):
            values = torch.tensor(own).nan_to_num()
            order = values.argsort(stable=True)
            ends = torch.cat([order[:number], order[-number:]])
            beside = standardised(values[ends].tolist()).float()
            if beside.any():
                found.append(first + ends)
                worth.append(beside)
        if not found:
            return torch.arange(2), torch.zeros(2)
        return torch.cat(found), torch.cat(worth)

    @torch.no_grad()
    def _draw(self, batch: Drawing) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the tokens (B, I) that the present weights draw, and the images, uint8
        (B, 3, H, W) on the CPU."""
        pipeline = self.frozen[0]
        codes = draw_codes(pipeline.transformer, batch.text, self.sampling, batch.uniforms)
        grid = pipeline.dvae.config.grid
        return codes, to_uint8(pipeline.dvae.decode(codes.view(-1, grid, grid))).cpu()
