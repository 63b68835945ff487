from pathlib import Path

import pytest

from pipelines.latent_diffusion import LatentDiffusion


@pytest.fixture(scope="session")
def pipeline(tiny_diffusion_folder: Path) -> LatentDiffusion:
    return LatentDiffusion.from_pretrained(tiny_diffusion_folder, device="cpu")
