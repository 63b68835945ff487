"""What a run is said to need, for real folders; nothing of them is loaded."""

from pathlib import Path

import pytest

import gen.forecast
from gen import Engine, InputError, Request
from gen.cli import main
from gen.forecast import Forecast, foresee
from gen.memory import FIRST_GUESS
from gen.plan import resolve


@pytest.fixture
def plan_words(tiny_diffusion_folder: Path, tiny_clip_folder: Path) -> list[str]:
    words = ["a panda", "a cat", "-m", str(tiny_diffusion_folder), "--steps", "5"]
    return [*words, "--reranker", str(tiny_clip_folder), "--device", "cpu", "--plan"]


def forecast(folder: Path, clip: Path, **settings: int) -> Forecast:
    plan = resolve(Request("a panda", model=str(folder), **settings))
    return foresee([plan, plan], Engine(device="cpu", reranker=str(clip)))


def test_numbers(tiny_diffusion_folder: Path, tiny_clip_folder: Path) -> None:
    told = forecast(tiny_diffusion_folder, tiny_clip_folder, candidates=3, steps=5, width=128)
    [model] = told.models
    assert (told.device, told.dtype, told.offload) == ("cpu", "float32", "none")
    assert model.candidates == 6
    assert model.evaluations == 30
    assert model.candidate == 128 * 64 * FIRST_GUESS
    files = list(tiny_diffusion_folder.rglob("*.safetensors"))
    in_half_precision = sum(path.stat().st_size for path in files)
    assert model.needs.weights == pytest.approx(2 * in_half_precision, rel=0.2)
    assert told.weights == model.needs.weights + told.jury
    assert told.jury > 0
    assert told.fits


def test_the_command_prints_and_draws_nothing(
    plan_words: list[str],
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(plan_words) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "on cpu in float32, offload none"
    assert any("32 candidates" in line and "160 network evaluations" in line for line in lines)
    assert not list(tmp_path.iterdir())


def test_what_does_not_fit_is_exit_5(
    plan_words: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        gen.forecast, "choose_machine", lambda engine: ("cuda:0", "float16", 1e6, 1e9)
    )
    assert main(plan_words) == 5
    assert "it does not fit: try --offload model" in capsys.readouterr().out


def test_a_device_that_is_not_there(plan_words: list[str]) -> None:
    plan = resolve(Request("a panda"))
    with pytest.raises(InputError, match="no device 'cuda:9'"):
        foresee([plan], Engine(device="cuda:9"))
    assert main([*plan_words, "--offload", "model"]) == 2
