"""What a run is said to need, for real folders; nothing of them is loaded."""

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from gen import Engine, InputError, Request
from gen.cli import main
from gen.memory import FIRST_GUESS
from gen.memory_estimate import MemoryEstimate, estimate_memory
from gen.plan import resolve
from pipelines.dalle.memory import MemoryPlan
from pipelines.diffusion.memory import KEPT_FOR_GRADIENTS


@pytest.fixture
def plan_words(tiny_diffusion_folder: Path, tiny_clip_folder: Path) -> list[str]:
    words = ["a panda", "a cat", "-m", str(tiny_diffusion_folder), "--steps", "5"]
    return [*words, "--reranker", str(tiny_clip_folder), "--device", "cpu", "--plan"]


def estimate(folder: Path, clip: Path, **settings: Any) -> MemoryEstimate:
    plan = resolve(Request("a panda", model=str(folder), **settings))
    return estimate_memory([plan, plan], Engine(device="cpu", reranker=str(clip)))


def test_numbers(tiny_diffusion_folder: Path, tiny_clip_folder: Path) -> None:
    told = estimate(tiny_diffusion_folder, tiny_clip_folder, candidates=3, steps=5, width=128)
    [model] = told.models
    assert (told.device, told.dtype, told.offload) == ("cpu", "float32", "none")
    assert model.candidates == 6
    assert model.evaluations == 30
    assert model.candidate == 128 * 64 * FIRST_GUESS
    files = list(tiny_diffusion_folder.rglob("*.safetensors"))
    in_half_precision = sum(path.stat().st_size for path in files)
    assert model.needs.weights == pytest.approx(2 * in_half_precision, rel=0.2)
    assert told.weights == model.needs.weights + told.rerankers
    assert told.rerankers > 0
    assert told.fits


def test_what_a_transformer_remembers(tiny_dalle_folder: Path, tiny_clip_folder: Path) -> None:
    plain, compared = (
        estimate(tiny_dalle_folder, tiny_clip_folder, candidates=2, guidance=guidance).models[0]
        for guidance in (1, 3)
    )
    assert compared.prompt_cache == 2 * plain.prompt_cache > 0
    assert compared.candidate_cache == 2 * plain.candidate_cache > 0
    spec = plain.spec
    plan = MemoryPlan.of_model(spec, 4, 1.0)
    assert (plain.prompt_cache, plain.candidate_cache) == (
        plan.cache_shared,
        plan.cache_per_candidate,
    )
    pixels = spec.defaults["width"] * spec.defaults["height"]
    assert plain.candidate == pixels * FIRST_GUESS + plain.candidate_cache


def test_what_gradients_keep(
    tiny_diffusion_folder: Path, tiny_clip_folder: Path, tmp_path: Path
) -> None:
    image, mask = tmp_path / "image.png", tmp_path / "mask.png"
    Image.new("RGB", (96, 64)).save(image)
    Image.new("L", (96, 64), 255).save(mask)
    edit = {"init_image": str(image), "mask": str(mask), "steps": 5}
    plain, led = (
        estimate(tiny_diffusion_folder, tiny_clip_folder, **edit, **more).models[0]
        for more in ({}, {"mask_guidance": 2.0})
    )
    assert plain.candidate == 96 * 64 * FIRST_GUESS
    assert led.candidate - plain.candidate == 96 * 64 * KEPT_FOR_GRADIENTS * 4  # bytes


def test_a_model_with_additions_is_another(
    tiny_diffusion_folder: Path, tiny_clip_folder: Path
) -> None:
    """Both are in memory when two prompts add different files."""
    plans = [
        resolve(Request("a panda", model=str(tiny_diffusion_folder), candidates=2, vae=vae))
        for vae in (None, str(tiny_diffusion_folder / "vae"))
    ]
    told = estimate_memory(plans, Engine(device="cpu", reranker=str(tiny_clip_folder)))
    one, other = told.models
    assert one.needs == other.needs
    assert told.weights == 2 * one.needs.weights + told.rerankers


def test_wishes_that_the_model_lacks(tiny_dalle_folder: Path) -> None:
    plan = resolve(Request("a panda", model=str(tiny_dalle_folder)))
    with pytest.raises(InputError, match="runs without --vae-tiling"):
        estimate_memory([plan], Engine(device="cpu", reranker="none", vae_tiling=True))


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
    monkeypatch.setattr(Engine, "choose_machine", lambda engine: ("cuda:0", "float16", 1e6, 1e9))
    assert main(plan_words) == 5
    assert "it does not fit: try --offload model" in capsys.readouterr().out


def test_a_device_that_is_not_there(plan_words: list[str]) -> None:
    plan = resolve(Request("a panda"))
    with pytest.raises(InputError, match="no device 'cuda:9'"):
        estimate_memory([plan], Engine(device="cuda:9"))
    assert main([*plan_words, "--offload", "model"]) == 2
