import os
import shutil
from pathlib import Path

import pytest

from rerank import Reranker

collect_ignore = [] if "WITH_RAY" in os.environ else ["test_ray_data.py"]  # see `make ray`


@pytest.fixture(scope="session")
def reranker(tiny_clip_folder: Path) -> Reranker:
    return Reranker.load(tiny_clip_folder, device="cpu")


@pytest.fixture
def damaged(tiny_clip_folder: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model, to be damaged."""
    return Path(shutil.copytree(tiny_clip_folder, tmp_path / "damaged"))
