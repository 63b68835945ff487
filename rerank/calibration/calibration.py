"""What a score means: percentiles and probabilities.

A cosine of 0.27 says nothing by itself: how high scores are differs by model, by image and by
prompt. So a score is placed among those of the same image with two kinds of other captions: a
fixed set that has nothing to do with it, and the prompt's own with one fact changed. How far it
stands out is turned into a probability by logistic regression on images whose captions are known
to be right or wrong; what was learned, with the fixed captions, is the calibration.json of a model
folder.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from pipelines.checkpoints.configs import read_json
from pipelines.checkpoints.errors import WeightsError
from rerank.calibration import FILE as FILE
from rerank.whole_files import written_whole

CAPTIONS = 256  # unrelated ones, at most
CHANGES = 8  # of each claim of a prompt
NONE_MATCHES = 0.5  # the probability that no image reaches when none of them matches
SATURATION = 8.0  # logits
RIDGE = 1e-5
SURE = 0.9  # probabilities that are no higher than the share of them that is right


@dataclass(frozen=True)
class Calibrated:
    """What a score means.

    percentile   share of the other captions that score lower with the same image, in [0, 100]
    probability  that the image matches the prompt, all of it, in [0, 1]
    """

    score: float
    percentile: float
    probability: float


@dataclass(frozen=True)
class Logistic:
    """Logistic regression on standardised evidence: σ(bias + weights · (x - mean) / std), and at
    most `most`."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    weights: tuple[float, ...]
    bias: float
    most: float = 1.0

    def __call__(self, evidence: torch.Tensor) -> torch.Tensor:
        """(N, F) → (N,) probabilities."""
        mean, std, weights = map(torch.tensor, (self.mean, self.std, self.weights))
        probabilities = torch.sigmoid((evidence - mean) / std @ weights + self.bias)
        return probabilities.clamp(max=self.most)


@dataclass(frozen=True)
class Calibration:
    """What calibration.json holds.

    weights   the files_hash of the weights that it was made for
    captions  the unrelated captions
    changed   for prompts with changed versions
    plain     for prompts without any
    """

    weights: str
    captions: tuple[str, ...]
    changed: Logistic
    plain: Logistic

    def read(
        self, scores: torch.Tensor, unrelated: torch.Tensor, changed: torch.Tensor, scale: float
    ) -> list[Calibrated]:
        """Return what the scores (N,) of N images with a prompt mean, beside those with the
        unrelated captions (C, N) and the changed ones (V, N); all cosines."""
        model = self.changed if len(changed) > 0 else self.plain
        probabilities = model(evidence(scores, unrelated, changed, scale))
        others = torch.cat([unrelated, changed])
        percentiles = 100 * (others < scores).float().mean(0)
        percentiles[~scores.isfinite()] = torch.nan
        return [
            Calibrated(*values)
            for values in zip(
                scores.tolist(), percentiles.tolist(), probabilities.tolist(), strict=True
            )
        ]


def evidence(
    scores: torch.Tensor, unrelated: torch.Tensor, changed: torch.Tensor, scale: float
) -> torch.Tensor:
    """How far scores (N,) stand out: (N, 4), or (N, 7) where there are changed captions (V, N).

    The cosine itself and its square; its distance from the mean of the unrelated captions (C, N) in
    standard deviations, and from the highest hundredth of them in logits; the log odds against all
    changed captions together, alone and times the cosine; the distance from the highest of them.
    """
    std, mean = torch.std_mean(unrelated, dim=0)
    columns = [
        scores,
        scores**2,
        (scores - mean) / std.clamp(min=1e-6),
        _saturated(scale * (scores - unrelated.quantile(0.99, dim=0))),
    ]
    if len(changed) > 0:
        odds = _saturated(scale * scores - torch.logsumexp(scale * changed, dim=0))
        columns += [odds, odds * scores, _saturated(scale * (scores - changed.amax(0)))]
    return torch.stack(columns, dim=1)


def _saturated(logits: torch.Tensor) -> torch.Tensor:
    """Beyond some point, more of it proves no more."""
    return SATURATION * torch.tanh(logits / SATURATION)


