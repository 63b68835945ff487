"""Single files against diffusers' own conversion, and against the same weights in a folder."""

import json
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from reduced_models import build, layout_named, write_configs, write_folder, write_single_file
from safetensors.torch import load_file, save_file

from pipelines.checkpoints import single_file
from pipelines.checkpoints.configs import read_config
from pipelines.checkpoints.errors import WeightsError
from pipelines.checkpoints.specs import Adapters
from pipelines.diffusion.networks import load_networks, openai_tokenizer
from pipelines.diffusion.pipeline import LatentDiffusion
from pipelines.families import find

pytestmark = pytest.mark.slow

NAMES = ("sd1", "sd2", "sdxl")
EXTRA = {
    "sd1": {
        "model_ema.decay": torch.zeros(1),
        "alphas_cumprod": torch.zeros(4),
        "cond_stage_model.transformer.text_model.embeddings.position_ids": torch.arange(77)[None],
    },
    "sd2": {
        "betas": torch.zeros(4),
        "cond_stage_model.model.logit_scale": torch.zeros(1),
        "cond_stage_model.model.text_projection": torch.zeros(16, 16),
        "cond_stage_model.model.transformer.resblocks.23.ln_1.weight": torch.zeros(16),
    },
    "sdxl": {
        "denoiser.sigmas": torch.zeros(4),
        "conditioner.embedders.1.model.logit_scale": torch.zeros(1),
    },
}


@pytest.fixture(scope="module", params=NAMES)
def model(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Path, Path]:
    """The name of a layout, and a model in a diffusers folder and in one file."""
    name, root = request.param, tmp_path_factory.mktemp("single")
    configs = write_configs(name, root / "layouts" / name)
    networks = build(configs)
    folder = write_folder(configs, networks, root / "folder")
    file = write_single_file(name, configs, networks, root / f"{name}.safetensors", **EXTRA[name])
    return name, folder, file


