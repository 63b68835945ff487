"""weights.md says of every shipped file what is true of it."""

import hashlib
from pathlib import Path

import pytest

import pipelines.public
import rerank.public

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


def cells(model: pipelines.public.Public | rerank.public.Public, what: str, fifth: str) -> str:
    files = ", ".join(f"{file.name} {file.size:,} `{file.sha256}`" for file in model.files)
    columns = [
        f"`{model.name}`",
        what,
        model.revision,
        files,
        model.licence,
        model.permits,
        f"{model.weights:.2f}",
        fifth,
        model.citation,
        "yes" if model.tried else "no",
    ]
    return "| " + " | ".join("" if each is None else each for each in columns) + " |"


def rows() -> list[str]:
    painters = [
        cells(model, model.draws, ", ".join(f"{k} {v}" for k, v in model.defaults.items()))
        for model in pipelines.public.PUBLIC.values()
    ]
    judges = [
        cells(model, model.judges, "its own" if model.processor is None else f"`{model.processor}`")
        for model in rerank.public.PUBLIC.values()
    ]
    return painters + judges


def test_rows_of_public_models() -> None:
    section = TABLE.read_text().split("## Public models")[1]
    assert [line for line in section.splitlines() if line.startswith("| `")] == rows()


def test_rows_of_downloads() -> None:
    section = TABLE.read_text().split("## Public checkpoints of the DALL·E path")[1]
    found = [line for line in section.splitlines() if line.startswith("| ")][1:]
    expected = [
        [
            download.name,
            ", ".join(download.holds),
            download.source,
            download.revision,
            download.sha256,
            download.licence,
            download.draws,
            ", ".join(f"{k} {v}" for k, v in download.defaults.items()),
            download.citation,
            "yes" if download.tried else "no",
        ]
        for download in pipelines.public.DOWNLOADS
    ]
    assert found == ["| " + " | ".join(columns) + " |" for columns in expected]


@pytest.mark.parametrize("table", [pipelines.public.PUBLIC, rerank.public.PUBLIC])
def test_public_models_have_names_of_the_hub(
    table: dict[str, pipelines.public.Public | rerank.public.Public],
) -> None:
    for name, model in table.items():
        assert model.name == name
        assert name.count("/") == 1
        assert "arXiv" in model.citation
