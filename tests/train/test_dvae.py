import random
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.nn import functional

from pipelines.dalle.dvae import DiscreteVae, DvaeConfig, TowerConfig, map_pixels
from pipelines.dalle.networks import load_dvae
from train.dvae import (
    NETWORK,
    DvaeRecipe,
    DvaeTask,
    begin_with_squares,
    cosine,
    typical_squares,
    usage,
)
from train.loop import Schedule, train

pytestmark = pytest.mark.slow

TINY = DvaeRecipe(
    network=DvaeConfig(
        vocabulary=64,
        size=64,
        code_width=64,
        first_kernel=1,
        encoder=TowerConfig(widths=(196,), blocks=1, kernel=1, patch=8),
        decoder=TowerConfig(widths=(128,), blocks=1, patch=8),
    ),
    first_pictures=24,
)
CPU = torch.device("cpu")


def test_the_shipped_size() -> None:
    with torch.device("meta"):
        network = DiscreteVae(NETWORK)
    assert sum(p.numel() for p in network.parameters()) * 2 < 3e6  # bytes in half precision
    assert network.config.grid == 8


def test_it_learns_and_comes_back_from_its_file(tmp_path: Path) -> None:
    torch.manual_seed(0)
    task = DvaeTask(replace(TINY, first_pictures=0))  # as in the paper
    schedule = Schedule(batch_size=8, learning_rate=5e-3, warmup_steps=2, steps=24, ema_decay=0.9)
    batch = task.batch(random.Random(0), 8, CPU)
    before = task(batch, torch.Generator().manual_seed(0))
    weights = train(task, schedule, tmp_path)
    after = task(batch, torch.Generator().manual_seed(0))
    assert after["likelihood"] < before["likelihood"] - 0.05
    assert after["psnr"] > before["psnr"]

    loaded = load_dvae(weights)
    assert loaded.config == TINY.network
    codes = loaded.encode(batch)
    assert codes.shape == (8, 8, 8)
    assert loaded.decode(codes).shape == (8, 3, 64, 64)


def test_schedules_follow_the_budget() -> None:
    assert [cosine(1, 1 / 16, share) for share in (0, 1, 2)] == pytest.approx([1, 1 / 16, 1 / 16])
    assert cosine(0, 6.6, 0.5) == pytest.approx(3.3)
    task = DvaeTask(replace(TINY, kl_weight=100.0)).eval()
    batch = task.batch(random.Random(0), 4, CPU)
    losses = []
    for task.fraction in (0.0, 1.0):
        figures = task(batch, torch.Generator().manual_seed(0))
        losses.append(figures["loss"].item())
        kl = figures["kl"].item()
    assert kl > 0
    assert losses[1] - losses[0] > 100 / 192 * kl - 2  # β has come in; the temperature changed too


def test_it_begins_by_choosing_and_painting_the_nearest_square() -> None:
    """A square of the codebook comes back as it was, any other as the nearest of them."""
    torch.manual_seed(0)
    task = DvaeTask(TINY)
    pictures = task.batch(random.Random(0), TINY.first_pictures, CPU)
    squares = typical_squares(pictures, 8, 64)
    assert len(squares.unique(dim=0)) == 64
    found = unsquared(squares)
    codes = task.dvae.encoder(found).argmax(dim=1).flatten()
    assert torch.equal(codes, torch.arange(64))
    # Of 192 principal components the narrow decoder has 63, all that 64 squares can have.
    assert torch.allclose(map_pixels(task.dvae.decode(codes.view(64, 1, 1))), found, atol=0.02)

    other = map_pixels(pictures[:4] / 255)
    here = functional.pixel_unshuffle(other, 8).movedim(1, -1).flatten(0, 2)
    nearest = torch.cdist(here, squares).argmin(dim=1)
    assert (task.dvae.encoder(other).argmax(dim=1).flatten() == nearest).float().mean() > 0.99
    assert usage(torch.bincount(nearest, minlength=64).float())["perplexity"] > 8

    shipped = deepcopy(task.dvae).half().float()
    same = shipped.encoder(other).argmax(dim=1) == task.dvae.encoder(other).argmax(dim=1)
    assert same.float().mean() > 0.99


def unsquared(squares: torch.Tensor) -> torch.Tensor:
    """(K, 3 · 8²) to K pictures of one square."""
    return functional.pixel_shuffle(squares[:, :, None, None], 8)


def test_only_networks_of_single_squares_begin_with_them() -> None:
    squares = torch.rand(64, 192) * 0.8 + 0.1
    for changes in ({"first_kernel": 3}, {"encoder": TowerConfig(widths=(96, 192), patch=4)}):
        with pytest.raises(ValueError, match="sees one square at a time"):
            begin_with_squares(DiscreteVae(replace(TINY.network, **changes)), squares)


def test_an_encoder_that_was_given_its_codes_keeps_them() -> None:
    for recipe in (TINY, replace(TINY, first_pictures=0)):
        task = DvaeTask(recipe)
        batch = task.batch(random.Random(0), 4, CPU)
        task(batch, torch.Generator().manual_seed(0))["loss"].backward()
        learns = task.dvae.encoder.output.weight.grad is not None
        assert learns == (recipe.first_pictures == 0)
        assert task.dvae.decoder.output.weight.grad is not None


def test_usage_of_a_codebook() -> None:
    even, one = torch.full((16,), 1 / 16), torch.eye(16)[0]
    assert usage(even)["perplexity"].item() == pytest.approx(16)
    assert usage(one)["perplexity"].item() == pytest.approx(1, abs=1e-3)
    assert usage(even)["codes in use"] == 1
    assert usage(one)["codes in use"].item() == pytest.approx(1 / 16)
    half = torch.tensor([2.0, 2.0, 0.0, 0.0])
    assert usage(half)["perplexity"].item() == pytest.approx(2)
