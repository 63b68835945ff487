"""The example of docs/reranking.md, by its answers: which picture comes first for its caption."""

import json
import re
from pathlib import Path

import pytest

from rerank import Reranker

pytestmark = pytest.mark.slow

PAGE = Path(__file__).parents[2] / "docs" / "reranking.md"
AT_LEAST = 0.35  # of the captions; a guess finds one in forty


def test_captions_find_their_pictures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    block = next(
        block
        for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
        if "captions.jsonl" in block
    )
    exec(compile(block, str(PAGE), "exec"), {})
    [captions] = tmp_path.rglob("captions.jsonl")
    rows = [json.loads(line) for line in captions.read_text(encoding="utf-8").splitlines()]
    files = [captions.parent / row["file"] for row in rows]
    scores = Reranker.load().similarity([row["caption"] for row in rows], files)
    found = [int(row.argmax()) == place for place, row in enumerate(scores)]
    with capsys.disabled():
        print(f"\n{sum(found)} of {len(rows)} captions find their picture first")
    assert len(rows) >= 40
    assert sum(found) >= AT_LEAST * len(rows)
