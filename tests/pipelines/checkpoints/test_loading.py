"""Damaged and hostile folders. Every message is one line that names the file and the reason."""

import json
import pickle
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from pipelines.checkpoints.errors import WeightsError
from pipelines.checkpoints.headers import read_header
from pipelines.diffusion.networks import Networks, load_networks
from pipelines.diffusion.pipeline import LatentDiffusion
from pipelines.families import find

CPU = torch.device("cpu")
UNET = Path("unet") / "diffusion_pytorch_model.safetensors"
VAE = Path("vae") / "diffusion_pytorch_model.safetensors"
TEXT = Path("text_encoder") / "model.safetensors"


@pytest.fixture
def folder(tiny_diffusion_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_diffusion_folder, tmp_path / "model"))


def load(folder: Path, dtype: torch.dtype = torch.float32) -> Networks:
    return load_networks(find(str(folder)), CPU, dtype)


def network(networks: Networks, part: str) -> torch.nn.Module:
    return networks.readers[0].encoder if part == "text_encoder" else getattr(networks, part)


def refusal(folder: Path) -> str:
    with pytest.raises(WeightsError) as error:
        load(folder)
    message = str(error.value)
    assert "\n" not in message
    return message


def rewrite(file: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    state = load_file(file)
    change(state)
    save_file(state, file, {"format": "pt"})


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_half_precision_files_load_whole_as_float32(folder: Path) -> None:
    networks = load(folder)
    assert load_file(folder / UNET)["conv_in.weight"].dtype == torch.float16
    for part, file in (("unet", UNET), ("vae", VAE), ("text_encoder", TEXT)):
        loaded = dict(network(networks, part).state_dict())
        stored = {k.removeprefix("text_model."): v for k, v in load_file(folder / file).items()}
        assert loaded.keys() == stored.keys()
        for key, value in loaded.items():
            assert value.dtype == torch.float32
            assert torch.equal(value, stored[key].float())
        assert not network(networks, part).training
        assert not any(p.requires_grad for p in network(networks, part).parameters())


def test_convolutions_have_their_channels_last(folder: Path) -> None:
    networks = load(folder)
    for network in (networks.unet, networks.vae):
        kernels = [p for p in network.parameters() if p.ndim == 4 and min(p.shape[1:]) > 1]
        assert kernels
        assert all(p.is_contiguous(memory_format=torch.channels_last) for p in kernels)


def test_text_encoder_equals_transformers_own_loading(folder: Path) -> None:
    from transformers import CLIPTextModel, CLIPTokenizer

    networks = load(folder)
    tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
    theirs = CLIPTextModel.from_pretrained(folder / "text_encoder").eval()
    text = "a panda to the left of the red apple é"
    ids = tokenizer(text, return_tensors="pt").input_ids
    assert networks.readers[0].tokenizer(text).input_ids == ids[0].tolist()
    with torch.inference_mode():
        assert torch.equal(networks.readers[0].encoder(ids)[0], theirs(ids)[0])


def test_old_and_new_spellings_of_keys(folder: Path) -> None:
    expected = load(folder)

    def without_prefix(state: dict[str, torch.Tensor]) -> None:
        for key in list(state):
            state[key.removeprefix("text_model.")] = state.pop(key)

    def with_position_ids(state: dict[str, torch.Tensor]) -> None:
        without_prefix(state)
        for key in list(state):
            state[f"text_model.{key}"] = state.pop(key)
        state["text_model.embeddings.position_ids"] = torch.arange(32)[None]

    def old_attention(state: dict[str, torch.Tensor]) -> None:
        renamed = {".to_q.": ".query.", ".to_k.": ".key.", ".to_v.": ".value."}
        for key in list(state):
            name = key.replace(".to_out.0.", ".proj_attn.")
            for new, old in renamed.items():
                name = name.replace(new, old)
            state[name] = state.pop(key)

    rewrite(folder / VAE, old_attention)
    assert any(".proj_attn." in key for key in load_file(folder / VAE))
    for change in (without_prefix, with_position_ids):
        rewrite(folder / TEXT, change)
        networks = load(folder)
        for part in ("text_encoder", "vae"):
            ours = network(networks, part).state_dict()
            for key, value in network(expected, part).state_dict().items():
                assert torch.equal(ours[key], value)


def test_only_a_half_precision_variant(folder: Path) -> None:
    (folder / UNET).rename(folder / "unet" / "diffusion_pytorch_model.fp16.safetensors")
    assert load(folder).unet.dtype == torch.float32


def test_old_tokenizer_files_are_enough(folder: Path) -> None:
    expected = load(folder).readers[0].tokenizer("a panda, 3 apples").input_ids
    (folder / "tokenizer" / "tokenizer.json").unlink()
    assert load(folder).readers[0].tokenizer("a panda, 3 apples").input_ids == expected


@pytest.mark.parametrize("file", [UNET, VAE, TEXT])
@pytest.mark.parametrize("part", [0.5, 0.999])
def test_truncated_file_names_both_sizes(folder: Path, file: Path, part: float) -> None:
    data = (folder / file).read_bytes()
    short = data[: int(len(data) * part)]
    (folder / file).write_bytes(short)
    message = refusal(folder)
    assert f"{file}: file is incomplete ({len(short)} of {len(data)} bytes)" in message


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "file is incomplete (0 of at least 8 bytes)"),
        (b"\x00\x00", "file is incomplete (2 of at least 8 bytes)"),
        (struct.pack("<Q", 2**63), f"its header claims {2**63} bytes"),
        (struct.pack("<Q", 5000) + b'{"a', "file is incomplete (11 of at least 5008 bytes)"),
        (struct.pack("<Q", 4) + b"\xff\xfe{]", "its header is not readable"),
        (struct.pack("<Q", 12) + b'{"a": [1, 2]', "its header is not readable"),
        (
            struct.pack("<Q", 66)
            + b'{"a":{"dtype":"F32","shape":[1099511627776],"data_offsets":[0,0]}}',
            "the bytes of a do not fit its shape",
        ),
        (struct.pack("<Q", 40_000) + b"[" * 40_000, "its header is not readable"),
        (b"\x93\x1f\xc2\x07\xee\x10\x99\xfa", "its header claims"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 3438\n",
            "is a Git LFS pointer",
        ),
        (b"<!DOCTYPE html><html><body>404</body></html>", "is a web page"),
    ],
)
def test_files_that_are_no_weights(folder: Path, content: bytes, reason: str) -> None:
    (folder / UNET).write_bytes(content)
    assert reason in refusal(folder)


