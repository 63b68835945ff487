import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from pipelines.checkpoints.hashes import files_hash
from rerank import Reranker, WeightsError
from rerank.calibration.calibrating import Pair, make, quality, read_captions, with_wrong_ones
from rerank.calibration.calibration import (
    RIDGE,
    Calibration,
    Logistic,
    bounded,
    evidence,
    expected_error,
    fit,
    read,
    write,
)

pytestmark = pytest.mark.slow


def some_calibration(weights: str) -> Calibration:
    changed = Logistic((0.0,) * 7, (1.0,) * 7, (0.0,) * 6 + (1.0,), 0.0)
    plain = Logistic((0.0,) * 4, (1.0,) * 4, (0.0, 0.0, 1.0, 0.0), 0.0)
    return Calibration(weights, ("a red panda", "a blue apple", "the balloon"), changed, plain)


@pytest.fixture
def calibrated(tiny_clip_folder: Path, tmp_path: Path) -> Reranker:
    folder = Path(shutil.copytree(tiny_clip_folder, tmp_path / "calibrated"))
    write(some_calibration(files_hash(folder)), folder / "calibration.json")
    return Reranker.load(folder, "cpu")


def noise(count: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, 32, 32), generator=generator, dtype=torch.uint8)


def test_evidence_by_hand() -> None:
    unrelated = torch.tensor([[0.1, 0.0], [0.3, 0.2]])
    changed = torch.tensor([[0.2, 0.5], [0.4, 0.1]])
    rows = evidence(torch.tensor([0.5, 0.3]), unrelated, changed, 10.0)
    assert rows.shape == (2, 7)
    top = 10 * (0.5 - np.quantile([0.1, 0.3], 0.99))
    odds = 8 * np.tanh((5 - np.log(np.exp(2) + np.exp(4))) / 8)
    expected = [0.5, 0.25, 0.3 / np.std([0.1, 0.3], ddof=1), 8 * np.tanh(top / 8)]
    expected += [odds, odds / 2, 8 * np.tanh(1 / 8)]
    assert rows[0].tolist() == pytest.approx(expected, rel=1e-4)
    assert rows[1, 6].item() == pytest.approx(8 * np.tanh(-2 / 8))
    plain = evidence(torch.tensor([0.5]), unrelated[:, :1], changed[:0, :1], 10.0)
    assert plain[0].tolist() == pytest.approx(expected[:4], rel=1e-4)


def test_logistic_regression_is_that_of_scikit_learn() -> None:
    linear_model = pytest.importorskip("sklearn.linear_model")
    torch.manual_seed(0)
    x = torch.randn(400, 3) * torch.tensor([1.0, 5.0, 0.1]) + 2
    y = torch.rand(400) < torch.sigmoid(x[:, 0] - 0.4 * x[:, 1])
    ours = fit(x, y)
    scaled = ((x - x.mean(0)) / x.std(0)).numpy()
    theirs = linear_model.LogisticRegression(C=1 / (RIDGE * 400), tol=1e-9).fit(scaled, y.numpy())
    assert ours.weights == pytest.approx(theirs.coef_[0].tolist(), abs=1e-3)
    assert ours.bias == pytest.approx(theirs.intercept_[0], abs=1e-3)
    assert ours(x).numpy() == pytest.approx(theirs.predict_proba(scaled)[:, 1], abs=1e-3)


def test_separable_examples_end() -> None:
    x = torch.tensor([[-1.0], [-2.0], [1.0], [2.0]])
    found = fit(x, torch.tensor([False, False, True, True]))(x)
    assert found[:2].max() < 0.2
    assert found[2:].min() > 0.8


def test_a_calibration_is_no_surer_than_it_was_right() -> None:
    """Of the eight that it is surest of, six match: (6 + 1) / (8 + 2)."""
    steep = Logistic((0.0,), (1.0,), (5.0,), 0.0)
    rows = torch.tensor([[3.0]] * 8 + [[-3.0]] * 8)
    matches = torch.tensor([True] * 6 + [False] * 10)
    found = bounded(steep, rows, matches)
    assert found.most == pytest.approx(0.7)
    assert found(rows).tolist() == pytest.approx([0.7] * 8 + [0.0] * 8, abs=1e-3)
    assert bounded(steep, rows[:8], matches[:8] | True).most == pytest.approx(0.9)


def test_expected_error_by_hand() -> None:
    assert expected_error([0.85, 0.85, 0.15, 0.15], [True, True, False, False]) == pytest.approx(
        0.15
    )
    assert expected_error([0.5, 0.5], [True, False]) == 0
    assert expected_error([1.0], [False]) == 1
    assert quality([0.9, 0.2], [True, True]).right == 0.5
    assert quality([], []).pairs == 0


def test_files_read_back(tmp_path: Path) -> None:
    write(some_calibration("abc"), tmp_path / "c.json")
    assert read(tmp_path / "c.json") == some_calibration("abc")


@pytest.mark.parametrize("content", ["", "{}", '{"weights": "a", "captions": 7}', "[]"])
def test_damaged_files(tmp_path: Path, content: str) -> None:
    (tmp_path / "c.json").write_text(content)
    with pytest.raises(WeightsError, match=r"c\.json: not a calibration"):
        read(tmp_path / "c.json")


