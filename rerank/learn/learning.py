"""Learn what somebody prefers: a reward head on a reranker's features, from choices between two.

The probability that image a is preferred to b is σ(r(a) − r(b)) (Bradley and Terry, Biometrika 39,
1952), and the reward r is linear in the features, so this is a logistic regression on differences
of features. It is regularised, and what it is worth is measured on choices about other prompts.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file

from rerank.images import Encoded
from rerank.learn.choices import Choice
from rerank.whole_files import written_whole

FOLDS = 5
STRENGTHS = (1e-3, 1e-2, 1e-1, 1.0)  # of the penalty, in the data's own scale
ITERATIONS = 12  # of Newton's method
ENOUGH = 0.01  # accuracy that twice as many choices would bring: with less there are enough
MOST_WANTED = 1_000_000


@dataclass(frozen=True)
class Learned:
    """A reward head, and what it is worth.

    `accuracy` is the share of choices about prompts it did not see that it makes as the person did,
    `low` and `high` are its 95 % interval; chance is 0.5. `wanted` is about how many more choices
    would still make a difference, 0 for none.
    """

    weight: torch.Tensor  # (D,) on features of length 1
    choices: int
    strength: float
    accuracy: float
    low: float
    high: float
    wanted: int

    def summary(self) -> str:
        """Say in a line what it is worth."""
        more = f"about {self.wanted} more choices would help" if self.wanted else "that is enough"
        return (
            f"makes {self.accuracy:.1%} of the choices about other prompts as you did "
            f"[{self.low:.1%}, {self.high:.1%}]; learned from {self.choices}, {more}"
        )

    def save(self, file: Path, weights: str) -> None:
        """Write a head that `--head FILE` takes; `weights` is the hash of the reranker's."""
        facts = {
            "activation": "none",
            "weights": weights,
            "choices": str(self.choices),
            "accuracy": f"{self.accuracy:.4f}",
        }
        tensors = {"weight": self.weight[None].float(), "bias": torch.zeros(1)}
        with written_whole(file) as temporary:
            save_file(tensors, temporary, facts)


def learn_choices(choices: Sequence[Choice], files: Sequence[Path], encoded: Encoded) -> Learned:
    """Learn from choices between encoded files; those about files that failed are left out."""
    rows = enumerate(zip(files, encoded.features, strict=True))
    features = {file: row for index, (file, row) in rows if index not in encoded.failed}
    known = [c for c in choices if c.chosen in features and c.rejected in features]
    if not known:
        raise ValueError("none of the choices is between two images that can be read")
    return learn(
        torch.stack([features[choice.chosen] for choice in known]),
        torch.stack([features[choice.rejected] for choice in known]),
        [choice.prompt for choice in known],
        [choice.weight for choice in known],
    )


def learn(
    chosen: torch.Tensor,
    rejected: torch.Tensor,
    prompts: Sequence[str],
    weights: Sequence[float] | None = None,
) -> Learned:
    """Learn from features (N, D) of what was chosen and of what was rejected, for N prompts.

    Raises ValueError for features that are not finite, and for choices about fewer than two
    prompts: then there is nothing to measure by.
    """
    x = (chosen - rejected).double().cpu()
    if not x.isfinite().all():
        raise ValueError("features are not all finite: leave out images that could not be read")
    names = list(dict.fromkeys(prompts))
    if len(names) < 2:
        raise ValueError("choices about one prompt only: choose among images of several prompts")
    order = torch.randperm(len(names), generator=torch.Generator().manual_seed(0)).tolist()
    fold_of = {names[i]: place % FOLDS for place, i in enumerate(order)}
    folds = torch.tensor([fold_of[prompt] for prompt in prompts])
    w = torch.ones(len(x)) if weights is None else torch.tensor(weights)
    w = w.double()

    scale = x.pow(2).mean(0).sqrt().clamp(min=1e-9)
    x = x / scale
    right = {strength: _cross_validated(x, w, folds, strength) for strength in STRENGTHS}
    strength = max(STRENGTHS, key=lambda s: (_share(right[s], w), s))
    accuracy = _share(right[strength], w)
    half = _share(_cross_validated(x, w, folds, strength, every=2), w)
    low, high = _interval(right[strength], w, prompts)
    return Learned(
        weight=(_fit(x, w, strength) / scale).float(),
        choices=len(x),
        strength=strength,
        accuracy=accuracy,
        low=low,
        high=high,
        wanted=_wanted(len(x), 1 - half, 1 - accuracy),
    )


def _fit(x: torch.Tensor, w: torch.Tensor, strength: float) -> torch.Tensor:
    """Maximise the weighted likelihood of all differences (N, D) being preferred; return (D,)."""
    theta = torch.zeros(x.shape[1], dtype=torch.float64)
    ridge = strength * w.sum() * torch.eye(len(theta), dtype=torch.float64)
    for _ in range(ITERATIONS):
        p = torch.sigmoid(x @ theta)
        gradient = ridge @ theta - x.T @ (w * (1 - p))
        hessian = (x * (w * p * (1 - p))[:, None]).T @ x + ridge
        step = torch.linalg.solve(hessian, gradient)
        theta = theta - step
        if step.norm() < 1e-6 * (1 + theta.norm()):
            break
    return theta


def _cross_validated(
    x: torch.Tensor, w: torch.Tensor, folds: torch.Tensor, strength: float, every: int = 1
) -> torch.Tensor:
    """Return (N,) what is told right, from 0 to 1, of choices that were held out.

    With `every`, only each so-many-th choice of the others is learned from.
    """
    right = torch.zeros(len(x), dtype=torch.float64)
    for fold in folds.unique():
        train = (folds != fold).nonzero()[::every, 0]
        if len(train):
            margin = x[folds == fold] @ _fit(x[train], w[train], strength)
            right[folds == fold] = (margin > 0).double() + 0.5 * (margin == 0).double()
    return right


def _share(right: torch.Tensor, w: torch.Tensor) -> float:
    return float((right * w).sum() / w.sum())


def _interval(
    right: torch.Tensor, w: torch.Tensor, prompts: Sequence[str], rounds: int = 1000
) -> tuple[float, float]:
    """Return the 95 % bootstrap interval over prompts, since the choices about one are alike."""
    number = {prompt: i for i, prompt in enumerate(dict.fromkeys(prompts))}
    own = torch.tensor([number[prompt] for prompt in prompts])
    totals = torch.zeros(len(number), 2, dtype=torch.float64)
    totals.index_add_(0, own, torch.stack([right * w, w], dim=1))
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randint(len(totals), (rounds, len(totals)), generator=generator)
    sums = totals[drawn].sum(1)
    low, high = (sums[:, 0] / sums[:, 1]).quantile(torch.tensor([0.025, 0.975]).double()).tolist()
    return low, high


def _wanted(number: int, half_error: float, error: float) -> int:
    """Return how many more choices bring more than ENOUGH, if the error falls as a power of them.

    Errors fall as n^-b in data (Hestness et al., arXiv 1712.00409); b follows from what half of the
    choices gave.
    """
    if error <= 0 or half_error <= error:
        return 0
    b = math.log2(half_error / error)
    # error · (m / number)^-b · (1 − 2^-b) = ENOUGH, solved for m
    ratio = math.log(error * (1 - 2**-b) / ENOUGH) / b
    if ratio <= 0:
        return 0
    return min(MOST_WANTED, round(number * (math.exp(min(ratio, 50.0)) - 1)))
