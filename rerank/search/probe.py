"""Linear probes: what can be read off the features by logistic regression, as in the CLIP article
(arXiv 2103.00020, appendix A.3). Needs the extra `probe` (scikit-learn)."""

import json
import warnings
from collections.abc import Hashable, Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from pipelines.checkpoints.configs import parse_json
from pipelines.checkpoints.errors import WeightsError
from rerank.extras import load_extra

ITERATIONS = 1000  # of L-BFGS
HELD_OUT = 0.2  # of the examples, on which the strength of the penalty is chosen
COARSE = tuple(10.0**power for power in range(-6, 7, 2))
STEPS_PER_DECADE = 8


class LinearProbe:
    """A logistic regression from features to labels.

        probe = LinearProbe.fit(reranker.image_features(images), labels)
        probe.predict(reranker.image_features(others))

    Attributes: `labels`, sorted; `weights` (L, D) and `biases` (L,); `strength`, the C that was
    used, the inverse of the L2 penalty.
    """

    def __init__(
        self, labels: Sequence[str], weights: np.ndarray, biases: np.ndarray, strength: float
    ) -> None:
        self.labels = list(labels)
        self.weights = weights
        self.biases = biases
        self.strength = strength

    @classmethod
    def fit(
        cls,
        features: torch.Tensor | np.ndarray,
        labels: Sequence[Hashable],
        strength: float | None = None,
        *,
        seed: int = 0,
    ) -> "LinearProbe":
        """Fit to features (N, D) and their N labels, at least two different ones.

        Without a `strength`, it is chosen as in the article: by accuracy on a fifth of the examples
        held out, first among 10^-6, 10^-4, …, 10^6, then in halves of the step around the best, to
        eight steps per decade; with it, all examples are used again. Raises MissingExtraError
        without scikit-learn, ValueError for what cannot be fitted.
        """
        x, y = _checked(features, labels)
        if strength is None:
            strength = _best_strength(x, y, seed)
        model = _regression(strength, x, y)
        weights, biases = model.coef_, model.intercept_
        if len(weights) == 1:  # of two labels, scikit-learn keeps the second alone
            weights, biases = (
                np.concatenate([-weights, weights]) / 2,
                np.array([-biases[0], biases[0]]) / 2,
            )
        return cls([str(label) for label in model.classes_], weights, biases, strength)

    def probabilities(self, features: torch.Tensor | np.ndarray) -> np.ndarray:
        """(N, D) → (N, L), in the order of `labels`."""
        logits = _as_array(features) @ self.weights.T + self.biases
        odds = np.exp(logits - logits.max(1, keepdims=True))
        return odds / odds.sum(1, keepdims=True)

    def predict(self, features: torch.Tensor | np.ndarray) -> list[str]:
        """Return the likeliest label of each row."""
        return [self.labels[index] for index in self.probabilities(features).argmax(1)]

    def accuracy(self, features: torch.Tensor | np.ndarray, labels: Sequence[Hashable]) -> float:
        """Return the share of rows whose likeliest label is right."""
        pairs = zip(self.predict(features), labels, strict=True)
        return float(np.mean([found == str(label) for found, label in pairs]))

    def save(self, file: str | Path) -> None:
        """Write as safetensors."""
        tensors = {
            "weight": np.ascontiguousarray(self.weights, np.float32),
            "bias": np.ascontiguousarray(self.biases, np.float32),
        }
        facts = {"labels": json.dumps(self.labels), "strength": repr(self.strength)}
        save_file(tensors, file, facts)

    @classmethod
    def load(cls, file: str | Path) -> "LinearProbe":
        """Read what `save` wrote; needs no scikit-learn. Raises WeightsError."""
        try:
            with safe_open(file, framework="numpy") as opened:
                facts = opened.metadata() or {}
                weights, biases = opened.get_tensor("weight"), opened.get_tensor("bias")
            return cls(
                parse_json(facts["labels"], list[str]), weights, biases, float(facts["strength"])
            )
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            raise WeightsError(f"{file}: not a linear probe ({error})") from error


def few_shot(
    features: torch.Tensor | np.ndarray,
    labels: Sequence[Hashable],
    test_features: torch.Tensor | np.ndarray,
    test_labels: Sequence[Hashable],
    *,
    shots: Sequence[int] = (1, 2, 4, 8, 16),
    rounds: int = 3,
    seed: int = 0,
) -> dict[int, float]:
    """Return the accuracy of probes on few examples of each label: shots → mean over `rounds`
    draws.

    Numbers of shots that some label has not got examples for are left out.
    """
    x, y = _checked(features, labels)
    random = np.random.default_rng(seed)
    kinds, counts = np.unique(y, return_counts=True)
    accuracies = {}
    for number in shots:
        if number > counts.min():
            continue
        results = []
        for _ in range(rounds):
            chosen = np.concatenate(
                [random.choice(np.flatnonzero(y == kind), number, replace=False) for kind in kinds]
            )
            # Too few to hold some back: the strength is the middle of the article's range.
            strength = 1.0 if number < 2 / HELD_OUT else None
            probe = LinearProbe.fit(x[chosen], y[chosen].tolist(), strength, seed=seed)
            results.append(probe.accuracy(test_features, test_labels))
        accuracies[number] = float(np.mean(results))
    return accuracies


def _best_strength(x: np.ndarray, y: np.ndarray, seed: int) -> float:
    """Return the C with the best accuracy on a fifth held out of every label; of equals the
    smallest."""
    split = load_extra("sklearn.model_selection", "scikit-learn", "probe").train_test_split
    if np.unique(y, return_counts=True)[1].min() < 2:
        raise ValueError("to choose a strength, every label needs at least 2 examples")
    held_out = max(len(np.unique(y)), round(HELD_OUT * len(y)))
    x, x_held, y, y_held = split(x, y, test_size=held_out, random_state=seed, stratify=y)
    accuracies: dict[float, float] = {}

    def accuracy(power: float) -> float:
        if power not in accuracies:
            accuracies[power] = _regression(10**power, x, y).score(x_held, y_held)
        return accuracies[power]

    best = max(map(np.log10, COARSE), key=accuracy)
    step = 1.0
    while step >= 1 / STEPS_PER_DECADE:
        best = max((best, best - step, best + step), key=accuracy)
        step /= 2
    return float(10**best)


def _regression(strength: float, x: np.ndarray, y: np.ndarray):  # type: ignore[no-untyped-def]
    linear_model = load_extra("sklearn.linear_model", "scikit-learn", "probe")
    model = linear_model.LogisticRegression(C=strength, max_iter=ITERATIONS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that weak penalties do not converge in ITERATIONS
        return model.fit(x, y)


def _checked(
    features: torch.Tensor | np.ndarray, labels: Sequence[Hashable]
) -> tuple[np.ndarray, np.ndarray]:
    x, y = _as_array(features), np.array([str(label) for label in labels])
    if x.ndim != 2 or len(x) != len(y):
        raise ValueError(f"features {x.shape} are not one row for each of {len(y)} labels")
    if not np.isfinite(x).all():
        raise ValueError("features are not all finite: leave out images that could not be read")
    if len(np.unique(y)) < 2:
        raise ValueError("a probe tells at least two labels apart")
    return x, y


def _as_array(features: torch.Tensor | np.ndarray) -> np.ndarray:
    if isinstance(features, torch.Tensor):
        features = features.cpu().numpy()
    return np.asarray(features, dtype=np.float64)
