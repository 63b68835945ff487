"""Fakes for the tests of gen, and a way to run the command in a process of its own."""

import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest

from gen.cli import main

sys.path.insert(0, str(Path(__file__).parent))
import fake_models

collect_ignore = [] if "WITH_RAY" in os.environ else ["test_ray.py"]  # see `make ray`


@pytest.fixture
def studio(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> fake_models.Studio:
    """The engine's models replaced by fakes, which tests may look at and break."""
    folder = tmp_path_factory.mktemp("studio")
    return fake_models.Studio(folder, monkeypatch.setattr, monkeypatch.setitem)


@pytest.fixture
def generate_in_fork(tmp_path: Path) -> Callable[..., int]:
    """Runs `generate` in a child process and returns how it ended, as `os.waitpid` says it.

    `prepare` is called in the child, to break something there; what the command says goes to the
    files stdout and stderr in the test's folder.
    """

    def run(words: list[str], prepare: Callable[[], None] = lambda: None) -> int:
        child = os.fork()
        if child == 0:
            try:
                for number, name in ((1, "stdout"), (2, "stderr")):
                    os.dup2(os.open(tmp_path / name, os.O_CREAT | os.O_WRONLY | os.O_TRUNC), number)
                prepare()
                sys.stdout = os.fdopen(1, "w")
                sys.stderr = os.fdopen(2, "w")
                os._exit(main(words))
            except BaseException:
                traceback.print_exc()
                sys.stderr.flush()
                os._exit(99)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    return run
