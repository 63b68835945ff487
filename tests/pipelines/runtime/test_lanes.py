"""Rows of a batch in lanes: the same values, in threads of their own, and nothing else changed."""

import copy
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import nn

from pipelines.diffusion.pipeline import LatentDiffusion
from pipelines.runtime.cpu import divide


class Network(nn.Module):
    """Adds up what it is told of each row, and remembers which threads asked."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(2.0))
        self.asked: list[tuple[str, int, int]] = []

    def forward(
        self,
        rows: torch.Tensor,
        t: torch.Tensor,
        *,
        added: dict[str, torch.Tensor],
        more: tuple[torch.Tensor, ...] = (),
        return_dict: bool = True,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        name, threads = threading.current_thread().name, torch.get_num_threads()
        self.asked.append((name, len(rows), threads))
        total = self.scale * rows + t.view(-1, 1) + added["by_row"] + added["same"]
        for each in more:
            total = total + each
        return total, total.sum(dim=1)


@pytest.fixture(params=[2, 3])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def told(rows: int) -> tuple[tuple[torch.Tensor, ...], dict[str, object]]:
    generator = torch.Generator().manual_seed(rows)
    draw = [torch.randn(rows, 4, generator=generator) for _ in range(3)]
    t = torch.arange(rows).float()
    added = {"by_row": draw[1], "same": torch.ones(1, 4)}
    return (draw[0], t), {"added": added, "more": (draw[2],), "return_dict": False}


@pytest.mark.parametrize("rows", [1, 2, 5, 8])
def test_rows_in_lanes_are_what_they_are_together(rows: int, threads: int) -> None:
    network = Network()
    more, named = told(rows)
    with torch.inference_mode():
        expected = network(*more, **named)
        network.asked = []
        divide(network)
        found = network(*more, **named)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    lanes = min(rows, threads)
    assert sum(asked[1] for asked in network.asked) == rows
    assert len(network.asked) == lanes
    if lanes > 1:
        assert {asked[0].startswith("lane") for asked in network.asked} == {True}
        assert {asked[2] for asked in network.asked} == {threads // lanes}
    assert torch.get_num_threads() == threads


def test_threads_that_come_later_have_as_many_as_before(threads: int) -> None:
    network = Network()
    divide(network)
    more, named = told(8)
    with torch.inference_mode():
        network(*more, **named)
    found: list[int] = []
    later = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
    later.start()
    later.join()
    assert found == [threads]


@pytest.mark.parametrize("why", ["gradients", "autocast", "no plain tuple"])
def test_what_belongs_to_one_thread_stays_there(why: str, threads: int) -> None:
    network = Network()
    divide(network)
    more, named = told(8)
    named["return_dict"] = why == "no plain tuple"
    if why == "gradients":
        network(*more, **named)[0].sum().backward()
        assert network.scale.grad is not None
    else:
        with torch.inference_mode(), torch.autocast("cpu", enabled=why == "autocast"):
            network(*more, **named)
    main = threading.current_thread().name
    assert {asked[:2] for asked in network.asked} == {(main, 8)}


def test_an_error_in_a_lane_is_raised(threads: int) -> None:
    network = Network()
    divide(network)
    more, named = told(8)
    with torch.inference_mode(), pytest.raises(RuntimeError, match="must match"):
        network(*more, **named | {"more": (torch.ones(3, 4),)})


def test_a_divided_network_is_a_network_as_before(
    tiny_diffusion_folder: Path, tmp_path: Path
) -> None:
    unet = LatentDiffusion.from_pretrained(tiny_diffusion_folder, device="cpu").unet
    assert isinstance(unet, UNet2DConditionModel)
    assert type(unet) is not UNet2DConditionModel
    other = copy.deepcopy(unet)
    other.conv_out.bias.data += 1
    x, hidden = torch.randn(4, 4, 8, 8), torch.randn(4, 5, unet.config.cross_attention_dim)
    with torch.inference_mode():
        first, second = (each(x, 3, hidden, return_dict=False)[0] for each in (unet, other))
    assert torch.allclose(second, first + 1, atol=1e-5)
    unet.save_pretrained(tmp_path)
    again = UNet2DConditionModel.from_pretrained(tmp_path)
    with torch.inference_mode():
        assert torch.allclose(again(x, 3, hidden).sample, first, atol=1e-5)
