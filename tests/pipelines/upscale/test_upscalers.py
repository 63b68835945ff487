"""Upscalers from files: public layouts, tiles, what is refused, and other architectures."""

import pickle
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from pipelines.checkpoints.errors import WeightsError
from pipelines.checkpoints.loading import save_network
from pipelines.drafts import to_pixels
from pipelines.upscale import files, layouts
from pipelines.upscale.compact import CompactUpsampler
from pipelines.upscale.enlarging import MARGIN, TILE, Upscaler, plain
from pipelines.upscale.layouts import CompactConfig, RrdbConfig, current_name, identify
from pipelines.upscale.loading import build, load
from pipelines.upscale.rrdb import RrdbUpsampler

CPU = torch.device("cpu")
COMPACT = CompactConfig(features=6, layers=2, scale=4)
RRDB = RrdbConfig(features=8, blocks=2, growth=4)


def random(config: layouts.Config, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return build(config).eval()


def some_images(size: tuple[int, int], seed: int = 0) -> torch.Tensor:
    shape = (2, 3, size[1], size[0])
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)


def first_layout(state: dict[str, torch.Tensor], config: RrdbConfig) -> dict[str, torch.Tensor]:
    """Name BasicSR's tensors as ESRGAN's authors did: layers counted, activations among them."""
    ups = config.doublings
    names = {
        "conv_first": "model.0",
        "conv_body": f"model.1.sub.{config.blocks}",
        "conv_hr": f"model.{3 * ups + 2}",
        "conv_last": f"model.{3 * ups + 4}",
        **{f"conv_up{i}": f"model.{3 * i}" for i in range(1, ups + 1)},
    }
    named = {}
    for key, value in state.items():
        layer, _, kind = key.rpartition(".")
        if layer.startswith("body."):
            _, number, dense, conv = layer.split(".")
            layer = f"model.1.sub.{number}.{dense.upper()}.{conv}.0"
        named[f"{names.get(layer, layer)}.{kind}"] = value
    return named


def test_the_public_table_of_realesrgan_is_read() -> None:
    """RealESRGAN_x4plus.pth: 23 blocks of 64 channels that grow by 32."""
    public = {"conv_first.weight": (64, 3, 3, 3), "conv_first.bias": (64,)}
    for block in range(23):
        for dense in (1, 2, 3):
            for conv in (1, 2, 3, 4):
                name = f"body.{block}.rdb{dense}.conv{conv}"
                public |= {f"{name}.weight": (32, 32 + 32 * conv, 3, 3), f"{name}.bias": (32,)}
            last = f"body.{block}.rdb{dense}.conv5"
            public |= {f"{last}.weight": (64, 192, 3, 3), f"{last}.bias": (64,)}
    for name in ("conv_body", "conv_up1", "conv_up2", "conv_hr"):
        public |= {f"{name}.weight": (64, 64, 3, 3), f"{name}.bias": (64,)}
    public |= {"conv_last.weight": (3, 64, 3, 3), "conv_last.bias": (3,)}
    assert identify(public) == RrdbConfig()
    with torch.device("meta"):
        network = RrdbUpsampler(RrdbConfig())
    assert {k: tuple(v.shape) for k, v in network.state_dict().items()} == public
    assert sum(value.numel() for value in network.parameters()) == 16_697_987
    twice = public | {"conv_first.weight": (64, 12, 3, 3)}  # RealESRGAN_x2plus.pth
    found = identify(twice)
    assert (found, found.scale) == (RrdbConfig(folded=2), 2)


@pytest.mark.parametrize(
    "config", [COMPACT, RRDB, RrdbConfig(8, 1, 4, doublings=1), RrdbConfig(8, 1, 4, folded=2)]
)
@pytest.mark.parametrize("kind", ["safetensors", "pth", "params_ema", "folder"])
def test_every_file_of_the_same_weights_draws_the_same(
    tmp_path: Path, config: layouts.Config, kind: str
) -> None:
    network = random(config)
    path = tmp_path / f"up.{'safetensors' if kind == 'safetensors' else 'pth'}"
    if kind == "safetensors":
        save_file(network.state_dict(), path)
    elif kind == "folder":
        path = tmp_path / "upsampler"
        save_network(network, config, path)
    else:
        state = network.state_dict()
        torch.save(state if kind == "pth" else {"params_ema": state}, path)
    upscaler = load(path, CPU)
    images = some_images((12, 10))
    assert upscaler.scale == config.scale == files.scale_of(path) or kind in ("pth", "params_ema")
    with torch.inference_mode():
        wanted = (network(images / 255).clamp(0, 1) * 255).round().to(torch.uint8)
    made = upscaler.upscale(images)
    assert made.shape == (2, 3, 10 * config.scale, 12 * config.scale)
    assert (made.int() - wanted.int()).abs().max() <= 1
    assert upscaler.upscale(images[1:]).equal(made[1:])  # alone and in a batch


