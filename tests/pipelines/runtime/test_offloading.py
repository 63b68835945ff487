"""Offloaded networks draw the same, and no more of them is on the device than is said."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipelines.diffusion.pipeline import LatentDiffusion
from pipelines.runtime.offloading import _Stage, check_offload, offload_networks
from pipelines.stock.pipeline import StockPipeline

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")
SETTINGS: dict[str, Any] = {"seeds": [3, 4], "steps": 2, "guidance": 3.0}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Rows in lanes, which networks that are offloaded have none of, may be rounded otherwise."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def networks(pipeline: LatentDiffusion) -> list[torch.nn.Module]:
    return [*(reader.encoder for reader in pipeline.text.readers), pipeline.unet, pipeline.vae]


def assert_same_pictures(one: LatentDiffusion, other: LatentDiffusion) -> None:
    pictures = [p("a panda", negative_prompt="red", **SETTINGS) for p in (one, other)]
    for left, right in zip(*pictures, strict=True):
        assert np.array_equal(np.asarray(left), np.asarray(right))


def test_sequential_leaves_nothing_on_the_device(
    tiny_diffusion_folder: Path, pipeline: LatentDiffusion
) -> None:
    offloaded = LatentDiffusion.from_pretrained(tiny_diffusion_folder, device="cpu")
    offload_networks(networks(offloaded), "sequential", CPU)
    for _ in range(2):
        assert_same_pictures(offloaded, pipeline)
        weights = [p for network in networks(offloaded) for p in network.parameters()]
        assert {weight.device.type for weight in weights} == {"meta"}


def test_a_picture_that_is_not_finite_is_tried_in_float32_there_too(
    tiny_diffusion_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipelines import decoding

    offloaded = LatentDiffusion.from_pretrained(tiny_diffusion_folder, device="cpu")
    offload_networks([offloaded.vae], "sequential", CPU)
    latent = torch.randn(1, 4, 8, 8)
    with torch.inference_mode():
        [expected] = decoding.decode(offloaded.vae, latent)
        again = decoding._decode_in_float32(offloaded.vae, latent)
    assert expected is not None
    assert again is not None
    assert torch.equal(again, expected)


def test_model_brings_one_network_at_a_time(
    tiny_diffusion_folder: Path, pipeline: LatentDiffusion, monkeypatch: pytest.MonkeyPatch
) -> None:
    offloaded = LatentDiffusion.from_pretrained(tiny_diffusion_folder, device="cpu")
    text_encoder, unet, vae = networks(offloaded)
    offload_networks([text_encoder, unet, vae], "model", CPU)
    entered: list[torch.nn.Module] = []
    enter = _Stage.pre_forward

    def noted(stage: _Stage, module: torch.nn.Module, *args: Any, **kwargs: Any) -> Any:
        if stage.present is not module:
            entered.append(module)
        return enter(stage, module, *args, **kwargs)

    monkeypatch.setattr(_Stage, "pre_forward", noted)
    assert_same_pictures(offloaded, pipeline)
    assert entered == [text_encoder, unet, vae]
    draft = offloaded.begin(
        "a panda", negative_prompt="red", **SETTINGS
    )  # these words are remembered
    draft.step()
    draft.preview(exact=True)
    draft.step()
    assert entered[3:] == [unet, vae, unet]


def test_the_one_before_goes_back() -> None:
    class Network(torch.nn.Module):
        def to(self, device: Any) -> Any:
            moves.append((self, str(device)))
            return self

    moves: list[tuple[torch.nn.Module, str]] = []
    first, second, stage = Network(), Network(), _Stage(torch.device("cuda", 0))
    for network in (first, first, second):
        assert stage.pre_forward(network, 1, two=2) == ((1,), {"two": 2})
    assert moves == [(first, "cuda:0"), (first, "cpu"), (second, "cuda:0")]


def test_what_cannot_be(tiny_diffusion_folder: Path) -> None:
    assert check_offload(None, CPU) == check_offload("none", CPU) == "none"
    assert check_offload("model", torch.device("cuda", 0)) == "model"
    with pytest.raises(ValueError, match="no offload 'disk'; choose from none, model, sequential"):
        check_offload("disk", CPU)
    for kind in (LatentDiffusion, StockPipeline):
        with pytest.raises(ValueError, match="the device is the cpu: leave it out"):
            kind.from_pretrained(tiny_diffusion_folder, device="cpu", offload="model")


@pytest.mark.gpu
@pytest.mark.parametrize("choice", ["model", "sequential"])
@pytest.mark.fault("memory runs out")
def test_memory_of_a_gpu(tiny_diffusion_folder: Path, choice: str) -> None:
    whole = LatentDiffusion.from_pretrained(tiny_diffusion_folder, "cuda", "float32")
    size = sum(p.nbytes for network in networks(whole) for p in network.parameters())
    expected = whole("a panda", negative_prompt="red", **SETTINGS)
    del whole
    before = torch.cuda.memory_allocated()
    offloaded = LatentDiffusion.from_pretrained(
        tiny_diffusion_folder, "cuda", "float32", offload=choice
    )
    pictures = offloaded("a panda", negative_prompt="red", **SETTINGS)
    assert torch.cuda.memory_allocated() - before < size * 0.8
    for left, right in zip(pictures, expected, strict=True):
        assert np.abs(np.asarray(left, int) - np.asarray(right, int)).max() <= 2
