"""What the command says of a download that it refuses."""

from pathlib import Path

import pytest

from pipelines.dalle.convert.__main__ import main


def refusal(source: Path, capsys: pytest.CaptureFixture[str], *flags: str) -> str:
    """The one line that the command says before it ends with 3 and leaves nothing."""
    assert main([str(source), str(source.with_name("never")), *flags]) == 3
    assert [path.name for path in source.parent.iterdir()] == [source.name]
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    return error
