"""The compact upsampler: the public layout, its sizes read back, and what untrained ones draw."""

import pytest
import torch

from pipelines.upscale.compact import CompactUpsampler
from pipelines.upscale.enlarging import Upscaler
from pipelines.upscale.layouts import CompactConfig, identify

SMALL = CompactConfig(features=8, layers=2, scale=4)


def shapes(network: CompactUpsampler) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in network.state_dict().items()}


def test_its_tensors_are_those_of_the_public_layout() -> None:
    """The names and shapes of realesr-animevideov3: 16 layers between the first and the last."""
    public = {"body.0.weight": (64, 3, 3, 3), "body.0.bias": (64,), "body.1.weight": (64,)}
    for number in range(2, 34, 2):
        public |= {f"body.{number}.weight": (64, 64, 3, 3), f"body.{number}.bias": (64,)}
        public[f"body.{number + 1}.weight"] = (64,)
    public |= {"body.34.weight": (48, 64, 3, 3), "body.34.bias": (48,)}
    assert identify(public) == CompactConfig(features=64, layers=16, scale=4)
    assert shapes(CompactUpsampler(identify(public))) == public


@pytest.mark.parametrize("config", [SMALL, CompactConfig(4, 1, 2), CompactConfig()])
def test_sizes_are_read_from_the_tensors(config: CompactConfig) -> None:
    assert identify(shapes(CompactUpsampler(config))) == config


@pytest.mark.parametrize(
    "changed",
    [
        {"body.6.weight": (50, 8, 3, 3)},
        {"body.6.weight": (15, 8, 3, 3)},
        {"body.0.weight": (8, 4, 3, 3)},
    ],
)
def test_other_layouts_are_refused(changed: dict[str, tuple[int, ...]]) -> None:
    with pytest.raises(ValueError, match=r"upsampler|no scale"):
        identify(shapes(CompactUpsampler(SMALL)) | changed)


def test_no_tensors_are_no_upsampler() -> None:
    with pytest.raises(ValueError, match="compact upsampler"):
        identify({"odd.weight": (64, 3, 3, 3)})


def test_a_network_that_adds_nothing_repeats_pixels() -> None:
    network = CompactUpsampler(SMALL)
    for parameter in network.parameters():
        torch.nn.init.zeros_(parameter)
    images = torch.randint(0, 256, (3, 3, 5, 7), dtype=torch.uint8)
    enlarged = Upscaler("tiny", 4, network).upscale(images)
    assert enlarged.dtype == torch.uint8
    assert enlarged.equal(images.repeat_interleave(4, 2).repeat_interleave(4, 3))


def test_a_batch_is_enlarged_as_each_alone() -> None:
    network = CompactUpsampler(SMALL)
    images = torch.randint(0, 256, (3, 3, 6, 6), dtype=torch.uint8)
    alone = torch.cat([Upscaler("tiny", 4, network).upscale(image[None]) for image in images])
    assert Upscaler("tiny", 4, network).upscale(images).equal(alone)
