import os
import random
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from train.loop import STATE, Progress, Schedule, Task, learning_rate, read_log, train

SCHEDULE = Schedule(batch_size=4, learning_rate=0.01, warmup_steps=2, steps=4)


class Line(Task):
    """Fits y = 3x + noise with a hidden layer, so that both rules of the optimiser are used."""

    def __init__(self, stop_at: int | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.network = torch.nn.Sequential(
            torch.nn.Linear(1, 16), torch.nn.Linear(16, 16), torch.nn.Linear(16, 1)
        )
        self.drawn: list[float] = []
        self.stop_at = stop_at

    def batch(self, rng: random.Random, size: int, device: torch.device) -> torch.Tensor:
        self.drawn.append(rng.random())
        if len(self.drawn) == self.stop_at:
            os.kill(os.getpid(), signal.SIGINT)
        return torch.tensor([[rng.random()] for _ in range(size)])

    def forward(self, batch: torch.Tensor, generator: torch.Generator) -> dict[str, torch.Tensor]:
        target = 3 * batch + 0.1 * torch.randn(batch.shape, generator=generator)
        return {"loss": ((self.network(batch) - target) ** 2).mean()}

    def sheet(self) -> Image.Image:
        return Image.new("RGB", (8, 8))

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "weight.txt").write_text(str(self.network[0].weight[0].item()))


def test_two_and_two_steps_are_four(tmp_path: Path) -> None:
    """Weights, averages, optimiser and data go on as if nothing had happened."""
    whole, first, second = Line(), Line(stop_at=2), Line()
    train(whole, SCHEDULE, tmp_path / "whole")
    train(first, SCHEDULE, tmp_path / "parts")  # interrupted after two steps
    train(second, SCHEDULE, tmp_path / "parts")
    assert first.drawn + second.drawn == whole.drawn
    expected, found = (load_file(tmp_path / name / STATE) for name in ("whole", "parts"))
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        assert torch.equal(value, found[name]), name
    assert [line["step"] for line in read_log(tmp_path / "parts" / "log.jsonl")] == [2, 4]


def test_ctrl_c_saves_and_stops(tmp_path: Path) -> None:
    task = Line(stop_at=1)
    train(task, replace(SCHEDULE, steps=1000), tmp_path)
    assert len(task.drawn) == 1
    assert (tmp_path / STATE).is_file()
    assert (tmp_path / "weights" / "weight.txt").is_file()
    assert (tmp_path / "loss.png").is_file()
    assert list(tmp_path.glob("sheet-*.png"))


def test_saved_weights_are_the_averaged_ones(tmp_path: Path) -> None:
    task = Line()
    train(task, SCHEDULE, tmp_path)
    state = load_file(tmp_path / STATE)
    saved = float((tmp_path / "weights" / "weight.txt").read_text())
    assert saved == state["ema.0"][0].item()
    assert saved != state["model.network.0.weight"][0].item()


def test_accumulation_is_a_larger_batch(tmp_path: Path) -> None:
    task = Line()
    train(task, replace(SCHEDULE, accumulation=2), tmp_path)
    assert len(task.drawn) == 8


def test_learning_rate_warms_up_and_decays() -> None:
    rates = [learning_rate(replace(SCHEDULE, steps=10), Progress(step)) for step in range(11)]
    assert rates[0] < rates[1] > rates[5] > rates[9]
    assert rates[10] == pytest.approx(0.02 * SCHEDULE.learning_rate)
    timed = replace(SCHEDULE, steps=None, minutes=1)
    assert learning_rate(timed, Progress(50, 60)) == pytest.approx(rates[10])


def test_a_diverging_loss_is_an_error(tmp_path: Path) -> None:
    task = Line()
    with torch.no_grad():
        task.network[0].weight.fill_(torch.nan)
    with pytest.raises(FloatingPointError, match="not finite near step"):
        train(task, SCHEDULE, tmp_path)
    assert not (tmp_path / STATE).exists()


def test_a_budget_must_be_one_of_two(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="either steps or minutes"):
        train(Line(), replace(SCHEDULE, minutes=1), tmp_path)


def test_the_state_of_another_network_is_refused(tmp_path: Path) -> None:
    train(Line(), SCHEDULE, tmp_path)
    other = Line()
    other.network.append(torch.nn.Linear(1, 1))
    with pytest.raises(RuntimeError, match="Missing key"):
        train(other, replace(SCHEDULE, steps=8), tmp_path)