@pytest.fixture
def reduced(model: tuple[str, Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """The layouts with the reduced configs."""
    monkeypatch.setattr(single_file, "CONFIGS", model[2].parent / "layouts")


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("the network was used")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.mark.parametrize("name", NAMES)
def test_full_size_names_are_those_of_diffusers(name: str) -> None:
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from diffusers.loaders import single_file_utils

    layout = layout_named(name)
    for part, kind, convert in (
        ("unet", UNet2DConditionModel, single_file_utils.convert_ldm_unet_checkpoint),
        ("vae", AutoencoderKL, single_file_utils.convert_ldm_vae_checkpoint),
    ):
        config = read_config(layout.configs / part / "config.json")
        with torch.device("meta"):
            names = list(kind.from_config(config).state_dict())
        pieces = single_file.pieces(layout, part, config, names)
        assert len({piece.key for piece in pieces.values()}) == len(names)
        marks = {piece.key: torch.tensor([i]) for i, piece in enumerate(pieces.values())}
        converted = convert(dict(marks), config)
        assert {key: int(value) for key, value in converted.items()} == {
            name: int(marks[piece.key]) for name, piece in pieces.items()
        }


def test_single_file_is_the_folder(
    model: tuple[str, Path, Path], reduced: None, no_network: None
) -> None:
    _, folder, file = model
    ours = LatentDiffusion.from_pretrained(file, device="cpu")
    theirs = LatentDiffusion.from_pretrained(folder, device="cpu")
    assert ours.spec.defaults == theirs.spec.defaults
    for one, other in zip(
        (ours.unet, ours.vae, *(reader.encoder for reader in ours.text.readers)),
        (theirs.unet, theirs.vae, *(reader.encoder for reader in theirs.text.readers)),
        strict=True,
    ):
        expected = other.state_dict()
        assert one.state_dict().keys() == expected.keys()
        assert all(torch.equal(value, expected[key]) for key, value in one.state_dict().items())
    settings: dict[str, Any] = {"seeds": [3], "steps": 2, "width": 64, "height": 64}
    pictures = [p("a lighthouse", negative_prompt="fog", **settings)[0] for p in (ours, theirs)]
    assert np.array_equal(np.asarray(pictures[0]), np.asarray(pictures[1]))


def test_only_a_vae_that_leaves_its_range_is_not_in_half_precision(
    model: tuple[str, Path, Path], reduced: None
) -> None:
    name, _, file = model
    networks = load_networks(find(str(file)), torch.device("cpu"), torch.float16)
    assert networks.unet.dtype == torch.float16
    assert networks.vae.dtype == (torch.float32 if name == "sdxl" else torch.float16)


def test_text_encoders_are_converted_as_diffusers_does(
    model: tuple[str, Path, Path], reduced: None
) -> None:
    from diffusers.loaders import single_file_utils

    name, _, file = model
    pipeline = LatentDiffusion.from_pretrained(file, device="cpu")
    checkpoint, layout = load_file(file), layout_named(name)
    for reader, prefix in zip(pipeline.text.readers, layout.text.values(), strict=True):
        if prefix.endswith(".model."):
            converted = single_file_utils.convert_open_clip_checkpoint(
                reader.encoder, dict(checkpoint), prefix
            )
        else:
            converted = single_file_utils.convert_ldm_clip_checkpoint(dict(checkpoint))
        converted = {key.removeprefix("text_model."): value for key, value in converted.items()}
        for key, value in reader.encoder.state_dict().items():
            assert torch.equal(value, converted[key.removeprefix("text_model.")]), key


def test_every_key_is_accounted_for(
    model: tuple[str, Path, Path], reduced: None, tmp_path: Path
) -> None:
    _, _, file = model
    state = load_file(file)
    missing = next(key for key in state if key.endswith("input_blocks.1.0.in_layers.0.weight"))
    cases = {
        "keys that no network of this layout has: surprise": {**state, "surprise": torch.zeros(1)},
        f"missing keys: {missing}": {key: v for key, v in state.items() if key != missing},
        f"{missing} is [3], not [8]": {**state, missing: torch.zeros(3)},
        f"NaN or infinite values: {missing}": {**state, missing: torch.full((8,), torch.nan)},
    }
    for reason, changed in cases.items():
        save_file(changed, tmp_path / "changed.safetensors")
        with pytest.raises(WeightsError) as error:
            LatentDiffusion.from_pretrained(tmp_path / "changed.safetensors", device="cpu")
        assert reason in str(error.value)


def test_what_a_file_says_it_predicts(
    model: tuple[str, Path, Path], reduced: None, tmp_path: Path
) -> None:
    _, _, file = model
    state, path = load_file(file), tmp_path / "said.safetensors"
    save_file(state, path, {"modelspec.prediction_type": "epsilon"})
    assert find(str(path)).scheduler == {"prediction_type": "epsilon"}
    save_file({**state, "v_pred": torch.zeros(1)}, path)
    pipeline = LatentDiffusion.from_pretrained(path, device="cpu")
    assert pipeline.scheduler_config["prediction_type"] == "v_prediction"
    assert not pipeline.scheduler_config.get("rescale_betas_zero_snr")
    save_file({**state, "v_pred": torch.zeros(0), "ztsnr": torch.zeros(0)}, path)
    with LatentDiffusion.from_pretrained(path, device="cpu").begin(
        "a fox", seeds=[1], sampler="euler", steps=2, width=64, height=64
    ) as draft:
        scheduler = draft._open.scheduler
        assert scheduler.config.rescale_betas_zero_snr
        assert int(scheduler.timesteps[0]) == 999
    assert find(str(file)).scheduler == {}


def test_a_file_that_repaints(model: tuple[str, Path, Path], reduced: None, tmp_path: Path) -> None:
    _, _, file = model
    state, path = load_file(file), tmp_path / "inpainting.safetensors"
    first = "model.diffusion_model.input_blocks.0.0.weight"
    save_file({**state, first: torch.zeros(8, 9, 3, 3)}, path)
    spec = find(str(path))
    assert spec.inpaints
    assert not find(str(file)).inpaints
    networks = load_networks(spec, torch.device("cpu"), torch.float32)
    assert networks.unet.conv_in.weight.shape == (8, 9, 3, 3)
    save_file({**state, first: torch.zeros(8, 8, 3, 3)}, path)
    with pytest.raises(WeightsError, match="takes 8 channels: it draws from more than"):
        find(str(path))


def _renamed(old: str, new: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda state: {key.replace(old, new): value for key, value in state.items()}


def _float8(state: dict[str, Any]) -> dict[str, Any]:
    return {
        key: value.to(torch.float8_e4m3fn)
        if value.ndim > 1 and value.is_floating_point()
        else value
        for key, value in state.items()
    }


def _projection_of_a_layer(state: dict[str, Any]) -> dict[str, Any]:
    key = "conditioner.embedders.1.model.text_projection"
    state[f"{key}.weight"] = state.pop(key).T.contiguous()
    return state


SPELLINGS: dict[str, tuple[str, Callable[[dict[str, Any]], dict[str, Any]]]] = {
    "NovelAI's": ("sd1", _renamed("transformer.text_model.", "transformer.")),
    "SD-Turbo's": ("sd2", _renamed("cond_stage_model.", "conditioner.embedders.0.")),
    "a projection as a layer": ("sdxl", _projection_of_a_layer),
    "float8": ("sd1", _float8),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_spellings_of_other_tools(
    spelling: str, model: tuple[str, Path, Path], reduced: None, tmp_path: Path
) -> None:
    name, _, file = model
    layout, change = SPELLINGS[spelling]
    if layout != name:
        return
    path = tmp_path / "spelled.safetensors"
    save_file(change(load_file(file)), path)
    ours, theirs = (
        load_networks(find(str(each)), torch.device("cpu"), torch.float32) for each in (path, file)
    )
    most = 0.1 if spelling == "float8" else 0.0
    for one, other in zip(ours.all, theirs.all, strict=True):
        expected = other.state_dict()
        assert one.state_dict().keys() == expected.keys()
        for key, value in one.state_dict().items():
            assert torch.allclose(value, expected[key], rtol=most, atol=0.02 * most)
    if spelling == "SD-Turbo's":
        assert ours.scheduler["prediction_type"] == "epsilon"
        assert find(str(path)).defaults["steps"] == 4


def test_a_file_without_a_vae(model: tuple[str, Path, Path], reduced: None, tmp_path: Path) -> None:
    _, folder, file = model
    state = {k: v for k, v in load_file(file).items() if not k.startswith("first_stage_model.")}
    path = tmp_path / "no_vae.safetensors"
    save_file(state, path)
    with pytest.raises(WeightsError, match="holds no VAE: name a file or folder of one with --vae"):
        LatentDiffusion.from_pretrained(path, device="cpu")
    whole, given = (
        LatentDiffusion.from_pretrained(each, device="cpu", adapters=adapters)
        for each, adapters in ((file, Adapters()), (path, Adapters(vae=folder / "vae")))
    )
    expected = whole.vae.state_dict()
    assert all(torch.equal(v, expected[k]) for k, v in given.vae.state_dict().items())


def test_files_that_are_no_models(tmp_path: Path) -> None:
    refiner = {
        "conditioner.embedders.0.model.ln_final.weight": torch.zeros(1),
        "model.diffusion_model.label_emb.0.0.weight": torch.zeros(1),
    }
    save_file(refiner, tmp_path / "refiner.safetensors")
    with pytest.raises(WeightsError, match="the refiner of SDXL"):
        find(str(tmp_path / "refiner.safetensors"))
    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(WeightsError, match="none of the layouts"):
        find(str(tmp_path / "other.safetensors"))
    for name, why in (
        ("model.ckpt", "a pickle"),
        ("model.gguf", "GGUF holds quantized weights"),
        ("model_index.json", "name the folder that it is in"),
        ("model.txt", "no other kind of file is read"),
    ):
        (tmp_path / name).write_bytes(b"GGUF\3\0\0\0")
        with pytest.raises(WeightsError, match=f"is not a .safetensors file: .*{why}"):
            find(str(tmp_path / name))


def test_vocabulary_is_that_of_clip() -> None:
    config = json.loads(
        (layout_named("sd1").configs / "tokenizer" / "tokenizer_config.json").read_text()
    )
    tokenizer = openai_tokenizer(config)
    assert len(tokenizer) == 49_408
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id) == (49_406, 49_407)
    golden = {  # what OpenAI's own tokenizer says
        "a photo of a cat": [320, 1125, 539, 320, 2368],
        "The panda's 3 apples, naïve 日本 🐼!!": [
            *(518, 12952, 568, 274, 14032, 267, 1097, 35689, 563),
            *(39121, 19277, 361, 2074, 120, 748),
        ],
    }
    for text, ids in golden.items():
        assert tokenizer(text, add_special_tokens=False).input_ids == ids
