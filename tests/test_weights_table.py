"""weights.md says of every shipped file what is true of it."""

import hashlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TABLE = ROOT / "weights.md"
FILES = sorted(
    file
    for package in ("pipelines", "rerank")
    for file in (ROOT / package / "checkpoints").rglob("*.safetensors")
)


@pytest.mark.parametrize("file", FILES, ids=[str(file.relative_to(ROOT)) for file in FILES])
def test_row_of_a_file(file: Path) -> None:
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    rows = [row for row in TABLE.read_text().splitlines() if f"`{file.relative_to(ROOT)}`" in row]
    assert len(rows) == 1
    assert f"`{digest}`" in rows[0]
    assert f"{file.stat().st_size:,}" in rows[0]


def test_shipped_weights_are_small() -> None:
    sizes = {file: file.stat().st_size for file in FILES}
    assert len(FILES) == 7
    assert max(sizes.values()) <= 16 * 2**20
    assert sum(sizes.values()) <= 40 * 2**20
