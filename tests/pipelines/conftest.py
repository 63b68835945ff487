import sys
from pathlib import Path

import pytest

from pipelines.diffusion.pipeline import LatentDiffusion

sys.path.insert(0, str(Path(__file__).parent))  # for reduced_models


@pytest.fixture(scope="session")
def pipeline(tiny_diffusion_folder: Path) -> LatentDiffusion:
    return LatentDiffusion.from_pretrained(tiny_diffusion_folder, device="cpu")
