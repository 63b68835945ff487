"""What teaches the upsampler of the stickers, and how it is shipped and measured."""

import random
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.upsampling import edges, halos, read_ncnn
from pipelines.upscale.compact import CompactUpsampler
from pipelines.upscale.layouts import CompactConfig
from pipelines.upscale.loading import load
from train.loop import Schedule, train
from train.shipping import ship
from train.stickers.renderer import render
from train.stickers.scene import draw_scene
from train.upsampler import Large, UpsamplerRecipe, UpsamplerTask

TINY = CompactConfig(features=4, layers=1)
CPU = torch.device("cpu")
SOURCE = Large(
    lambda rng, number: [draw_scene(rng) for _ in range(number)],
    lambda scenes, size: render(scenes, size=size),
)


@pytest.mark.slow
def test_it_learns_on_what_decoders_make_is_shipped_and_loaded(tmp_path: Path) -> None:
    def blacken(images: torch.Tensor) -> torch.Tensor:
        return torch.zeros_like(images)

    task = UpsamplerTask(UpsamplerRecipe(TINY, decoded=0.5, crops=4), SOURCE, [blacken])
    batch = task.batch(random.Random(0), 32, CPU)
    assert batch.small.shape == (32, 3, 32, 32)
    assert batch.large.shape == (32, 3, 128, 128)
    black = batch.small.amax((1, 2, 3)) == 0
    assert 4 <= black.sum() <= 28
    shrunk = torch.nn.functional.avg_pool2d(batch.large, 4)
    assert (shrunk[~black] - batch.small[~black]).abs().max() <= 0.5 / 255 + 1e-6  # the same crops
    weights = train(task, Schedule(4, 1e-3, steps=2), tmp_path / "run" / "upsampler")
    assert (weights / "model.safetensors").is_file()
    [folder] = ship(tmp_path / "run", tmp_path / "models", tmp_path / "rerankers")
    assert folder == tmp_path / "models" / "stickers-upsampler"
    assert {path.name for path in folder.iterdir()} == {"config.json", "model.safetensors"}
    assert load(folder, CPU).scale == 4


@pytest.mark.parametrize("half", [False, True])
def test_files_of_ncnn_hold_the_same_network(tmp_path: Path, half: bool) -> None:
    torch.manual_seed(0)
    network = CompactUpsampler(CompactConfig(features=3, layers=2, scale=4))
    for slope in network.body[1::2]:
        torch.nn.init.uniform_(slope.weight)  # type: ignore[arg-type]
    lines, data = ["7767517", "9 9", "Input data 0 1 x"], b""
    for layer in network.body:
        if not isinstance(layer, torch.nn.Conv2d):
            lines.append("PReLU p 1 1 x y 0=3")
            data += layer.weight.detach().numpy().tobytes()  # type: ignore[union-attr, operator]
            continue
        lines.append(f"Convolution c 1 1 x y 0={layer.out_channels} 1=3 4=1 5=1")
        assert layer.bias is not None
        values = layer.weight.detach().numpy()
        values = values.astype("<f2") if half else values
        data += (0x01306B47 if half else 0).to_bytes(4, "little") + values.tobytes()
        data += b"\0" * (-values.nbytes % 4) + layer.bias.detach().numpy().tobytes()
    (tmp_path / "net.param").write_text("\n".join([*lines, "PixelShuffle s 1 1 x y 0=4"]))
    (tmp_path / "net.bin").write_bytes(data)
    image = torch.rand(1, 3, 8, 8)
    with torch.inference_mode():
        difference = read_ncnn(tmp_path / "net")(image) - network(image)
    assert difference.abs().max() < (1e-2 if half else 1e-6)
    (tmp_path / "net.bin").write_bytes(data + bytes(4))
    with pytest.raises(ValueError, match="4 bytes are left"):
        read_ncnn(tmp_path / "net")


def test_the_figures_know_soft_edges_and_halos() -> None:
    truth = torch.from_numpy(np.kron(np.eye(4), np.ones((16, 16)))).float()[None, None]
    soft = torch.nn.functional.avg_pool2d(truth, 5, 1, 2, count_include_pad=False)
    assert edges(soft) < 0.7 * edges(truth)
    assert halos(soft, truth) == 0
    rung = truth + 2 * (truth - soft)
    assert halos(rung, truth) > 0.01
