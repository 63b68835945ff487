"""OpenAI's discrete VAE: codes and pictures of the reference, from pickled networks."""

from pathlib import Path

import pytest
import torch
from public_checkpoints import DVAE, dvae_shapes, picture, reference, values, write_dvae
from safetensors.torch import load_file

from pipelines.dalle.convert.__main__ import main
from pipelines.dalle.convert.openai_dvae import plan
from pipelines.dalle.convert.recipe import source_shapes
from pipelines.dalle.convert.writing import build
from pipelines.dalle.dvae import DiscreteVae, DvaeConfig, map_pixels
from pipelines.dalle.networks import load_dvae

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def download(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dvae(tmp_path_factory.mktemp("downloads") / "dvae")


@pytest.fixture(scope="module")
def dvae(download: Path) -> DiscreteVae:
    dest = download.with_name("converted")
    assert main([str(download), str(dest)]) == 0
    return load_dvae(dest)


@torch.inference_mode()
def test_codes_and_pictures_of_the_reference(dvae: DiscreteVae) -> None:
    expected = reference("openai_dvae")
    logits = dvae.encoder(map_pixels(picture(32) / 255))
    assert torch.allclose(logits[:, ::8], expected["code_logits"], atol=1e-5)
    assert torch.equal(dvae.encode(picture(32)), expected["found"])
    statistics = dvae.decoder.of_codes(expected["codes"])
    assert torch.allclose(statistics, expected["statistics"], atol=1e-5)
    assert torch.allclose(dvae.decode(expected["codes"]), expected["pixels"], atol=1e-5)


def test_every_parameter_is_there_unchanged(dvae: DiscreteVae, download: Path) -> None:
    stored = load_file(download.with_name("converted") / "model.safetensors")
    for part in ("encoder", "decoder"):
        for key, shape in dvae_shapes(part).items():
            ours = f"{part}.{key.removesuffix('.w').removesuffix('.b')}"
            end = ".weight" if key.endswith(".w") else ".bias"
            assert torch.equal(stored.pop(ours + end), values(f"{part}.{key}", shape))
    assert not stored
    assert dvae.config.vocabulary == DVAE["codes"]


def test_half_a_download(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write_dvae(tmp_path / "download")
    (source / "decoder.pkl").unlink()
    assert main([str(source), str(tmp_path / "model")]) == 3
    assert "decoder.pkl is missing" in capsys.readouterr().err


def test_every_row_of_the_published_size_has_a_place() -> None:
    """As many numbers as the published files have, encoder and decoder apart."""
    config = DvaeConfig()
    ours = {key: tuple(value.shape) for key, value in build(config).state_dict().items()}
    shapes = source_shapes(plan(config), ours)
    for part, numbers in (("encoder.", 53_786_240), ("decoder.", 43_829_766)):
        mine = [torch.Size(s).numel() for key, s in shapes.items() if key.startswith(part)]
        assert sum(mine) == numbers
