from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from rerank import AestheticHead, BadImageError, Member, Panel, Reranker, WeightsError
from rerank.panel import BLOCK, standardised
from rerank.pictures import Encoded


class Fixed:
    """A judge with scores of its own."""

    def __init__(self, name: str, scores: list[float], encoder: Reranker) -> None:
        self.name, self.scores, self.encoder = name, scores, encoder

    def score(self, prompt: str, images: Encoded) -> list[float]:
        return self.scores[: len(images)]


def noise(count: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, 3, 32, 32), generator=generator, dtype=torch.uint8)


def test_weighted_mean_of_standardised_scores(jury: Reranker) -> None:
    first, second = [0.1, 0.2, 0.4], [7.0, 9.0, 5.0]
    panel = Panel([Member(Fixed("a", first, jury)), Member(Fixed("b", second, jury), 3.0)])
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
    jury: Reranker, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    encode = Reranker.encode
    monkeypatch.setattr(
        Reranker, "encode", lambda self, *a, **k: calls.append(a) or encode(self, *a, **k)
    )
    panel = Panel([Member(Fixed("a", [1.0, 2.0], jury)), Member(Fixed("b", [2.0, 1.0], jury))])
    panel.score("x", noise(2))
    assert len(calls) == 1


def test_streams_are_read_once_in_blocks(jury: Reranker) -> None:
    pictures = noise(5)
    stream = (pictures[i % 5] for i in range(BLOCK + 10))
    opinions = Panel([Member(jury)]).judge("a panda", stream)
    expected = jury.score("a panda", pictures)
    assert opinions.parts[jury.name][-1] == pytest.approx(expected[(BLOCK + 9) % 5], abs=1e-6)
    assert len(opinions.scores) == BLOCK + 10


def test_bad_pictures(jury: Reranker, tmp_path: Path) -> None:
    Image.fromarray(noise(1)[0].permute(1, 2, 0).numpy()).save(tmp_path / "a.png")
    files = [tmp_path / "a.png", tmp_path / "gone.png", tmp_path / "a.png"]
    panel = Panel([Member(jury)])
    with pytest.raises(BadImageError, match=r"gone\.png"):
        panel.score("x", files)
    opinions = panel.judge("x", files, skip_bad=True)
    assert list(opinions.failed) == [1]
    assert [each.index for each in opinions.ranking()] == [0, 2]


def test_panels_that_make_no_sense(jury: Reranker) -> None:
    with pytest.raises(ValueError, match="different names"):
        Panel([])
    with pytest.raises(ValueError, match="different names"):
        Panel([Member(jury), Member(jury)])
    for weight in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="above 0"):
            Panel([Member(jury, weight)])
    with pytest.raises(ValueError, match="belong to one model"):
        Panel([Member(jury)]).score("x", jury.encode(noise(1)))
    with pytest.raises(ValueError, match="k is 0"):
        Panel([Member(jury)]).top_k("x", noise(1), 0)


# ---- the aesthetic head


def layers(*widths: int) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    tensors = {}
    for number, (width, out) in enumerate(pairwise(widths)):
        tensors[f"layers.{2 * number}.weight"] = torch.randn(out, width)
        tensors[f"layers.{2 * number}.bias"] = torch.randn(out)
    return tensors


@pytest.mark.parametrize("activation", ["none", "relu"])
def test_a_head_is_its_layers(jury: Reranker, tmp_path: Path, activation: str) -> None:
    tensors = layers(16, 8, 4, 1)
    save_file(tensors, tmp_path / "taste.safetensors", {"activation": activation})
    head = AestheticHead.load(tmp_path / "taste.safetensors", jury)
    modules: list[torch.nn.Module] = []
    for number, (width, out) in enumerate(((16, 8), (8, 4), (4, 1))):
        linear = torch.nn.Linear(width, out)
        linear.weight.data = tensors[f"layers.{2 * number}.weight"]
        linear.bias.data = tensors[f"layers.{2 * number}.bias"]
        modules += [linear] + [torch.nn.ReLU()] * (activation == "relu" and number < 2)
    with torch.no_grad():
        expected = torch.nn.Sequential(*modules)(jury.image_features(noise(3)))[:, 0]
    assert head.score("anything", noise(3)) == pytest.approx(expected.tolist(), abs=1e-5)
    assert head.name == "taste"
    panel = Panel([Member(jury), Member(head, 0.5)])
    assert set(panel.top_k("a panda", noise(3), 1)[0].parts) == {jury.name, "taste"}


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
    jury: Reranker, tmp_path: Path, tensors: dict[str, torch.Tensor], message: str
) -> None:
    save_file(tensors, tmp_path / "head.safetensors")
    with pytest.raises(WeightsError, match=message):
        AestheticHead.load(tmp_path / "head.safetensors", jury)


def test_files_that_are_no_heads(jury: Reranker, tmp_path: Path) -> None:
    (tmp_path / "head.safetensors").write_bytes(b"pickle")
    for name in ("head.safetensors", "gone.safetensors"):
        with pytest.raises(WeightsError, match="cannot be read"):
            AestheticHead.load(tmp_path / name, jury)
    save_file(layers(16, 1), tmp_path / "odd.safetensors", {"activation": "gelu"})
    with pytest.raises(WeightsError, match="activation is 'gelu'"):
        AestheticHead.load(tmp_path / "odd.safetensors", jury)
