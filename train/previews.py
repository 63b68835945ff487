"""Learn what unfinished images tell: `salon-train previews -m MODEL` writes its previews.json.

Scenes that no evaluation has are asked for, many candidates of each; at each look of the search the
reranker scores what is there, and at the end the world's judge says which candidates became right.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from tqdm import tqdm

from gen.engine import Engine
from pipelines import families
from pipelines.checkpoints.hashes import files_hash
from pipelines.drafts import complete
from rerank import Reranker
from rerank.calibration.calibration import expected_error, fit
from rerank.learn.previews import PreviewHead, evidence
from train.worlds import World

HELD_OUT = 5  # each so-many-th prompt is measured on, and not learned from


@dataclass(frozen=True)
class Seen:
    """The candidates of one prompt at one look, and what became of them."""

    share: float  # of the way
    cosines: torch.Tensor  # (N,), not finite where there was nothing to be seen
    likelihoods: torch.Tensor | None  # (N,) in nats per token
    right: torch.Tensor  # (N,) bool

    @property
    def evidence(self) -> torch.Tensor:
        """(N, F)."""
        return evidence(self.cosines, self.likelihoods)


def collect(
    model: str, reranker: Reranker, world: World, prompts: int, candidates: int
) -> list[list[Seen]]:
    """Return for each prompt what is seen at each look of a search by that model."""
    spec = families.find(model)
    course = families.family_of(spec).course(spec, spec.defaults)
    if course is None:
        raise ValueError(f"{spec.name} shows nothing half-way")
    shares = sorted({*course.looks, *course.forks})
    pipeline, rng = Engine().pipeline(spec), random.Random("previews")
    found = []
    for first in tqdm(range(0, prompts * candidates, candidates), unit="prompt", leave=False):
        asked = world.ask(rng)
        looks = []
        with pipeline.begin(asked.text, seeds=range(first, first + candidates)) as draft:
            for share in shares:
                stride, length = course.stride, course.total - course.start
                step = course.start + stride * max(1, round(share * length / stride))
                draft.step(step - draft.done)
                seeds, images = complete([draft])
                cosines = torch.full((candidates,), torch.nan)
                places = [seed - first for seed in seeds]
                cosines[places] = torch.tensor(reranker.score(asked.text, images))
                told = draft.log_likelihoods
                likelihoods = None if told is None else torch.tensor(told) / draft.done
                looks.append((step / course.total, cosines, likelihoods))
            draft.step(draft.total)
            right = torch.zeros(candidates, dtype=torch.bool)
            made = [i for i, seed in enumerate(draft.seeds) if seed not in draft.failed]
            judged = world.look(draft.pixels().cpu(), asked.description)
            right[made] = torch.tensor([each for each, _ in judged])
        found.append([Seen(*look, right) for look in looks])
    return found


def learn_head(
    found: Sequence[Sequence[Seen]], reranker: Reranker
) -> tuple[PreviewHead, list[str]]:
    """Learn from all but each fifth prompt; return the head, and what it is worth on those."""
    train = [looks for i, looks in enumerate(found) if i % HELD_OUT]
    test = [looks for i, looks in enumerate(found) if not i % HELD_OUT]
    learned, lines = {}, []
    for number, first in enumerate(found[0]):
        rows = [looks[number] for looks in train]
        x, y = torch.cat([row.evidence for row in rows]), torch.cat([row.right for row in rows])
        logistic = fit(x, y)
        learned[first.share] = logistic
        held = [looks[number] for looks in test]
        told = [logistic(row.evidence.float()) for row in held]
        error = expected_error(
            torch.cat(told).tolist(), torch.cat([row.right for row in held]).tolist()
        )
        alone = _mean_auc([row.cosines for row in held], held)
        together = _mean_auc(told, held)
        lines.append(
            f"at {first.share:.0%}: tells right from wrong candidates of a prompt with AUC "
            f"{together:.3f} (the cosine alone {alone:.3f}), calibration error {error:.3f}"
        )
    return PreviewHead(files_hash(reranker.folder), learned), lines


def _mean_auc(scores: Sequence[torch.Tensor], rows: Sequence[Seen]) -> float:
    """Return the mean over prompts of how often a right candidate scores above a wrong one."""
    found = []
    for score, row in zip(scores, rows, strict=True):
        good, bad = score[row.right], score[~row.right]
        if len(good) and len(bad):
            above = (good[:, None] > bad).float() + 0.5 * (good[:, None] == bad).float()
            found.append(float(above.mean()))
    return sum(found) / len(found) if found else float("nan")
