from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from rerank import AestheticHead, BadImageError, Member, Panel, Reranker, WeightsError
from rerank.images import Encoded
from rerank.panel import BLOCK, standardised


class Fixed:
    """A scorer with scores of its own."""

    def __init__(self, name: str, scores: list[float], encoder: Reranker) -> None:
        self.name, self.scores, self.encoder = name, scores, encoder

    def score(self, prompt: str, images: Encoded) -> list[float]:
        return self.scores[: len(images)]


def noise(count: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, 3, 32, 32), generator=generator, dtype=torch.uint8)


def test_weighted_mean_of_standardised_scores(reranker: Reranker) -> None:
    first, second = [0.1, 0.2, 0.4], [7.0, 9.0, 5.0]
    panel = Panel([Member(Fixed("a", first, reranker)), Member(Fixed("b", second, reranker), 3.0)])
    a, b = ((np.array(s) - np.mean(s)) / np.std(s) for s in (first, second))
    expected = (a + 3 * b) / 4
    assert panel.score("x", noise(3)) == pytest.approx(expected.tolist())
    ranking = panel.top_k("x", noise(3), 2)
    assert [each.index for each in ranking] == [1, 0]
    assert ranking[0].parts == {"a": 0.2, "b": 9.0}


def test_equal_scores_say_nothing() -> None:
    assert standardised([0.3, 0.3]).tolist() == [0, 0]
    values = standardised([0.1, float("nan"), 0.3])
    assert values[[0, 2]].tolist() == pytest.approx([-1, 1])
    assert values[1].isnan()


def test_members_that_share_a_model_share_its_features(
    reranker: Reranker, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    encode = Reranker.encode
    monkeypatch.setattr(
        Reranker, "encode", lambda self, *a, **k: calls.append(a) or encode(self, *a, **k)
    )
    panel = Panel(
        [Member(Fixed("a", [1.0, 2.0], reranker)), Member(Fixed("b", [2.0, 1.0], reranker))]
    )
    panel.score("x", noise(2))
    assert len(calls) == 1


def test_streams_are_read_once_in_blocks(reranker: Reranker) -> None:
    images = noise(5)
    stream = (images[i % 5] for i in range(BLOCK + 10))
    scores = Panel([Member(reranker)]).score_each("a panda", stream)
    expected = reranker.score("a panda", images)
    assert scores.parts[reranker.name][-1] == pytest.approx(expected[(BLOCK + 9) % 5], abs=1e-6)
    assert len(scores.scores) == BLOCK + 10


def test_bad_images(reranker: Reranker, tmp_path: Path) -> None:
    Image.fromarray(noise(1)[0].permute(1, 2, 0).numpy()).save(tmp_path / "a.png")
    files = [tmp_path / "a.png", tmp_path / "gone.png", tmp_path / "a.png"]
    panel = Panel([Member(reranker)])
    with pytest.raises(BadImageError, match=r"gone\.png"):
        panel.score("x", files)
    scores = panel.score_each("x", files, skip_bad=True)
    assert list(scores.failed) == [1]
    assert [each.index for each in scores.ranking()] == [0, 2]


def test_panels_that_make_no_sense(reranker: Reranker) -> None:
    with pytest.raises(ValueError, match="different names"):
        Panel([])
    with pytest.raises(ValueError, match="different names"):
        Panel([Member(reranker), Member(reranker)])
    for weight in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="above 0"):
            Panel([Member(reranker, weight)])
    with pytest.raises(ValueError, match="belong to one model"):
        Panel([Member(reranker)]).score("x", reranker.encode(noise(1)))
    with pytest.raises(ValueError, match="k is 0"):
        Panel([Member(reranker)]).top_k("x", noise(1), 0)


# ---- the aesthetic head


def layers(*widths: int) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    tensors = {}
    for number, (width, out) in enumerate(pairwise(widths)):
        tensors[f"layers.{2 * number}.weight"] = torch.randn(out, width)
        tensors[f"layers.{2 * number}.bias"] = torch.randn(out)
    return tensors


@pytest.mark.parametrize("activation", ["none", "relu"])
def test_a_head_is_its_layers(reranker: Reranker, tmp_path: Path, activation: str) -> None:
    tensors = layers(16, 8, 4, 1)
    save_file(tensors, tmp_path / "taste.safetensors", {"activation": activation})
    head = AestheticHead.load(tmp_path / "taste.safetensors", reranker)
    modules: list[torch.nn.Module] = []
    for number, (width, out) in enumerate(((16, 8), (8, 4), (4, 1))):
        linear = torch.nn.Linear(width, out)
        linear.weight.data = tensors[f"layers.{2 * number}.weight"]
        linear.bias.data = tensors[f"layers.{2 * number}.bias"]
        modules += [linear] + [torch.nn.ReLU()] * (activation == "relu" and number < 2)
    with torch.no_grad():
        expected = torch.nn.Sequential(*modules)(reranker.image_features(noise(3)))[:, 0]
    assert head.score("anything", noise(3)) == pytest.approx(expected.tolist(), abs=1e-5)
    assert head.name == "taste"
    panel = Panel([Member(reranker), Member(head, 0.5)])
    assert set(panel.top_k("a panda", noise(3), 1)[0].parts) == {reranker.name, "taste"}


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        (layers(17, 1), "16 values come in"),
        (layers(16, 2), "gives 2 values"),
        (layers(16, 8) | {"layers.2.weight": torch.zeros(1, 7), "layers.2.bias": torch.zeros(1)},
         "8 values come in"),
        ({"layers.0.weight": torch.zeros(1, 16)}, "not linear layers"),
        ({}, "not linear layers"),
    ],
)  # fmt: skip
def test_heads_that_do_not_fit(
    reranker: Reranker, tmp_path: Path, tensors: dict[str, torch.Tensor], message: str
) -> None:
    save_file(tensors, tmp_path / "head.safetensors")
    with pytest.raises(WeightsError, match=message):
        AestheticHead.load(tmp_path / "head.safetensors", reranker)


def test_files_that_are_no_heads(reranker: Reranker, tmp_path: Path) -> None:
    (tmp_path / "head.safetensors").write_bytes(b"pickle")
    for name in ("head.safetensors", "gone.safetensors"):
        with pytest.raises(WeightsError, match="cannot be read"):
            AestheticHead.load(tmp_path / name, reranker)
    save_file(layers(16, 1), tmp_path / "odd.safetensors", {"activation": "gelu"})
    with pytest.raises(WeightsError, match="activation is 'gelu'"):
        AestheticHead.load(tmp_path / "odd.safetensors", reranker)
