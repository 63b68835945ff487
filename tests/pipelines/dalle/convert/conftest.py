"""Downloads in the true formats at reduced widths, and the folders that they become."""

import sys
from pathlib import Path

import pytest

from pipelines.dalle.convert.__main__ import main

sys.path.insert(0, str(Path(__file__).parent))
import public_checkpoints


def converted(source: Path, *flags: str) -> Path:
    dest = source.with_name(f"{source.name}-converted{''.join(flags)}")
    assert main([str(source), str(dest), *flags]) == 0
    return dest


@pytest.fixture(scope="session")
def rudalle_download(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Version 3. Read only: copy it to damage it."""
    return public_checkpoints.write_rudalle(tmp_path_factory.mktemp("downloads") / "rudalle")


@pytest.fixture(scope="session")
def rudalle_folder(rudalle_download: Path) -> Path:
    """What version 3 becomes."""
    return converted(rudalle_download, "--heads=4")


@pytest.fixture(scope="session")
def min_dalle_download(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Mini. Read only: copy it to damage it."""
    return public_checkpoints.write_min_dalle(tmp_path_factory.mktemp("downloads") / "min-dalle")


@pytest.fixture(scope="session")
def min_dalle_folder(min_dalle_download: Path) -> Path:
    """What it becomes with the start token of the published configs."""
    return converted(min_dalle_download, "--heads=4")


@pytest.fixture(scope="session")
def kakao_download(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """minDALL-E. Read only: copy it to damage it."""
    return public_checkpoints.write_kakao(tmp_path_factory.mktemp("downloads") / "kakao")


@pytest.fixture(scope="session")
def kakao_folder(kakao_download: Path) -> Path:
    """What it becomes."""
    return converted(kakao_download, "--heads=4", "--accept-noncommercial")


@pytest.fixture(scope="session")
def llamagen_download(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """LlamaGen and T5. Read only: copy it to damage it."""
    return public_checkpoints.write_llamagen(tmp_path_factory.mktemp("downloads") / "llamagen")


@pytest.fixture(scope="session")
def llamagen_folder(llamagen_download: Path) -> Path:
    """What they become."""
    return converted(llamagen_download, "--heads=4", "--size=96")
