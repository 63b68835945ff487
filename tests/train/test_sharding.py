"""Trainings whose tensors are shared out among processes are those of whole tensors.

On a CPU accelerate would not shard, so there this file, which is also the script of each process,
says that it is to; from then on it is accelerate's and torch's own code, over gloo.
"""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from unittest import mock

import numpy
import pytest
import torch
from accelerate import Accelerator, DistributedType
from accelerate.state import AcceleratorState
from PIL import Image
from safetensors.torch import load_file
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor
from transformers import CLIPTokenizer

from train import sharding
from train.autoencoder import AutoencoderConfig, AutoencoderTask
from train.diffusion import DiffusionConfig, DiffusionTask
from train.loop import STATE, Schedule, Task, read_log, train
from train.tokenizer import save_tokenizer, train_tokenizer

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
KINDS = ("whole", "sharded")
# Two batches a step, and gradients that are always clipped. The rate is small because rounding is
# magnified where a matrix is made orthogonal: its smallest directions grow five hundred times.
SCHEDULE = Schedule(
    batch_size=2, learning_rate=3e-4, warmup_steps=2, steps=4, accumulation=2, gradient_clip=0.1
)


def start(arguments: list[str], **environment: str) -> None:
    """Run this file under a launcher; fail with what it wrote if it fails."""
    ended = subprocess.run(
        [sys.executable, "-m", *arguments],
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=600,
    )
    assert ended.returncode == 0, ended.stdout[-5000:]


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with all trainings of `train_on_a_cpu`, made by two processes."""
    out = tmp_path_factory.mktemp("runs")
    save_tokenizer(train_tokenizer(), out / "tokenizer")
    launcher = ["torch.distributed.run", "--nproc-per-node=2", f"--master-port={free_port()}"]
    hidden = {"ACCELERATE_USE_CPU": "true", "CUDA_VISIBLE_DEVICES": "", "FSDP_VERSION": "2"}
    start([*launcher, __file__, "cpu", str(out)], **hidden)
    return out


def furthest(first: Path, second: Path) -> float:
    """The largest difference between two files of tensors of the same names and shapes."""
    expected, found = load_file(first), load_file(second)
    assert expected.keys() == found.keys()
    assert all(value.shape == found[name].shape for name, value in expected.items())
    return max((value - found[name]).abs().max().item() for name, value in expected.items())


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("whole", "sharded"),
        ("whole", "sharded-then-whole"),
        ("whole", "whole-then-sharded"),
        ("whole", "sharded-checkpointing"),
        ("whole", "sharded-checkpointing-by-accelerate"),
        ("whole-unet", "sharded-unet"),
    ],
)
def test_sharding_changes_nothing(runs: Path, one: str, other: str) -> None:
    """Weights, averages and the optimiser's means after four steps."""
    assert furthest(runs / one / STATE, runs / other / STATE) < 1e-6


@pytest.mark.parametrize(("network", "blocks"), [("", 2), ("-unet", 5 + 8)])
def test_each_process_holds_its_part_of_each_block(runs: Path, network: str, blocks: int) -> None:
    whole, sharded = (json.loads((runs / f"{kind}{network}.json").read_text()) for kind in KINDS)
    assert whole["sharded"] == 0
    assert sharded["sharded"] == blocks + 1  # and what is around them
    assert sharded["held"] == pytest.approx(whole["held"] / 2, rel=0.02)


@pytest.mark.parametrize(
    ("network", "file"),
    [("", "transformer/model"), ("-unet", "unet/diffusion_pytorch_model")],
)
def test_shipped_weights_are_whole(runs: Path, network: str, file: str) -> None:
    files = (runs / f"{kind}{network}" / f"weights/{file}.safetensors" for kind in KINDS)
    assert furthest(*files) < 1e-6


def test_sheets_are_drawn_from_the_whole_copy(runs: Path) -> None:
    for network in ("", "-unet"):
        files = [runs / f"{kind}{network}" / "sheet-0000004.png" for kind in KINDS]
        one, other = (numpy.asarray(Image.open(file)).astype(int) for file in files)
        assert abs(one - other).max() <= 1


def test_half_precision_is_near(runs: Path) -> None:
    exact, near = (read_log(runs / name / "log.jsonl") for name in ("whole", "sharded-bf16"))
    assert near[-1]["loss"] == pytest.approx(exact[-1]["loss"], rel=0.02)
    assert 1e-6 < furthest(runs / "whole" / STATE, runs / "sharded-bf16" / STATE) < 1e-3
    state = load_file(runs / "sharded-bf16" / STATE)
    assert {value.dtype for value in state.values()} == {torch.float32}


