"""Every command where its output is a full disk, or where nobody reads it."""

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

import gen.cli
import pipelines.dalle.convert.__main__ as convert
import rerank.cli
import train.cli
import ui.cli

Main = Callable[[Sequence[str]], int]
COMMANDS: dict[str, Main] = {
    "generate --help": gen.cli.main,
    "generate --version": gen.cli.main,
    "generate --list-models": gen.cli.main,
    "generate --env": gen.cli.main,
    "rerank --help": rerank.cli.main,
    "generate-ui --help": ui.cli.main,
    "salon-train --help": train.cli.main,
    "salon-train plan": train.cli.main,
    "convert --help": convert.main,
}
each = pytest.mark.parametrize("command", COMMANDS)


@pytest.fixture
def closed_pipe() -> int:
    reading, writing = os.pipe()
    os.close(reading)
    return writing


def run(command: str) -> int:
    """Run a command in this process; its exit code."""
    try:
        return COMMANDS[command](command.split()[1:])
    except SystemExit as end:
        return int(end.code or 0)


@each
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
@pytest.mark.fault("a full disk")
def test_on_a_full_disk(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with open("/dev/full", "w") as full, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", full)
        assert run(command) == 5
    errors = capsys.readouterr().err
    assert "cannot write standard output: " in errors
    assert len(errors.splitlines()) == 1


@each
@pytest.mark.fault("odd surroundings")
def test_where_nobody_reads(
    command: str,
    closed_pipe: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with open(closed_pipe, "w") as pipe, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", pipe)
        assert run(command) == 0
    assert capsys.readouterr().err == ""