@pytest.mark.parametrize("most", [0.0, -1.0, 1.5, float("nan")])
def test_bounds_that_cannot_be(most: float, tmp_path: Path) -> None:
    write(some_calibration("1"), tmp_path / "c.json")
    content = json.loads((tmp_path / "c.json").read_text())
    content["plain"]["most"] = most
    (tmp_path / "c.json").write_text(json.dumps(content))
    with pytest.raises(WeightsError, match=r"c\.json"):
        read(tmp_path / "c.json")
    del content["plain"]["most"]  # as files were written before there were bounds
    (tmp_path / "c.json").write_text(json.dumps(content))
    assert read(tmp_path / "c.json").plain.most == 1


def test_percentile_and_probability(calibrated: Reranker) -> None:
    images = noise(3)
    found = calibrated.calibrated("a red apple", images)
    scores = [each.score for each in found]
    assert scores == pytest.approx(calibrated.score("a red apple", images), abs=1e-6)
    claims = calibrated.claims("a red apple")
    versions = claims.changed(8)
    others = calibrated.similarity([*calibrated.calibration.captions, *versions], images)
    for index, each in enumerate(found):
        below = (others[:, index] < each.score).float().mean().item()
        assert each.percentile == pytest.approx(100 * below)
        margin = calibrated.scale * (each.score - others[3:, index].max().item())
        logit = 8 * np.tanh(margin / 8)
        assert each.probability == pytest.approx(1 / (1 + np.exp(-logit)), abs=1e-5)


def test_no_image_means_nothing(calibrated: Reranker) -> None:
    assert calibrated.calibrated("a star", []) == []
    assert calibrated.check("a star", []) == []
    assert calibrated.score("a star", []) == []


def test_in_the_ranking(calibrated: Reranker, reranker: Reranker) -> None:
    images = noise(4)
    ranking = calibrated.top_k("a red apple", images, 2, calibrate=True)
    found = calibrated.calibrated("a red apple", images)
    assert [each.probability for each in ranking] == [found[e.index].probability for e in ranking]
    assert ranking.none_matches == all(each.probability < 0.5 for each in found)
    plain = reranker.top_k("a red apple", images, 2)
    assert plain.none_matches is plain[0].probability is plain[0].percentile is None


def test_the_flag(calibrated: Reranker) -> None:
    for bias, flag in ((50.0, False), (-50.0, True)):
        model = Logistic((0.0,) * 7, (1.0,) * 7, (0.0,) * 7, bias)
        plain = Logistic((0.0,) * 4, (1.0,) * 4, (0.0,) * 4, bias)
        calibrated.calibration = Calibration("", ("a panda", "the left"), model, plain)
        for prompt in ("a red apple", "of"):
            ranking = calibrated.top_k(prompt, noise(2), 1, calibrate=True)
            assert ranking.none_matches is flag


def test_without_a_calibration(tiny_clip_folder: Path) -> None:
    reranker = Reranker.load(tiny_clip_folder, "cpu")
    with pytest.raises(WeightsError, match=r"calibration\.json: .*rerank calibrate"):
        reranker.top_k("a panda", noise(1), 1, calibrate=True)


def test_for_other_weights(calibrated: Reranker) -> None:
    file = calibrated.folder / "calibration.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "weights": "0"}))
    with pytest.raises(WeightsError, match="other weights"):
        Reranker.load(calibrated.folder).calibrated("a panda", noise(1))


# ---- making one


def test_made_from_pairs_it_tells_them_apart(reranker: Reranker) -> None:
    """Random weights know nothing, so a caption is right where its score says so."""
    images = reranker.encode(noise(60))
    captions = ["a red panda", "two blue apples", "a balloon", "a panda on the left"]
    table = reranker.similarity(captions, images)
    middle = table.median(1).values
    pairs = [
        Pair(image, caption, bool(table[row, image] > middle[row]))
        for image in range(60)
        for row, caption in enumerate(captions)
    ]
    calibration, found = make(reranker, images, pairs, captions)
    assert calibration.weights == files_hash(reranker.folder)
    assert calibration.captions == tuple(captions)
    assert found.pairs == 4 * 12
    assert found.right > 0.6


def test_too_few_pairs(reranker: Reranker) -> None:
    images = reranker.encode(noise(5))
    pairs = [Pair(i % 5, "a panda", True) for i in range(100)]
    for wrong in (pairs[:10], pairs):
        with pytest.raises(ValueError, match="40 pairs or more, right ones and wrong ones"):
            make(reranker, images, wrong, ["a panda"])


def test_captions_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "captions.jsonl"
    file.write_text(
        '{"file": "a.png", "caption": "x"}\n\n{"file": "b.png", "caption": "y", "matches": false}\n'
    )
    assert read_captions(file) == [
        (tmp_path / "a.png", "x", True),
        (tmp_path / "b.png", "y", False),
    ]
    file.write_text('{"file": "a.png", "caption": "x"}\n{"caption": "x"}\n')
    with pytest.raises(ValueError, match=r"captions\.jsonl:2: not like"):
        read_captions(file)


def test_wrong_captions_are_added(reranker: Reranker) -> None:
    pairs = [Pair(0, "a red panda", True), Pair(1, "two apples", True), Pair(1, "a car", False)]
    found = with_wrong_ones(reranker, pairs)
    assert found[:3] == pairs
    assert [pair.matches for pair in found[3:]] == [False] * 4
    assert found[3] == Pair(0, "two apples", False)
    assert found[4].caption in reranker.claims("a red panda").changed(1)
