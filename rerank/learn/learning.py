"""Learn what somebody prefers: a reward head on a reranker's features, from choices between two.

The probability that image a is preferred to b is σ(r(a) − r(b)) (Bradley and Terry, Biometrika 39,
1952). The reward r is linear in the features, and this then a regularised logistic regression on
differences of features; or it has one hidden layer, where there are choices enough and that tells
more. What a head is worth is measured on choices about other prompts.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeAlias

import torch
from safetensors.torch import save_file
from torch.nn.functional import softplus

from rerank.aesthetic import Layers, values_of
from rerank.images import Encoded
from rerank.learn.choices import Choice
from rerank.whole_files import written_whole

FOLDS = 5
STRENGTHS = (1e-3, 1e-2, 1e-1, 1.0)  # of the penalty, in the data's own scale
ITERATIONS = 12  # of Newton's method
HIDDEN = 256  # values of the hidden layer
EPOCHS = 120  # each on all choices at once
MANY = 200  # choices; from fewer a hidden layer is not tried
ENOUGH = 0.01  # accuracy that twice as many choices would bring: with less there are enough
MOST_WANTED = 1_000_000

# From features (N, D) of what was chosen and of what was rejected, and weights (N,), to a head.
Fit: TypeAlias = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], Layers]


@dataclass(frozen=True)
class Learned:
    """A reward head, and what it is worth.

    `accuracy` is the share of choices about prompts it did not see that it makes as the person did,
    `low` and `high` are its 95 % interval; chance is 0.5. `wanted` is about how many more choices
    would still make a difference, 0 for none.
    """

    layers: Layers  # on features of length 1
    choices: int
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

    def reward(self, features: torch.Tensor) -> torch.Tensor:
        """(N, D) features of length 1 to (N,): the more, the more it is liked."""
        return values_of(self.layers, features, relu=True)

    def save(self, file: Path, weights: str) -> None:
        """Write a head that `--head FILE` takes; `weights` is the hash of the reranker's."""
        facts = {
            "activation": "relu",
            "weights": weights,
            "choices": str(self.choices),
            "accuracy": f"{self.accuracy:.4f}",
        }
        tensors = {
            f"layers.{number}.{kind}": tensor.contiguous()
            for number, layer in enumerate(self.layers)
            for kind, tensor in zip(("weight", "bias"), layer, strict=True)
        }
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
    chosen, rejected = chosen.float().cpu(), rejected.float().cpu()
    if not (chosen.isfinite().all() and rejected.isfinite().all()):
        raise ValueError("features are not all finite: leave out images that could not be read")
    names = list(dict.fromkeys(prompts))
    if len(names) < 2:
        raise ValueError("choices about one prompt only: choose among images of several prompts")
    order = torch.randperm(len(names), generator=torch.Generator().manual_seed(0)).tolist()
    fold_of = {names[i]: place % FOLDS for place, i in enumerate(order)}
    folds = torch.tensor([fold_of[prompt] for prompt in prompts])
    w = torch.ones(len(chosen)) if weights is None else torch.tensor(weights).float()

    def tried(fit: Fit, every: int = 1) -> torch.Tensor:
        return _cross_validated(fit, chosen, rejected, w, folds, every)

    fits: list[Fit] = [partial(_fit_linear, strength=strength) for strength in STRENGTHS[::-1]]
    if len(chosen) >= MANY:
        fits.append(_fit_hidden)
    right_of = {fit: tried(fit) for fit in fits}
    best = max(fits, key=lambda fit: _share(right_of[fit], w))  # of equal ones the simplest
    accuracy, half = _share(right_of[best], w), _share(tried(best, every=2), w)
    low, high = _interval(right_of[best], w, prompts)
    return Learned(
        layers=best(chosen, rejected, w),
        choices=len(chosen),
        accuracy=accuracy,
        low=low,
        high=high,
        wanted=_wanted(len(chosen), 1 - half, 1 - accuracy),
    )


def _fit_linear(
    chosen: torch.Tensor, rejected: torch.Tensor, w: torch.Tensor, strength: float
) -> Layers:
    """Maximise the weighted likelihood of what was chosen being preferred, by Newton's method."""
    x, w = (chosen - rejected).double(), w.double()
    scale = x.pow(2).mean(0).sqrt().clamp(min=1e-9)
    x = x / scale
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
    return (((theta / scale)[None].float(), torch.zeros(1)),)


def _fit_hidden(chosen: torch.Tensor, rejected: torch.Tensor, w: torch.Tensor) -> Layers:
    """Likewise with a hidden layer, by AdamW; how it begins is the same each time."""
    both = torch.cat([chosen, rejected])
    mean, scale = both.mean(0), both.std(0).clamp(min=1e-6)
    first, second = (chosen - mean) / scale, (rejected - mean) / scale
    generator = torch.Generator().manual_seed(0)
    sizes = ((HIDDEN, both.shape[1]), (1, HIDDEN))
    weights = [
        (torch.randn(size, generator=generator) / size[1] ** 0.5).requires_grad_() for size in sizes
    ]
    biases = [torch.zeros(size[0], requires_grad=True) for size in sizes]
    layers = tuple(zip(weights, biases, strict=True))
    optimizer = torch.optim.AdamW([*weights, *biases], lr=3e-3, weight_decay=1e-2)
    for _ in range(EPOCHS):
        margin = values_of(layers, first, relu=True) - values_of(layers, second, relu=True)
        loss = (w * softplus(-margin)).sum() / w.sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    inner, outer = ((weight.detach(), bias.detach()) for weight, bias in layers)
    inner = inner[0] / scale, inner[1] - (inner[0] / scale) @ mean  # on features as they are
    return inner, outer


def _cross_validated(
    fit: Fit,
    chosen: torch.Tensor,
    rejected: torch.Tensor,
    w: torch.Tensor,
    folds: torch.Tensor,
    every: int = 1,
) -> torch.Tensor:
    """Return (N,) what is told right, from 0 to 1, of choices that were held out.

    With `every`, only each so-many-th choice of the others is learned from.
    """
    right = torch.zeros(len(chosen), dtype=torch.float64)
    for fold in folds.unique():
        train, test = (folds != fold).nonzero()[::every, 0], folds == fold
        if len(train):
            layers = fit(chosen[train], rejected[train], w[train])
            values = [values_of(layers, each[test], relu=True) for each in (chosen, rejected)]
            margin = values[0] - values[1]
            right[test] = (margin > 0).double() + 0.5 * (margin == 0).double()
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
