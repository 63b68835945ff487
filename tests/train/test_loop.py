import os
import random
import signal
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from train.loop import START, STATE, Progress, Schedule, Task, learning_rate, read_log, train
from train.world.start import copy, keep

pytestmark = pytest.mark.slow

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


UNEQUAL = """
import os, sys
from dataclasses import replace
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from test_loop import SCHEDULE, Line
from train.loop import train

class Unequal(Line):
    # The second process is interrupted in its third batch; each sees data of its own.
    def __init__(self):
        super().__init__(stop_at=3 if Path(sys.argv[3]).name == "stopped" and RANK == "1" else None)

RANK = os.environ["RANK"]
task = Unequal()
schedule = replace(SCHEDULE, steps=5)
train(task, schedule, Path(sys.argv[3]))
Path(sys.argv[2], f"drawn-{RANK}").write_text(" ".join(map(str, task.drawn)))
Path(sys.argv[2], f"weight-{RANK}").write_text(str(task.network[0].weight.flatten().tolist()))
"""


@pytest.mark.parametrize(("name", "steps"), [("whole", 5), ("stopped", 3)])
def test_two_processes_share_one_training(tmp_path: Path, name: str, steps: int) -> None:
    """Different data, equal weights; and one that is interrupted ends the other after its step."""
    script = tmp_path / "script.py"
    script.write_text(UNEQUAL)
    launch = ["-m", "torch.distributed.run", "--nproc-per-node", "2"]
    launch += ["--master-port", str(free_port())]
    own = [script, Path(__file__).parent, tmp_path, tmp_path / name]
    environment = os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    subprocess.run(
        [sys.executable, *launch, *map(str, own)], env=environment, check=True, timeout=300
    )
    drawn = [(tmp_path / f"drawn-{i}").read_text().split() for i in range(2)]
    assert [len(each) for each in drawn] == [steps, steps]
    assert not set(drawn[0]) & set(drawn[1])
    weights = [(tmp_path / f"weight-{i}").read_text() for i in range(2)]
    assert weights[0] == weights[1]
    assert [line["step"] for line in read_log(tmp_path / name / "log.jsonl")] == [steps]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_a_training_begins_with_kept_weights(tmp_path: Path) -> None:
    first, second = Line(), Line()
    train(first, SCHEDULE, tmp_path / "first" / "line")
    kept = keep("line", first, tmp_path / "first", tmp_path / "kept")
    assert {value.dtype for value in load_file(kept).values()} == {
        torch.int8,
        torch.float16,
        torch.float32,
    }
    (tmp_path / "kept" / "tokenizer").mkdir()
    [begun] = copy(tmp_path / "second", tmp_path / "kept")
    assert begun == tmp_path / "second" / "line" / START
    train(second, replace(SCHEDULE, steps=1, learning_rate=0.0), tmp_path / "second" / "line")
    averaged, again = load_file(begun), load_file(tmp_path / "second" / "line" / STATE)
    for name, value in second.state_dict().items():
        assert torch.equal(value, averaged[name].float()), name
    assert torch.equal(again["ema.0"], averaged["network.0.weight"])
    trained = load_file(tmp_path / "first" / "line" / STATE)
    for index, (name, value) in enumerate(first.named_parameters()):
        wanted = trained[f"ema.{index}"]
        assert torch.allclose(
            averaged[name].float(), wanted, atol=float(value.detach().abs().max()) / 200
        )