def test_header_agrees_with_safetensors(folder: Path) -> None:
    state = load_file(folder / VAE)
    header = read_header(folder / VAE)
    assert {k: tuple(v.shape) for k, v in state.items()} == {k: t.shape for k, t in header.items()}


@pytest.mark.parametrize("file", [UNET, VAE, TEXT])
def test_missing_keys_are_named(folder: Path, file: Path) -> None:
    removed = sorted(load_file(folder / file))[:5]

    def remove(state: dict[str, torch.Tensor]) -> None:
        for key in removed:
            del state[key]

    rewrite(folder / file, remove)
    message = refusal(folder)
    assert f"{file} has missing keys: " in message
    assert removed[0].removeprefix("text_model.") in message
    assert "and 2 more" in message


def test_extra_misshapen_and_non_float_keys_are_named(folder: Path) -> None:
    rewrite(folder / UNET, lambda state: state.update(surprise=torch.zeros(1)))
    assert "has keys that the network does not have: surprise" in refusal(folder)
    rewrite(folder / UNET, lambda state: state.pop("surprise"))
    rewrite(folder / UNET, lambda state: state.update({"conv_in.bias": torch.zeros(3)}))
    assert "wrong shape: conv_in.bias is [3], not [16]" in refusal(folder)
    ints = torch.zeros(16, dtype=torch.int32)
    rewrite(folder / UNET, lambda state: state.update({"conv_in.bias": ints}))
    assert "not floating point: conv_in.bias" in refusal(folder)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_named(folder: Path, value: float) -> None:
    rewrite(folder / VAE, lambda state: state["decoder.conv_out.bias"].fill_(value))
    assert "NaN or infinite values: decoder.conv_out.bias" in refusal(folder)


