"""The tree that people clone: what lies at its top, and that it stays small."""

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FOLDERS = {
    ".ci",
    ".github",
    "benchmarks",
    "docs",
    "gen",
    "pipelines",
    "prompts",
    "rerank",
    "tests",
    "train",
    "ui",
}
FILES = {
    ".gitignore",
    ".pre-commit-config.yaml",
    "ARCHITECTURE.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "LICENSE",
    "Makefile",
    "README.md",
    "constraints.txt",
    "mkdocs.yml",
    "pyproject.toml",
    "weights.md",
}
LARGEST_FILE = 16_000_000  # bytes
LARGEST_TREE = 58_000_000
REFUSED_NAMES = {"utils.py", "common.py", "helpers.py"}
REFUSED_SUFFIXES = {".pt", ".pth", ".ckpt", ".bin", ".pkl", ".pickle"}


@pytest.fixture(scope="module")
def files() -> list[Path]:
    """What git tracks; in a tree without git, what is not a build's or a cache's."""
    done = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, encoding="utf-8"
    )
    if done.returncode == 0:
        names = [Path(name) for name in done.stdout.split("\0") if name]
        return [name for name in names if (ROOT / name).is_file()]
    found = [path.relative_to(ROOT) for path in ROOT.rglob("*") if path.is_file()]
    return [path for path in found if path.parts[0] in FOLDERS or path.name in FILES]


def test_the_top_holds_what_is_described_and_no_more(files: list[Path]) -> None:
    assert {path.parts[0] for path in files if len(path.parts) > 1} <= FOLDERS
    assert {path.name for path in files if len(path.parts) == 1} <= FILES


def test_it_stays_small(files: list[Path]) -> None:
    sizes = {path: (ROOT / path).stat().st_size for path in files}
    assert not [path for path, size in sizes.items() if size > LARGEST_FILE]
    assert sum(sizes.values()) < LARGEST_TREE


def test_no_names_without_meaning_and_no_pickles(files: list[Path]) -> None:
    assert not [path for path in files if path.name in REFUSED_NAMES]
    assert not [path for path in files if path.suffix in REFUSED_SUFFIXES]
