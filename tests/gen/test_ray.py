"""Actors of a Ray cluster draw what one process draws, also when an actor or its node is lost.

`make ray` installs Ray, which is larger than all other extras together, and runs these.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.cluster_utils import Cluster as Nodes

from gen.cli import BAD_INPUT, main
from gen.workers import cluster

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    """A cluster of two nodes on this machine, a core each."""
    started = Nodes(
        initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False}
    )
    started.add_node(num_cpus=1)
    yield started
    ray.shutdown()
    started.shutdown()


@pytest.fixture
def asked(tiny_diffusion_folder: Path, tiny_clip_folder: Path, tmp_path: Path) -> list[str]:
    """A prompt file and the tiny models."""
    rows = [{"prompt": prompt, "candidates": 4, "top_k": 1} for prompt in ("a fox", "a house")]
    rows.append({"prompt": "a fox", "search": "prune", "candidates": 4, "top_k": 1, "steps": 4})
    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join(json.dumps({"steps": 2, **row}) for row in rows))
    models = ["-m", str(tiny_diffusion_folder), "--reranker", str(tiny_clip_folder)]
    machine = ["--device", "cpu", "--threads", "1", "--batch-size", "2", "--seed", "3", "--quiet"]
    return ["-f", str(file), *models, *machine]


def contents(folder: Path) -> dict[str, bytes]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def test_the_run_folder_is_that_of_one_process_also_when_actors_are_killed(
    asked: list[str], nodes: Nodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main([*asked, "-o", str(tmp_path / "one")]) == 0
    there = ["--ray", nodes.address, "--workers", "2"]
    assert main([*asked, "-o", str(tmp_path / "two"), *there]) == 0
    assert contents(tmp_path / "two") == contents(tmp_path / "one")

    submit, killed = cluster.Cluster.submit, []

    def and_kill(self: cluster.Cluster, worker: int, number: int, task: Any) -> None:
        submit(self, worker, number, task)
        if number == 1 and not killed:
            killed.append(worker)
            self._ray.kill(self._actors[worker])

    monkeypatch.setattr(cluster.Cluster, "submit", and_kill)
    assert main([*asked, "-o", str(tmp_path / "three"), *there]) == 0
    assert killed
    assert contents(tmp_path / "three") == contents(tmp_path / "one")
    assert not ray.is_initialized()


def test_an_address_without_a_cluster_is_told_in_a_line(
    asked: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*asked, "-o", str(tmp_path), "--ray", "127.0.0.1:1"]) == BAD_INPUT
    assert "there is no cluster" in capsys.readouterr().err
