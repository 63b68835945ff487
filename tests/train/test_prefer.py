"""Diffusion-DPO: what it computes, that it learns, goes on, and opens elsewhere."""

import random
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

from pipelines.checkpoints.specs import read_adapters
from pipelines.diffusion.pipeline import LatentDiffusion
from rerank.learn.choices import Choice
from train.loop import Schedule, train
from train.prefer import PreferConfig, PreferTask
from train.shipping import ship

pytestmark = pytest.mark.slow


@pytest.fixture
def choices(tmp_path: Path) -> list[Choice]:
    made = []
    for i in range(4):
        for name, colour in (("dark", (10, 10, 40 + i)), ("bright", (240, 230 - i, 220))):
            Image.new("RGB", (64, 64), colour).save(tmp_path / f"{name}{i}.png")
        made.append(Choice(f"a fox {i}", tmp_path / f"dark{i}.png", tmp_path / f"bright{i}.png"))
    return made


def make(folder: Path, choices: list[Choice]) -> PreferTask:
    pipeline = LatentDiffusion.from_pretrained(folder, device="cpu", attention="sdpa")
    pipeline.spec.defaults.update({"width": 64, "height": 64, "steps": 2})  # type: ignore
    return PreferTask(pipeline, choices, PreferConfig(rank=2))


def test_an_unchanged_model_prefers_nothing(
    tiny_diffusion_folder: Path, choices: list[Choice]
) -> None:
    task = make(tiny_diffusion_folder, choices)
    batch = task.batch(random.Random(0), 3, torch.device("cpu"))
    figures = task(batch, torch.Generator().manual_seed(0))
    assert figures["loss"].item() == pytest.approx(0.6931, abs=1e-4)  # log 2
    figures["loss"].backward()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in task.lora)


def test_training_learns_goes_on_and_the_result_opens_in_diffusers(
    tiny_diffusion_folder: Path, choices: list[Choice], tmp_path: Path
) -> None:
    from diffusers import StableDiffusionPipeline

    whole = make(tiny_diffusion_folder, choices)
    schedule = Schedule(batch_size=4, learning_rate=1e-2, warmup_steps=1, steps=8, ema_decay=0.5)
    folder = train(whole, schedule, tmp_path / "whole")
    figures = whole(
        whole.batch(random.Random(1), 4, torch.device("cpu")), torch.Generator().manual_seed(1)
    )
    assert figures["loss"].item() < 0.6931
    file = folder / "pytorch_lora_weights.safetensors"

    again = make(tiny_diffusion_folder, choices)  # begins where the first ended, so does nothing
    train(again, schedule, tmp_path / "whole")
    for one, other in zip(whole.lora, again.lora, strict=True):
        assert torch.equal(one, other)

    adapters = read_adapters(str(file), None, None)
    changed = LatentDiffusion.from_pretrained(tiny_diffusion_folder, "cpu", adapters=adapters)
    plain = LatentDiffusion.from_pretrained(tiny_diffusion_folder, "cpu")
    stock = StableDiffusionPipeline.from_pretrained(tiny_diffusion_folder, safety_checker=None)
    stock.load_lora_weights(folder)
    x, t = torch.randn(1, 4, 8, 8), torch.tensor(500)
    hidden = plain.text.encode("a fox").hidden
    with torch.no_grad():
        ours, before, theirs = (
            p.unet(x, t, hidden, return_dict=False)[0] for p in (changed, plain, stock)
        )
    assert not torch.allclose(ours, before, atol=1e-5)
    assert torch.allclose(ours, theirs, atol=1e-4)


def test_what_was_learned_is_shipped_in_the_network_itself(
    tiny_diffusion_folder: Path, choices: list[Choice], tmp_path: Path
) -> None:
    models = tmp_path / "models"
    shutil.copytree(tiny_diffusion_folder, models / "stickers")
    schedule = Schedule(batch_size=4, learning_rate=1e-2, warmup_steps=1, steps=8, ema_decay=0.5)
    folder = train(make(tiny_diffusion_folder, choices), schedule, tmp_path / "run" / "prefer")
    assert ship(tmp_path / "run", models, tmp_path, known={}) == [models / "stickers"]
    adapters = read_adapters(str(folder / "pytorch_lora_weights.safetensors"))
    x, t = torch.randn(1, 4, 8, 8), torch.tensor(500)
    with torch.no_grad():
        beside, fused, before = (
            p.unet(x, t, p.text.encode("a fox").hidden, return_dict=False)[0]
            for p in (
                LatentDiffusion.from_pretrained(
                    tiny_diffusion_folder, "cpu", "float32", adapters=adapters
                ),
                LatentDiffusion.from_pretrained(models / "stickers", "cpu", "float32"),
                LatentDiffusion.from_pretrained(tiny_diffusion_folder, "cpu", "float32"),
            )
        )
    assert torch.allclose(beside, fused, atol=5e-3)  # half precision
    assert (beside - before).abs().max() > 10 * (beside - fused).abs().max()


def test_an_image_of_another_size_is_named(tiny_diffusion_folder: Path, tmp_path: Path) -> None:
    Image.new("RGB", (32, 32)).save(tmp_path / "a.png")
    choice = Choice("a fox", tmp_path / "a.png", tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"a\.png is not 64x64"):
        make(tiny_diffusion_folder, [choice])
