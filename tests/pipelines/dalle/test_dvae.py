import math

import pytest
import torch
from torch.distributions import Laplace, TransformedDistribution
from torch.distributions.transforms import SigmoidTransform

from pipelines.dalle.dvae import (
    DiscreteVae,
    DvaeConfig,
    TowerConfig,
    divergence_from_uniform,
    logit_laplace,
    map_pixels,
    relax,
    unmap_pixels,
)

pytestmark = pytest.mark.slow

TINY = DvaeConfig(
    vocabulary=24,
    size=16,
    code_width=8,
    first_kernel=3,
    encoder=TowerConfig(widths=(16,), blocks=1, kernel=1, patch=4),
    decoder=TowerConfig(widths=(16, 16), blocks=1, patch=2),
)


@pytest.fixture
def dvae() -> DiscreteVae:
    torch.manual_seed(0)
    return DiscreteVae(TINY).eval()


def test_the_papers_size() -> None:
    with torch.device("meta"):
        paper = DiscreteVae(DvaeConfig())
    assert paper.config.grid == 32
    assert sum(p.numel() for p in paper.encoder.parameters()) == 53_786_240
    assert sum(p.numel() for p in paper.decoder.parameters()) == 43_829_766


def test_the_papers_layers_have_the_published_names() -> None:
    """As in openai/DALL-E, whose `w` and `b` are `weight` and `bias` here."""
    with torch.device("meta"):
        paper = DiscreteVae(DvaeConfig())
        codes = torch.zeros(1, 2, 2, dtype=torch.int64)
        assert paper.encoder(torch.zeros(1, 3, 16, 16)).shape == (1, 8192, 2, 2)
        assert paper.decoder.of_codes(codes).shape == (1, 6, 16, 16)
    shapes = {key: tuple(value.shape) for key, value in paper.state_dict().items()}
    assert shapes["encoder.blocks.input.weight"] == (256, 3, 7, 7)
    assert shapes["encoder.blocks.group_2.block_1.id_path.weight"] == (512, 256, 1, 1)
    assert shapes["encoder.blocks.group_1.block_2.res_path.conv_4.weight"] == (256, 64, 1, 1)
    assert shapes["encoder.blocks.output.conv.weight"] == (8192, 2048, 1, 1)
    assert shapes["decoder.blocks.input.weight"] == (128, 8192, 1, 1)
    assert shapes["decoder.blocks.group_1.block_1.res_path.conv_1.weight"] == (512, 128, 1, 1)
    assert shapes["decoder.blocks.output.conv.weight"] == (6, 256, 1, 1)
    assert "encoder.blocks.group_1.block_1.id_path.weight" not in shapes
    assert paper.config.encoder.gain == 1 / 64


def test_codes_are_gathered_as_one_hot_products(dvae: DiscreteVae) -> None:
    codes = torch.randint(0, 24, (3, 4, 4))
    one_hot = torch.nn.functional.one_hot(codes, 24).movedim(-1, 1).float()
    assert torch.allclose(dvae.decoder.of_codes(codes), dvae.decoder(one_hot), atol=1e-6)


def test_shapes_and_ranges(dvae: DiscreteVae) -> None:
    codes = dvae.encode(torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8))
    assert codes.shape == (2, 4, 4)
    assert 0 <= codes.min() <= codes.max() < 24
    pictures = dvae.decode(codes)
    assert pictures.shape == (2, 3, 16, 16)
    assert 0 <= pictures.min() <= pictures.max() <= 1


def test_pixels_are_mapped_into_the_open_interval() -> None:
    x = torch.linspace(0, 1, 256)
    assert map_pixels(x)[[0, -1]].tolist() == pytest.approx([0.1, 0.9])
    assert torch.allclose(unmap_pixels(map_pixels(x)), x, atol=1e-6)
    assert unmap_pixels(torch.tensor([0.0, 1.0])).tolist() == [0, 1]


def test_logit_laplace_is_a_laplace_of_logits() -> None:
    """Against torch's own distribution, transformed."""
    x = map_pixels(torch.rand(2, 3, 4, 4))
    statistics = torch.randn(2, 6, 4, 4)
    laplace = Laplace(statistics[:, :3], statistics[:, 3:].exp())
    expected = -TransformedDistribution(laplace, SigmoidTransform()).log_prob(x)
    assert torch.allclose(logit_laplace(x, statistics), expected, atol=1e-4)
    flat = torch.full((1, 6, 1, 1), -50.0)
    assert logit_laplace(torch.full((1, 3, 1, 1), 0.5), flat, 0.1).min() > -30


def test_relaxed_samples_follow_the_distribution() -> None:
    """The largest of logits with Gumbel noise has the probabilities of the softmax."""
    logits = torch.tensor([2.0, 1.0, 0.0, -1.0]).expand(20_000, 4)
    uniforms = torch.rand(logits.shape, generator=torch.Generator().manual_seed(0))
    for temperature in (1.0, 0.1):
        relaxed = relax(logits, uniforms, temperature)
        assert torch.allclose(relaxed.sum(-1), torch.ones(20_000), atol=1e-5)
        shares = torch.bincount(relaxed.argmax(-1), minlength=4) / 20_000
        assert torch.allclose(shares, logits[0].softmax(-1), atol=0.015)
    assert relax(logits, uniforms, 1e-4).max(-1).values.mean() > 0.99
    assert relax(logits, torch.tensor([0.0, 0.5, 1 - 2**-24, 0.5]), 0.1).isfinite().all()


def test_divergence_from_uniform() -> None:
    logits = torch.randn(5, 7)
    uniform = torch.distributions.Categorical(logits=torch.zeros(5, 7))
    expected = torch.distributions.kl_divergence(
        torch.distributions.Categorical(logits=logits), uniform
    )
    assert torch.allclose(divergence_from_uniform(logits.log_softmax(-1)), expected, atol=1e-5)
    certain = torch.tensor([0.0, -1e4, -1e4])
    assert divergence_from_uniform(certain).item() == pytest.approx(math.log(3))


def test_halves_must_fit() -> None:
    with pytest.raises(ValueError, match="shrinks by 8, the decoder enlarges by 4"):
        DvaeConfig(decoder=TowerConfig(patch=1, widths=(8, 8, 8)))
    with pytest.raises(ValueError, match="no multiple of 8"):
        DvaeConfig(size=60)