class Bomb:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return Path.touch, (self.marker,)


@pytest.mark.parametrize(
    ("file", "pickled"),
    [(UNET, "diffusion_pytorch_model.bin"), (TEXT, "pytorch_model.bin")],
)
def test_pickles_are_refused_unopened(folder: Path, file: Path, pickled: str) -> None:
    marker = folder / "marker"
    (folder / file).unlink()
    (folder / file.parent / pickled).write_bytes(pickle.dumps(Bomb(marker)))
    message = refusal(folder)
    assert pickled in message
    assert "is a pickle" in message
    assert not marker.exists()


def test_missing_weights_and_tokenizer_files(folder: Path) -> None:
    (folder / VAE).unlink()
    assert f"{VAE} is missing" in refusal(folder)
    for name in ("tokenizer.json", "vocab.json"):
        (folder / "tokenizer" / name).unlink()
    shutil.copy(folder / UNET, folder / VAE)
    assert "has neither tokenizer.json nor vocab.json" in refusal(folder)


def test_damaged_tokenizer(folder: Path) -> None:
    path = folder / "tokenizer" / "tokenizer.json"
    path.write_text(path.read_text()[:1000])
    assert "tokenizer.json cannot be read" in refusal(folder)


def test_parts_that_do_not_fit_name_both_numbers(folder: Path) -> None:
    edit(folder / "unet" / "config.json", cross_attention_dim=48)
    assert "hidden_size is 32, unet cross_attention_dim is 48" in refusal(folder)
    edit(folder / "unet" / "config.json", cross_attention_dim=32, in_channels=8)
    assert "vae latent_channels is 4, unet in_channels is 8" in refusal(folder)
    edit(folder / "unet" / "config.json", in_channels=4)
    edit(folder / "text_encoder" / "config.json", vocab_size=100)
    assert "the tokenizer has ids up to 544, text_encoder vocab_size is 100" in refusal(folder)


def test_config_that_builds_no_network(folder: Path) -> None:
    edit(folder / "text_encoder" / "config.json", hidden_size="wide")
    assert "builds no network" in refusal(folder)
    edit(folder / "text_encoder" / "config.json", hidden_size=32)
    edit(folder / "unet" / "config.json", block_out_channels=[16, 32, 64])
    assert "builds no network" in refusal(folder)


def test_unsupported_prediction_type(folder: Path) -> None:
    edit(folder / "scheduler" / "scheduler_config.json", prediction_type="sample")
    assert "predicts 'sample'" in refusal(folder)


def test_a_folder_that_repaints(folder: Path) -> None:
    def widen(state: dict[str, torch.Tensor]) -> None:
        state["conv_in.weight"] = torch.cat([state["conv_in.weight"]] * 3, dim=1)[
            :, :9
        ].contiguous()

    edit(folder / "model_index.json", _class_name="StableDiffusionInpaintPipeline")
    assert not find(str(folder)).inpaints  # a UNet of four channels can be drawn with
    rewrite(folder / UNET, widen)
    edit(folder / "unet" / "config.json", in_channels=9)
    spec = find(str(folder))
    assert spec.inpaints
    networks = load(folder)
    assert networks.unet.config.in_channels == 9
    pipeline = LatentDiffusion(spec, networks, CPU, torch.float32, "sdpa")
    with pipeline.begin("a panda", seeds=[1], steps=1) as draft:  # as if all of it were masked
        draft.step()
        assert draft.images()[0] is not None


def test_code_is_refused_for_known_models_too(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dataclasses import replace

    spec = replace(find(str(folder)), name="known")
    edit(folder / "text_encoder" / "config.json", auto_map={"AutoModel": "evil.Model"})
    with pytest.raises(WeightsError, match="would run code"):
        load_networks(spec, CPU, torch.float32)
    with pytest.raises(WeightsError, match=r"weights of 'known' are not there: .* does not exist"):
        load_networks(replace(spec, folder=folder / "gone"), CPU, torch.float32)
