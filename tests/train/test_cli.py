"""What `salon-train` refuses before it begins."""

from pathlib import Path

import pytest

from pipelines.runtime.terminal import UsageError
from train.cli import main


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["clip", "--minutes", "-3"], "--minutes: '-3' is not a number above 0"),
        (["clip", "--minutes", "0"], "--minutes: '0' is not a number above 0"),
        (["clip", "--minutes", "nan"], "--minutes: 'nan' is not a number above 0"),
        (["clip", "--minutes", "inf"], "--minutes: 'inf' is not a number above 0"),
        (["statistics", "--number", "0.5"], "--number: '0.5' is not a whole number above 0"),
        (["nonsense"], "nonsense"),
    ],
)
def test_budgets_without_an_end_are_refused(
    words: list[str],
    says: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    try:
        code: object = main(words)
    except SystemExit as error:
        code = error.code
    except UsageError as error:
        code, message = 2, str(error)
        print(message)
    said = capsys.readouterr()
    assert code == 2
    assert says in said.err + said.out
    assert not [*tmp_path.iterdir()]
