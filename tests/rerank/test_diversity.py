import math

import pytest
import torch

from rerank import Ranked, Reranker
from rerank.diversity import pick

ANGLES = (0.0, 0.02, 0.5, 1.5)  # of features in a plane; the first two are near-duplicates
FEATURES = torch.tensor([[math.cos(a), math.sin(a)] for a in ANGLES])
SCORES = [0.30, 0.29, 0.28, 0.10]


def chosen(k: int, diversity: float) -> list[int]:
    return [index for index, _ in pick([0, 1, 2, 3], SCORES, FEATURES, k, diversity)]


def test_little_diversity_drops_only_near_duplicates() -> None:
    assert chosen(3, 1e-6) == [0, 2, 3]
    assert pick([0, 1, 2, 3], SCORES, FEATURES, 2, 1e-6)[0] == (0, (1,))


def test_more_diversity_prefers_the_most_different() -> None:
    assert chosen(2, 1e-6) == [0, 2]
    assert chosen(2, 0.9) == [0, 3]


def test_near_duplicates_come_last() -> None:
    assert chosen(4, 0.3) == [0, 2, 3, 1]
    assert chosen(9, 0.3) == [0, 2, 3, 1]


def test_by_its_definition() -> None:
    torch.manual_seed(0)
    features = torch.nn.functional.normalize(torch.randn(12, 6), dim=1)
    scores = torch.rand(12).tolist()
    order = sorted(range(12), key=lambda index: -scores[index])
    low, high = min(scores), max(scores)
    expected: list[int] = []
    while len(expected) < 6:

        def merit(index: int) -> float:
            alike = max([float(features[index] @ features[other]) for other in expected] + [0.0])
            return 0.6 * (scores[index] - low) / (high - low) - 0.4 * alike

        expected.append(max((index for index in order if index not in expected), key=merit))
    assert [index for index, _ in pick(order, scores, features, 6, 0.4)] == expected


def test_nothing_and_equal_scores() -> None:
    assert pick([], [], FEATURES[:0], 3, 0.5) == []
    assert [i for i, _ in pick([0, 2, 3], [0.1] * 4, FEATURES, 3, 0.5)] == [0, 3, 2]


def test_in_the_ranking(reranker: Reranker) -> None:
    torch.manual_seed(0)
    image = torch.randint(0, 256, (3, 32, 32), dtype=torch.uint8)
    others = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    images = torch.stack([image, image, *others])
    ranking = reranker.top_k("a panda", images, 4, diversity=0.2)
    assert sorted(each.index for each in ranking) == [0, 1, 2, 3]
    [group] = [each for each in ranking if each.alike and 0 in (each.index, *each.alike)]
    assert isinstance(group, Ranked)
    assert 1 in (group.index, *group.alike)
    for wrong in (-0.1, 1.1, math.nan):
        with pytest.raises(ValueError, match="diversity is"):
            reranker.top_k("a panda", images, 4, diversity=wrong)
