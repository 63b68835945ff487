"""The head that says how likely an unfinished image becomes right."""

import math
from pathlib import Path

import pytest
import torch

from pipelines.checkpoints.errors import WeightsError
from rerank.calibration.calibration import fit
from rerank.learn.previews import PreviewHead, evidence


def simulated(prompts: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Evidence and outcomes where the likelihood tells twice as much as the cosine."""
    generator = torch.Generator().manual_seed(seed)
    rows, right = [], []
    for _ in range(prompts):
        cosines, likelihoods = torch.randn(2, 8, generator=generator)
        chance = torch.sigmoid(cosines + 2 * likelihoods)
        rows.append(evidence(cosines, likelihoods))
        right.append(torch.rand(8, generator=generator) < chance)
    return torch.cat(rows), torch.cat(right)


def test_a_head_tells_chances_and_is_read_back(tmp_path: Path) -> None:
    x, y = simulated(400)
    head = PreviewHead("abc", {0.5: fit(x, y)})
    head.save(tmp_path / "previews.json")
    again = PreviewHead.load(tmp_path / "previews.json")
    assert again == head
    low, high = again.probabilities(0.5, [0.0, 0.0], [-1.0, 1.0]) or []
    assert low < 0.2 < 0.8 < high
    one, other = again.probabilities(0.52, [-1.0, 1.0], [0.0, 0.0]) or []
    assert 0.1 < one < 0.4 < 0.6 < other < 0.9
    x, y = simulated(400, seed=1)
    chances = fit(x, y)(x.float())
    assert abs(float(chances.mean()) - float(y.float().mean())) < 0.02


def test_far_from_all_looks_and_without_likelihoods_it_says_nothing() -> None:
    x, y = simulated(50)
    head = PreviewHead("abc", {0.5: fit(x, y)})
    assert head.probabilities(0.6, [0.1, 0.2], [0.1, 0.2]) is None
    assert head.probabilities(0.5, [0.1, 0.2], None) is None


def test_what_could_not_be_seen_counts_as_the_mean() -> None:
    x = evidence(torch.tensor([0.2, math.nan, 0.4]), None)
    assert torch.allclose(x[:, 0], torch.tensor([-0.1, 0.0, 0.1]).double())


@pytest.mark.parametrize("text", ["x", "[]", "{}", '{"reranker": "a", "looks": []}'])
def test_a_damaged_file_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "previews.json").write_text(text)
    with pytest.raises(WeightsError, match="not a head for previews"):
        PreviewHead.load(tmp_path / "previews.json")
