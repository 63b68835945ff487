import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from rerank import LinearProbe, MissingExtraError, WeightsError
from rerank.search.probe import few_shot


def examples(count: int, labels: int = 3, spread: float = 0.3) -> tuple[torch.Tensor, list[str]]:
    """Clouds around the corners of a simplex."""
    generator = torch.Generator().manual_seed(count)
    kinds = torch.arange(count) % labels
    features = torch.eye(labels, 8)[kinds] + spread * torch.randn(count, 8, generator=generator)
    return features, [f"kind {kind}" for kind in kinds.tolist()]


@pytest.mark.parametrize("labels", [2, 3])
def test_it_is_the_regression_of_scikit_learn(labels: int) -> None:
    from sklearn.linear_model import LogisticRegression

    features, names = examples(90, labels)
    probe = LinearProbe.fit(features, names, strength=2.0)
    theirs = LogisticRegression(C=2.0, max_iter=1000).fit(features.numpy(), names)
    expected = theirs.predict_proba(features.numpy())
    assert probe.labels == theirs.classes_.tolist()
    assert probe.probabilities(features) == pytest.approx(expected, abs=1e-3)
    assert probe.predict(features) == theirs.predict(features.numpy()).tolist()


def test_the_strength_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    features, names = examples(150, spread=0.5)
    probe = LinearProbe.fit(features, names)
    others, other_names = examples(300, spread=0.5)
    assert 1e-6 <= probe.strength <= 1e6
    assert probe.accuracy(others, other_names) > 0.7
    assert LinearProbe.fit(features, names).strength == probe.strength


def test_save_and_load(tmp_path: Path) -> None:
    features, names = examples(60)
    probe = LinearProbe.fit(features, names, strength=1.0)
    probe.save(tmp_path / "probe.safetensors")
    loaded = LinearProbe.load(tmp_path / "probe.safetensors")
    assert loaded.labels == probe.labels
    assert loaded.strength == 1.0
    assert loaded.predict(features) == probe.predict(features)
    (tmp_path / "probe.safetensors").write_bytes(b"x")
    with pytest.raises(WeightsError, match="not a linear probe"):
        LinearProbe.load(tmp_path / "probe.safetensors")


def test_few_shot() -> None:
    features, names = examples(120)
    others, other_names = examples(90)
    found = few_shot(features, names, others, other_names, shots=(1, 4, 16, 99))
    assert list(found) == [1, 4, 16]
    assert found[16] > found[1] > 0.34


@pytest.mark.parametrize(
    ("features", "labels", "message"),
    [
        (torch.zeros(3, 4), ["a", "b"], "one row for each"),
        (torch.zeros(2, 4), ["a", "a"], "two labels"),
        (torch.full((2, 4), torch.nan), ["a", "b"], "not all finite"),
        (torch.eye(3), ["a", "a", "b"], "at least 2 examples"),
    ],
)
def test_what_cannot_be_fitted(features: torch.Tensor, labels: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LinearProbe.fit(features, labels)


def test_without_scikit_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("sklearn.linear_model", "sklearn.model_selection"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingExtraError, match=r"scikit-learn.*pip install 'salon\[probe\]'"):
        LinearProbe.fit(np.eye(4), ["a", "b", "a", "b"])