@pytest.mark.parametrize("doublings", [1, 2, 3])
def test_the_first_layout_of_esrgan_is_the_same_network(tmp_path: Path, doublings: int) -> None:
    config = RrdbConfig(8, 2, 4, doublings)
    network = random(config)
    old = first_layout(network.state_dict(), config)
    assert {current_name(key, old) for key in old} == network.state_dict().keys()
    torch.save(old, tmp_path / "old.pth")
    save_file(network.state_dict(), tmp_path / "new.safetensors")
    images = some_images((9, 8))
    made = [load(tmp_path / f, CPU).upscale(images) for f in ("old.pth", "new.safetensors")]
    assert made[0].equal(made[1])


def test_sides_that_do_not_fold_are_filled_up() -> None:
    config = RrdbConfig(8, 1, 4, folded=2)
    upscaler = Upscaler("x2", 2, random(config), config.folded)
    assert upscaler.upscale(some_images((9, 7))).shape == (2, 3, 14, 18)


def test_tiles_have_no_seams() -> None:
    """A compact network sees fewer pixels than the margin, so that tiles change nothing."""
    network = random(COMPACT)
    image = some_images((TILE + 50, TILE + MARGIN))[:1]
    with torch.inference_mode():
        whole = (network(image / 255).clamp(0, 1) * 255).round()
    made = Upscaler("tiny", 4, network).upscale(image)
    assert (made.float() - whole).abs().max() <= 1


def test_other_scales_are_made_of_a_networks_own() -> None:
    upscaler = Upscaler("tiny", 4, random(COMPACT))
    images = some_images((10, 6))
    assert upscaler.enlarge(images, 4).equal(upscaler.upscale(images))
    for times, size in ((1, (6, 10)), (2, (12, 20)), (8, (48, 80)), (1.5, (9, 15))):
        assert upscaler.enlarge(images, times).shape[2:] == size
    assert upscaler.enlarge(images, 1).equal(images)


def test_the_plain_way_is_lanczos() -> None:
    image = Image.radial_gradient("L").resize((20, 16)).convert("RGB")
    wanted = to_pixels(image.resize((60, 48), Image.Resampling.LANCZOS))
    assert plain(to_pixels(image)[None], 3)[0].equal(wanted)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda s: s.pop("body.2.weight"), "missing keys: body.2.weight"),
        (lambda s: s.update(more=torch.ones(1)), "keys that the network does not have: more"),
        (lambda s: s["body.0.bias"].fill_(torch.nan), "NaN or infinite values: body.0.bias"),
        (lambda s: s.update({"body.1.weight": torch.ones(5)}), "wrong shape: body.1.weight"),
        (lambda s: s.pop("body.0.weight"), "pip install 'salon\\[upscale\\]'"),
    ],
)
@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
def test_what_does_not_fit_is_refused_by_name(
    tmp_path: Path, change: Any, reason: str, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "spandrel", None)
    state = random(COMPACT).state_dict()
    change(state)
    path = tmp_path / f"up.{suffix}"
    save_file(state, path) if suffix == "safetensors" else torch.save(state, path)
    with pytest.raises(WeightsError, match=reason) as error:
        load(path, CPU)
    assert "\n" not in str(error.value)


class _Runs:
    def __reduce__(self) -> Any:
        return print, ("run",)


def test_pickles_run_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "up.pth"
    torch.save({"params": random(COMPACT).state_dict(), "more": _Runs()}, path)
    with pytest.raises(WeightsError, match="refused: loading it would run"):
        load(path, CPU)
    path.write_bytes(pickle.dumps(_Runs()))
    with pytest.raises(WeightsError):
        load(path, CPU)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    "data", [b"", b"<html>", b"version https://git-lfs", b"PK\x03\x04 cut off"]
)
def test_what_is_no_file_of_weights_is_said(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "up.safetensors"
    path.write_bytes(data)
    with pytest.raises(WeightsError, match=r"up\.safetensors"):
        load(path, CPU)
    with pytest.raises(WeightsError, match="holds no upscaler"):
        load(tmp_path, CPU)


def test_spandrel_loads_other_architectures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.odd = nn.Parameter(torch.ones(1))

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return images.repeat_interleave(2, 2).repeat_interleave(2, 3) * self.odd

    class Descriptor(SimpleNamespace):
        pass

    found = Descriptor(
        model=Twice(), scale=2, input_channels=3, size_requirements=SimpleNamespace(multiple_of=8)
    )
    loader = SimpleNamespace(load_from_state_dict=lambda tensors: found)
    fake = SimpleNamespace(ModelLoader=lambda device: loader, ImageModelDescriptor=Descriptor)
    monkeypatch.setitem(sys.modules, "spandrel", fake)
    torch.save({"odd": torch.ones(1)}, tmp_path / "swin.pth")
    upscaler = load(tmp_path / "swin.pth", CPU)
    images = some_images((10, 5))
    made = upscaler.upscale(images)
    assert (upscaler.scale, upscaler.multiple) == (2, 8)
    assert made.equal(images.repeat_interleave(2, 2).repeat_interleave(2, 3))
    found.input_channels = 1
    with pytest.raises(WeightsError, match="something else than enlarging"):
        load(tmp_path / "swin.pth", CPU)


def test_nothing_of_it_loads_torch_to_be_named() -> None:
    assert CompactUpsampler(COMPACT).config is COMPACT
    code = "import sys, gen.plan; print('torch' in sys.modules)"
    import subprocess

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
