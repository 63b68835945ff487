"""Every parser by atheris, where that is installed; `make fuzz` gives it a quarter of its time."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from fuzzing import SECONDS, all_parsers

pytestmark = pytest.mark.skipif(SECONDS < 120, reason="takes longer than the suite has")
PARSERS = [parser.name for parser in all_parsers()]


@pytest.mark.parametrize("name", PARSERS)
def test_nothing_new_is_found(name: str) -> None:
    seconds = max(1, round(SECONDS / 4 / len(PARSERS)))
    script = str(Path(__file__).with_name("with_atheris.py"))
    options = [f"-max_total_time={seconds}", "-timeout=0", "-print_final_stats=1"]
    ended = subprocess.run(
        [sys.executable, script, name, *options], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, (ended.stdout + ended.stderr)[-3000:]
    tried = re.search(r"number_of_executed_units: (\d+)", ended.stderr)
    reached = re.findall(r"cov: (\d+)", ended.stderr)
    assert tried is not None
    print(f"{name:36} {int(tried[1]):9,} inputs by atheris, {reached[-1]} places of code reached")