def test_what_cannot_be_sharded_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    task = AutoencoderTask(AutoencoderConfig())
    with pytest.raises(ValueError, match="launch with --fsdp_version 2"):
        train(task, SCHEDULE, tmp_path / "run")
    monkeypatch.setenv("FSDP_VERSION", "2")
    with pytest.raises(ValueError, match="cannot be sharded"):
        train(task, SCHEDULE, tmp_path / "run")
    assert not list(tmp_path.iterdir())


@pytest.mark.gpu
@pytest.mark.parametrize("network", ["dalle", "unet"])
def test_sharding_on_a_gpu(tmp_path: Path, network: str) -> None:
    """As it is launched; with all GPUs, up to two."""
    save_tokenizer(train_tokenizer(), tmp_path / "tokenizer")
    processes = f"--num_processes={min(2, torch.cuda.device_count())}"
    for name, flags in zip(KINDS, ([], ["--use_fsdp", "--fsdp_version=2"]), strict=True):
        launcher = ["accelerate.commands.launch", processes, f"--main_process_port={free_port()}"]
        out = [str(tmp_path), network, name]
        start([*launcher, *flags, __file__, "gpu", *out])
    assert furthest(*(tmp_path / name / STATE for name in KINDS)) < 1e-4


# --- what the processes do ---


class Sharding(Accelerator):
    """Accelerate as it is on CUDA devices: it shards if it has a plan."""

    def __init__(self, **settings) -> None:
        AcceleratorState._reset_state()
        super().__init__(**settings)
        if settings["fsdp_plugin"] is not None:
            self.state.distributed_type = DistributedType.FSDP
            self.state.fsdp_plugin = settings["fsdp_plugin"]


def train_on_a_cpu(out: Path) -> None:
    def trained(name: str, task: Task, sharded: bool, **changes) -> None:
        os.environ["ACCELERATE_USE_FSDP"] = str(sharded).lower()
        train(task, replace(SCHEDULE, **changes), out / name)
        own = [p.to_local() if isinstance(p, DTensor) else p for p in task.parameters()]
        facts = {
            "held": sum(parameter.numel() for parameter in own),
            "sharded": sum(isinstance(module, FSDPModule) for module in task.modules()),
        }
        if os.environ["RANK"] == "0":
            (out / f"{name}.json").write_text(json.dumps(facts))

    plan = sharding.plan

    def planned(*arguments) -> object:
        with mock.patch("torch.cuda.is_available", return_value=True):
            return plan(*arguments)

    with (
        mock.patch("train.loop.Accelerator", Sharding),
        mock.patch.object(sharding, "plan", planned),
    ):
        make: Callable[..., Task] = make_dalle(out)
        trained("whole", make(), False)
        trained("sharded", make(), True)
        for name in ("sharded-then-whole", "whole-then-sharded"):
            trained(name, stopped_after_two_steps(make()), name.startswith("sharded"))
            trained(name, make(), name.endswith("sharded"))
        trained("sharded-checkpointing", make(gradient_checkpointing=True), True)
        with mock.patch.dict(os.environ, {"FSDP_ACTIVATION_CHECKPOINTING": "true"}):
            trained("sharded-checkpointing-by-accelerate", make(), True)
        trained("sharded-bf16", make(), True, mixed_precision="bf16")
        trained("whole-unet", make_diffusion(out), False)
        trained("sharded-unet", make_diffusion(out), True)


def train_on_a_gpu(out: Path, network: str, name: str) -> None:
    torch.backends.cudnn.allow_tf32 = False
    task = make_dalle(out)() if network == "dalle" else make_diffusion(out)
    train(task, SCHEDULE, out / name)


def make_dalle(out: Path) -> Callable[..., Task]:
    from test_dalle import TINY, make_task

    tokenizer = CLIPTokenizer.from_pretrained(out / "tokenizer")
    return lambda **changes: make_task(tokenizer, replace(TINY, **changes))


def make_diffusion(out: Path) -> Task:
    text_encoder = make_dalle(out)().frozen[1]
    torch.manual_seed(0)
    vae = AutoencoderTask(AutoencoderConfig(widths=(8, 8, 16, 16), latent_channels=4)).vae
    recipe = DiffusionConfig(widths=(32,), norm_groups=8, pool=16)
    tokenizer = CLIPTokenizer.from_pretrained(out / "tokenizer")
    return DiffusionTask(recipe, vae, text_encoder, tokenizer)


def stopped_after_two_steps(task: Task) -> Task:
    """The task, which interrupts its training in the last batch of the second step."""
    draw, drawn = task.batch, []

    def batch(*arguments) -> object:
        drawn.append(1)
        if len(drawn) == 2 * SCHEDULE.accumulation:
            os.kill(os.getpid(), signal.SIGINT)
        return draw(*arguments)

    task.batch = batch
    return task


if __name__ == "__main__":
    kind, folder, *rest = sys.argv[1:]
    {"cpu": train_on_a_cpu, "gpu": train_on_a_gpu}[kind](Path(folder), *rest)
