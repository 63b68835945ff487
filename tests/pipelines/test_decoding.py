import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from pipelines import decoding
from pipelines.checkpoints.errors import WeightsError
from pipelines.diffusion.networks import load_networks
from pipelines.diffusion.pipeline import LatentDiffusion
from pipelines.families import find

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def vae(pipeline: LatentDiffusion) -> Any:
    return pipeline.vae


@pytest.fixture
def latents() -> torch.Tensor:
    return torch.randn(5, 4, 8, 8, generator=torch.Generator().manual_seed(1))


def test_pictures_are_the_decoders_output(vae: Any, latents: torch.Tensor) -> None:
    with torch.inference_mode():
        pictures = decoding.decode(vae, latents)
        float_picture = vae.decode(latents[:1] / vae.config.scaling_factor).sample[0]
    assert [p.shape for p in pictures if p is not None] == [(3, 64, 64)] * 5
    expected = ((float_picture + 1) * 127.5).clamp(0, 255)
    assert pictures[0] is not None
    assert pictures[0].dtype == torch.uint8
    assert (pictures[0].float() - expected).abs().max() <= 0.51


def test_chunks_halve_when_memory_runs_out(
    vae: Any, latents: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = []
    real = decoding._decode_rows

    def at_most_two(vae: Any, rows: torch.Tensor) -> torch.Tensor:
        sizes.append(len(rows))
        if len(rows) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(vae, rows)

    with torch.inference_mode():
        expected = decoding.decode(vae, latents)
        monkeypatch.setattr(decoding, "_decode_rows", at_most_two)
        pictures = decoding.decode(vae, latents)
    assert sizes == [5, 2, 2, 1]
    for picture, whole in zip(pictures, expected, strict=True):
        assert picture is not None
        assert whole is not None
        assert (picture.int() - whole.int()).abs().max() <= 1


def test_one_picture_that_does_not_fit_and_other_errors_are_raised(
    vae: Any, latents: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = []

    def failing(vae: Any, rows: torch.Tensor) -> torch.Tensor:
        sizes.append(len(rows))
        raise error

    monkeypatch.setattr(decoding, "_decode_rows", failing)
    error: Exception = MemoryError()
    with pytest.raises(MemoryError):
        decoding.decode(vae, latents)
    assert sizes == [5, 2, 1, 1]  # the last time in tiles
    error = RuntimeError("a mistake")
    with pytest.raises(RuntimeError, match="a mistake"):
        decoding.decode(vae, latents)
    assert sizes == [5, 2, 1, 1, 5]


def test_large_pictures_are_decoded_few_at_a_time(
    vae: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = []

    def blank(vae: Any, rows: torch.Tensor) -> torch.Tensor:
        sizes.append(len(rows))
        return torch.zeros(len(rows), 3, 8, 8)

    monkeypatch.setattr(decoding, "_decode_rows", blank)
    decoding.decode(vae, torch.zeros(5, 4, 64, 64))  # 512 x 512 pixels each
    assert sizes == [4, 1]
    decoding.decode(vae, torch.zeros(1, 4, 512, 512))
    assert sizes == [4, 1, 1]


@pytest.mark.fault("values that are not finite")
def test_a_picture_that_is_not_finite_is_tried_again(
    vae: Any, latents: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = decoding._decode_rows
    calls = []

    def nan_at_first(vae: Any, rows: torch.Tensor) -> torch.Tensor:
        calls.append(len(rows))
        decoded = real(vae, rows)
        if len(calls) == 1:
            decoded[3] = float("nan")
        return decoded

    with torch.inference_mode():
        expected = decoding.decode(vae, latents)
        monkeypatch.setattr(decoding, "_decode_rows", nan_at_first)
        pictures = decoding.decode(vae, latents)
    assert calls == [5, 1]
    assert pictures[3] is not None
    assert expected[3] is not None
    assert (pictures[3].int() - expected[3].int()).abs().max() <= 1


@pytest.mark.fault("values that are not finite")
def test_half_precision_is_decoded_again_in_float32(tiny_diffusion_folder: Path) -> None:
    spec = find(str(tiny_diffusion_folder))
    half = load_networks(spec, torch.device("cpu"), torch.float16).vae
    before = copy.deepcopy(half.state_dict())
    # 2 ** 17 overflows float16 on the way in, as large activations do inside.
    latents = torch.full((1, 4, 8, 8), 2.0**17)
    with torch.inference_mode():
        (picture,) = decoding.decode(half, latents)
        whole = load_networks(spec, torch.device("cpu"), torch.float32).vae
        (expected,) = decoding.decode(whole, latents)
    assert picture is not None
    assert expected is not None
    assert torch.equal(picture, expected)
    assert half.dtype == torch.float16
    assert all(torch.equal(before[k], v) for k, v in half.state_dict().items())


@pytest.mark.fault("values that are not finite")
def test_what_is_never_finite_is_no_picture(vae: Any, latents: torch.Tensor) -> None:
    latents[2, 0, 0, 0] = float("nan")
    with torch.inference_mode():
        pictures = decoding.decode(vae, latents)
    assert [p is None for p in pictures] == [False, False, True, False, False]


def test_least_squares_finds_a_linear_map() -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.rand(4, 3, generator=generator) * 0.1
    bias = torch.tensor([0.3, 0.5, 0.6])
    latents = torch.randn(6, 4, 8, 8, generator=generator)
    rgb = torch.einsum("nchw,cd->ndhw", latents, weight) + bias[:, None, None]
    large = rgb.repeat_interleave(8, dim=2).repeat_interleave(8, dim=3)
    found = decoding.solve_latent_rgb(latents, large)
    assert torch.allclose(found.weight, weight, atol=1e-5)
    assert torch.allclose(found.bias, bias, atol=1e-5)


def test_map_is_fitted_to_the_decoder(vae: Any) -> None:
    fitted = decoding.fit_latent_rgb(vae, vae.device)
    # LAPACK rounds by where its operands lie in memory, so not the same to the last bit.
    assert torch.allclose(
        fitted.weight, decoding.fit_latent_rgb(vae, vae.device).weight, atol=1e-6, rtol=0
    )
    flat = torch.zeros(1, 4, 8, 8)
    flat[0, 1] = 1.0
    with torch.inference_mode():
        (exact,) = decoding.decode(vae, flat)
    (rough,) = fitted.images(flat, (64, 64))
    assert exact is not None
    assert rough is not None
    mean = exact[:, 16:48, 16:48].float().mean(dim=(1, 2))
    assert torch.allclose(torch.tensor(rough.getpixel((32, 32))).float(), mean, atol=25)


def test_stored_map(tmp_path: Path) -> None:
    assert decoding.read_latent_rgb(tmp_path, channels=4) is None
    stored = decoding.LatentRgb(torch.rand(4, 3), torch.rand(3))
    decoding.write_latent_rgb(stored, tmp_path)
    read = decoding.read_latent_rgb(tmp_path, channels=4)
    assert read is not None
    assert torch.equal(read.weight, stored.weight)
    assert torch.equal(read.bias, stored.bias)
    with pytest.raises(WeightsError, match=r"needs \[16, 3\] and \[3\]"):
        decoding.read_latent_rgb(tmp_path, channels=16)
    for content in ({"weight": [[1, 2, 3]]}, {"weight": "x", "bias": None}, {"bias": [[1], [2]]}):
        (tmp_path / "latent_rgb.json").write_text(json.dumps(content))
        with pytest.raises(WeightsError, match="latent_rgb"):
            decoding.read_latent_rgb(tmp_path, channels=4)


def test_one_picture_that_does_not_fit_is_decoded_in_tiles(
    vae: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    latents = torch.nn.functional.interpolate(torch.randn(1, 4, 4, 4), (16, 16), mode="bilinear")
    real = type(vae.decoder).forward

    def only_tiles(decoder: Any, sample: torch.Tensor, *others: Any) -> torch.Tensor:
        if max(sample.shape[2:]) > 8:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(decoder, sample, *others)

    with torch.inference_mode():
        vae.enable_tiling()
        [expected] = decoding.decode(vae, latents)
        vae.disable_tiling()
        monkeypatch.setattr(type(vae.decoder), "forward", only_tiles)
        [picture] = decoding.decode(vae, latents)
    assert picture is not None
    assert expected is not None
    assert torch.equal(picture, expected)
    assert not vae.use_tiling
