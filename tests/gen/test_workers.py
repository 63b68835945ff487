"""Processes that draw: the same run folder as one process, also when they or the driver end."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from gen import Engine, InputError, generate
from gen.cli import INTERRUPTED, main
from gen.workers.processes import Processes

PROMPTS = ("a fox", "two red apples", "a house")


@pytest.fixture
def machine(tiny_diffusion_folder: Path, tiny_clip_folder: Path) -> list[str]:
    """The flags that choose tiny models."""
    own = ["-m", str(tiny_diffusion_folder), "--reranker", str(tiny_clip_folder)]
    return [*own, "--device", "cpu", "--threads", "1", "--seed", "3", "--quiet"]


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def rows(folder: Path, prompts: tuple[str, ...] = PROMPTS, **settings: Any) -> Path:
    path = folder / "rows.jsonl"
    lines = [json.dumps({"prompt": prompt, "steps": 2, **settings}) for prompt in prompts]
    path.write_text("\n".join(lines))
    return path


def children(parent: int | None = None) -> set[int]:
    """Processes that one (by default this) has started and that have not ended."""
    parent = os.getpid() if parent is None else parent
    found = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, own = stat.read_text().rpartition(")")[2].split()[:2]
        except OSError:
            continue
        if int(own) == parent and state != "Z":
            found.add(int(stat.parent.name))
    return found


@pytest.mark.slow
def test_the_run_folder_is_that_of_one_process_and_no_process_stays(
    machine: list[str], tmp_path: Path
) -> None:
    asked = ["-f", str(rows(tmp_path, candidates=7, top_k=2)), *machine, "--batch-size", "3"]
    before = children()
    assert main([*asked, "-o", str(tmp_path / "one")]) == 0
    assert main([*asked, "-o", str(tmp_path / "two"), "--workers", "2"]) == 0
    assert contents(tmp_path / "two") == contents(tmp_path / "one")
    assert children() == before
    assert main([*asked, "-o", str(tmp_path / "two"), "--workers", "2"]) == 0  # nothing to do


@pytest.mark.slow
def test_a_search_an_edit_and_tokens_are_those_of_one_process(
    machine: list[str], tiny_dalle_folder: Path, tmp_path: Path
) -> None:
    from PIL import Image

    photo = tmp_path / "photo.png"
    Image.effect_noise((40, 32), 60).convert("RGB").save(photo)
    lines: list[dict[str, Any]] = [
        {"prompt": "a fox", "search": "prune", "candidates": 6, "top_k": 1, "steps": 4},
        {"prompt": "a fox", "init_image": str(photo), "steps": 3, "candidates": 2, "top_k": 1},
        {"prompt": "a fox", "model": str(tiny_dalle_folder), "candidates": 3, "top_k": 1},
    ]
    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join(json.dumps(line) for line in lines))
    asked = ["-f", str(file), *machine]
    assert main([*asked, "-o", str(tmp_path / "one")]) == 0
    assert main([*asked, "-o", str(tmp_path / "two"), "--workers", "2"]) == 0
    assert contents(tmp_path / "two") == contents(tmp_path / "one")


@pytest.mark.slow
def test_a_worker_that_is_killed_costs_nothing(
    machine: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = ["-f", str(rows(tmp_path, candidates=4, top_k=1)), *machine, "--batch-size", "2"]
    assert main([*asked, "-o", str(tmp_path / "one")]) == 0
    submit, killed = Processes.submit, []

    def and_kill(self: Processes, worker: int, number: int, task: Any) -> None:
        submit(self, worker, number, task)
        if number == 1 and not killed:
            killed.append(worker)
            self._workers[worker][0].kill()

    monkeypatch.setattr(Processes, "submit", and_kill)
    assert main([*asked, "-o", str(tmp_path / "two"), "--workers", "2"]) == 0
    assert killed
    assert contents(tmp_path / "two") == contents(tmp_path / "one")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_when_the_driver_ends_so_do_the_workers_and_the_same_command_resumes(
    machine: list[str], tmp_path: Path, number: int
) -> None:
    # One at a time: the rest of a micro-batch, drawn by itself, may differ by rounding.
    asked = ["-f", str(rows(tmp_path, candidates=6, top_k=1)), *machine, "--batch-size", "1"]
    assert main([*asked, "-o", str(tmp_path / "one")]) == 0
    command = [*asked, "-o", str(tmp_path / "two"), "--workers", "2"]
    driver = subprocess.Popen([sys.executable, "-m", "gen", *command], stderr=subprocess.DEVNULL)
    candidates = tmp_path / "two" / "candidates"
    deadline = time.monotonic() + 300
    while not any(candidates.glob("*.png")) and driver.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    workers = children(driver.pid)
    driver.send_signal(number)
    assert driver.wait(timeout=300) in (-number, INTERRUPTED, 0)
    while any(map(is_alive, workers)):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert main(command) == 0
    theirs = {name: data for name, data in contents(tmp_path / "two").items() if ".png" in name}
    ours = {name: data for name, data in contents(tmp_path / "one").items() if ".png" in name}
    assert theirs == ours


def is_alive(pid: int) -> bool:
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False


@pytest.mark.slow
def test_from_python_with_a_scorer_of_ones_own(tiny_diffusion_folder: Path) -> None:
    def brightness(prompt: str, images: Any) -> list[float]:
        return [float(image.float().mean()) for image in images]

    asked: dict[str, Any] = {"model": str(tiny_diffusion_folder), "steps": 2, "seed": 5}
    asked |= {"candidates": 5, "top_k": 2}
    alone = generate("a fox", engine=Engine("cpu", scorer=brightness, threads=1), **asked)
    with Engine("cpu", scorer=brightness, threads=1, workers=2) as engine:
        together = generate("a fox", engine=engine, **asked)
        with pytest.raises(InputError, match="leave it out"):
            generate("a fox", engine=Engine("cpu", workers=1, offload="model"), **asked)
    assert [(r.seed, r.score, r.rank) for r in together] == [
        (r.seed, r.score, r.rank) for r in alone
    ]
    assert [r.image and r.image.tobytes() for r in together] == [
        r.image and r.image.tobytes() for r in alone
    ]
