"""Cores and memory as control groups allow them, in trees of both versions as systems have them."""

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

from gen.memory import free_on_host
from pipelines.runtime import limits
from pipelines.runtime.limits import free_in_groups, usable_cores

UNLIMITED = "9223372036854771712"  # version 1 has no word for it
HAS_CORES = hasattr(os, "sched_getaffinity")


@pytest.fixture
def groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty tree of groups, with a process that is in none."""
    monkeypatch.setattr(limits, "GROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(limits, "MEMBERSHIP", tmp_path / "membership")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    (tmp_path / "membership").write_text("")
    return tmp_path / "cgroup"


def put(folder: Path, **files: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text + "\n")


def member(groups: Path, *lines: str) -> None:
    (groups.parent / "membership").write_text("\n".join(lines) + "\n")


def test_without_groups_all_is_free(groups: Path) -> None:
    assert usable_cores() == 8
    assert free_in_groups() == math.inf


@pytest.mark.parametrize(
    ("quota", "cores"),
    [("max 100000", 8), ("200000 100000", 2), ("150000 100000", 2), ("1000 100000", 1)],
)
def test_a_quota_of_version_2_holds(groups: Path, quota: str, cores: int) -> None:
    member(groups, "0::/")
    put(groups, cpu__max=quota)
    assert usable_cores() == cores


def test_the_tightest_group_on_the_way_up_holds(groups: Path) -> None:
    member(groups, "0::/batch.slice/job")
    put(groups / "batch.slice", cpu__max="300000 100000", memory__max="1000", memory__current="700")
    put(groups / "batch.slice/job", cpu__max="max 100000", memory__max="900")
    put(groups / "batch.slice/job", memory__current="400", memory__stat="anon 1\ninactive_file 50")
    assert usable_cores() == 3
    assert free_in_groups() == 300
    put(groups / "batch.slice/job", memory__high="420")
    assert free_in_groups() == 70


def test_version_1_is_read_where_it_is_mounted(groups: Path) -> None:
    member(groups, "5:cpu,cpuacct:/docker/a1", "4:memory:/docker/a1", "0::/", "1:name=systemd:/x")
    put(groups / "cpu,cpuacct", cpu__cfs_quota_us="400000", cpu__cfs_period_us="100000")
    put(groups / "memory", memory__limit_in_bytes=UNLIMITED, memory__usage_in_bytes="5000")
    assert usable_cores() == 4  # the path is the host's; the mount is the container's own group
    assert free_in_groups() > 1e15
    put(groups / "memory/docker/a1", memory__limit_in_bytes="6000", memory__usage_in_bytes="5000")
    put(groups / "memory/docker/a1", memory__stat="inactive_file 7\ntotal_inactive_file 250")
    assert free_in_groups() == 1250
    assert free_on_host() == 1250
    put(groups / "cpu,cpuacct/docker/a1", cpu__cfs_quota_us="-1", cpu__cfs_period_us="100000")
    assert usable_cores() == 4


def test_affinity_holds_below_the_quota(groups: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    member(groups, "0::/")
    put(groups, cpu__max="600000 100000")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3}, raising=False)
    assert usable_cores() == 1


@pytest.mark.parametrize("damage", ["", "max", "1 0", "a b", "1 2 3", "-5 10"])
def test_what_cannot_be_read_limits_nothing(groups: Path, damage: str) -> None:
    member(groups, "0::/../..")
    put(groups, cpu__max=damage, memory__max=damage, memory__current=damage)
    assert usable_cores() in (1, 8)
    assert free_in_groups() == math.inf


def threads_of(code: str, **environment: str) -> list[str]:
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("OMP_", "GOMP_", "KMP_"))}
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**inherited, **environment},
        check=True,
    )
    return done.stdout.split()


WAITS = """
import os, sys
from pipelines.runtime.limits import wait_politely
wait_politely()
assert "torch" not in sys.modules
print(os.environ.get("GOMP_SPINCOUNT"), os.environ.get("OMP_WAIT_POLICY"))
"""


def test_how_threads_wait_is_set_once_and_people_overrule_it() -> None:
    assert threads_of(WAITS) == [limits.SPIN_COUNT, "None"]
    assert threads_of(WAITS, OMP_WAIT_POLICY="ACTIVE") == ["None", "ACTIVE"]
    assert threads_of(WAITS, GOMP_SPINCOUNT="7") == ["7", "None"]


THREADS = """
import os
os.sched_getaffinity = lambda _: {0}
from pipelines.runtime.cpu import use_threads
import torch
torch.set_num_threads(3)
use_threads()
print(torch.get_num_threads())
use_threads(2)
print(torch.get_num_threads())
"""


@pytest.mark.skipif(not HAS_CORES, reason="this system has no affinity")
def test_threads_are_as_many_as_cores_unless_people_say_otherwise() -> None:
    assert threads_of(THREADS) == ["1", "2"]
    assert threads_of(THREADS, OMP_NUM_THREADS="3") == ["3", "2"]