def fit(evidence: torch.Tensor, matches: torch.Tensor, steps: int = 50) -> Logistic:
    """Logistic regression of matches (N,) on evidence (N, F), by Newton's method."""
    std, mean = torch.std_mean(evidence.double(), dim=0)
    std = std.clamp(min=1e-6)
    x = torch.cat([(evidence - mean) / std, torch.ones(len(evidence), 1)], dim=1)
    y, w = matches.double(), torch.zeros(x.shape[1], dtype=torch.float64)
    ridge = RIDGE * len(x) * torch.eye(len(w), dtype=torch.float64)
    ridge[-1, -1] = 1e-9  # the bias is free
    for _ in range(steps):
        p = torch.sigmoid(x @ w)
        gradient = x.T @ (p - y) + ridge @ w
        hessian = (x * (p * (1 - p))[:, None]).T @ x + ridge
        step = torch.linalg.solve(hessian, gradient)
        w = w - step * min(1.0, 4.0 / float(step.norm().clamp(min=1e-9)))
    *weights, bias = w.tolist()
    return Logistic(tuple(mean.tolist()), tuple(std.tolist()), tuple(weights), bias)


def bounded(logistic: Logistic, evidence: torch.Tensor, matches: torch.Tensor) -> Logistic:
    """Return a regression that is no surer than it is right where it is surest.

    Evidence saturates, and so does what a score can prove: of images that all look right to a
    reranker some are not. Their share bounds the probabilities, by Laplace's rule of succession.
    """
    right = matches[logistic(evidence) >= SURE].double()
    return replace(logistic, most=float((right.sum() + 1) / (len(right) + 2)))


def expected_error(
    probabilities: Sequence[float], matches: Sequence[bool], bins: int = 10
) -> float:
    """Return the expected calibration error (Guo et al., arXiv 1706.04599, §2): the mean distance
    between the probabilities of a bin and the share of matches in it, weighted by the bins'
    sizes."""
    p, y = torch.tensor(probabilities), torch.tensor(matches, dtype=torch.float32)
    bin_of = (p * bins).long().clamp(max=bins - 1)
    distances = [
        float((p[bin_of == index].sum() - y[bin_of == index].sum()).abs()) for index in range(bins)
    ]
    return sum(distances) / len(p)


def write(calibration: Calibration, path: Path) -> None:
    """Save as JSON, all of it or nothing. Raises OSError when the disk is full."""
    text = json.dumps(asdict(calibration), indent=1, ensure_ascii=False) + "\n"
    with written_whole(path) as temporary:
        temporary.write_text(text, "utf-8")


def read(path: Path) -> Calibration:
    """Read what `write` wrote. Raises WeightsError for a file that is missing or no calibration."""
    try:
        content = read_json(path)
        return Calibration(
            weights=str(content["weights"]),
            captions=tuple(map(str, content["captions"])),
            changed=_logistic(content["changed"], 7),
            plain=_logistic(content["plain"], 4),
        )
    except OSError as error:
        raise WeightsError(
            f"{path}: {error.strerror}; `rerank calibrate` makes it from images with captions"
        ) from error
    except (ArithmeticError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise WeightsError(
            f"{path}: not a calibration ({type(error).__name__}: {error})"
        ) from error


def _logistic(content: dict[str, Any], width: int) -> Logistic:
    """Read one; `width` is the number of columns that `evidence` has. Raises ValueError."""
    mean, std, weights = (tuple(map(float, content[name])) for name in ("mean", "std", "weights"))
    found = Logistic(mean, std, weights, float(content["bias"]), float(content.get("most", 1)))
    if {len(mean), len(std), len(weights)} != {width}:
        raise ValueError(f"mean, std and weights have {width} numbers")
    if not all(map(math.isfinite, (*mean, *std, *weights, found.bias))) or min(std) <= 0:
        raise ValueError("a number is not finite, or a deviation not above 0")
    if not 0 < found.most <= 1:
        raise ValueError(f"most is {found.most}: it is above 0 and at most 1")
    return found
