"""Weights that are damaged, hostile or out of reach, given to the command.

It ends with exit code 3 and one line, in bounded time and memory; what was drawn before is left as
it was, nothing runs that came with the weights, and there is no partial file.
"""

import json
import os
import pickle
import shutil
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file

from gen.cli import main
from gen.memory import held_by_process
from pipelines.checkpoints.configs import PULLED

pytestmark = pytest.mark.slow

UNET = "unet/diffusion_pytorch_model.safetensors"
SECONDS, BYTES = 20, 200e6


@pytest.fixture
def model(tiny_diffusion_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_diffusion_folder, tmp_path / "model"))


@pytest.fixture
def jury(tiny_clip_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_clip_folder, tmp_path / "jury"))


@pytest.fixture
def refusal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """What the command says when it refuses to draw."""
    out = tmp_path / "out"
    out.mkdir()
    (out / "0001-r1-7.png").write_bytes(b"drawn before")

    def run(model: Path | str, *words: str, jury: Path | str = "none") -> str:
        capsys.readouterr()
        held, began = held_by_process(), time.monotonic()
        settings = ["--candidates", "1", "--device", "cpu", "--seed", "1"]
        code = main(["a panda", "-m", str(model), "--reranker", str(jury), *settings, *words,
                     "-o", str(out)])  # fmt: skip
        said = capsys.readouterr()
        assert code == 3, said
        assert time.monotonic() - began < SECONDS
        assert held_by_process() - held < BYTES
        assert said.err.startswith("generate: error: ")
        assert said.err.count("\n") == 1
        assert (out / "0001-r1-7.png").read_bytes() == b"drawn before"
        assert len(list(out.rglob("*.png"))) == 1
        return said.err

    return run


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def change(path: Path, edit_tensors: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    tensors = load_file(path)
    edit_tensors(tensors)
    save_file(tensors, path, {"format": "pt"})


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "half": lambda content: content[: len(content) // 2],
    "empty": lambda _: b"",
    "random": lambda _: b"\x93\x1f\xc2\x07\xee\x10\x99\xfa",
    "huge header": lambda content: struct.pack("<Q", 2**63) + content[8:],
    "git-lfs pointer": lambda _: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
    "html": lambda _: b"<!DOCTYPE html><html>Not found</html>",
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.fault("files that are no weights")
def test_row_12_files_that_are_no_weights(
    damage: str, model: Path, jury: Path, refusal: Callable[..., str]
) -> None:
    (jury / "model.safetensors").write_bytes(
        DAMAGES[damage]((jury / "model.safetensors").read_bytes())
    )
    assert "jury/model.safetensors" in refusal(model, jury=jury)
    (model / UNET).write_bytes(DAMAGES[damage]((model / UNET).read_bytes()))
    said = refusal(model)
    assert UNET in said
    if damage in ("half", "empty"):
        assert "file is incomplete (" in said


@pytest.mark.fault("one flipped byte")
def test_row_13_one_flipped_byte(model: Path, refusal: Callable[..., str]) -> None:
    from hashlib import sha256

    content = bytearray((model / UNET).read_bytes())
    facts = {"size": len(content), "sha256": sha256(content).hexdigest()}
    (model / PULLED).write_text(json.dumps({"files": {UNET: facts}}))
    content[-2] ^= 1
    (model / UNET).write_bytes(content)
    assert "is damaged: its sha256 is" in refusal(model)
    (model / PULLED).unlink()
    content[-1] |= 0x7C  # without a record, what is not finite is still found
    (model / UNET).write_bytes(content)
    assert "NaN or infinite values" in refusal(model)


class Bomb:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return Path.touch, (self.marker,)


@pytest.mark.fault("pickles")
def test_row_14_pickles_run_nothing(
    model: Path, jury: Path, tmp_path: Path, refusal: Callable[..., str]
) -> None:
    marker = tmp_path / "marker"
    bomb = pickle.dumps(Bomb(marker))
    pickle.loads(bomb)
    assert marker.exists()  # so it would run, if it were opened
    marker.unlink()
    for name in ("model.ckpt", "model.pt", "model.bin"):
        file = tmp_path / name
        file.write_bytes(bomb)
        refusal(file)
        for flag in ("--lora", "--vae", "--embedding"):
            refusal(model, flag, str(file))
    disguised = tmp_path / "model.safetensors"
    disguised.write_bytes(bomb)
    refusal(disguised)
    (jury / "model.safetensors").unlink()
    (jury / "pytorch_model.bin").write_bytes(bomb)
    refusal(model, jury=jury)
    (model / UNET).unlink()
    (model / "unet" / "diffusion_pytorch_model.bin").write_bytes(bomb)
    assert "is a pickle" in refusal(model)
    assert not marker.exists()


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        (lambda t: t.pop("conv_in.bias"), "missing keys: conv_in.bias"),
        (lambda t: t.update(more=torch.zeros(1)), "does not have: more"),
        (lambda t: t.update({"conv_in.bias": torch.zeros(3)}), "wrong shape: conv_in.bias"),
        (
            lambda t: t.update({"conv_in.bias": torch.zeros(16, dtype=torch.int8)}),
            "not floating point: conv_in.bias",
        ),
        (
            lambda t: t.update({"conv_in.bias": torch.full((16,), torch.nan)}),
            "NaN or infinite values: conv_in.bias",
        ),
    ],
)
@pytest.mark.fault("tensors that do not fit")
def test_row_15_tensors_that_do_not_fit(
    wrong: Callable[[dict[str, torch.Tensor]], Any],
    reason: str,
    model: Path,
    refusal: Callable[..., str],
) -> None:
    change(model / UNET, wrong)
    assert reason in refusal(model)


@pytest.mark.parametrize(
    "asks",
    [
        {"auto_map": {"AutoModel": "evil.Model", "AutoConfig": "evil.Config"}},
        {"_attn_implementation_internal": "someone/kernels"},
        {"trust_remote_code": True},
    ],
)
@pytest.mark.fault("configs that ask for code")
def test_row_16_configs_that_ask_for_code(
    asks: dict[str, Any], model: Path, jury: Path, tmp_path: Path, refusal: Callable[..., str]
) -> None:
    marker = tmp_path / "marker"
    for folder in (model, model / "text_encoder", model / "unet", jury):
        (folder / "evil.py").write_text(f"open({str(marker)!r}, 'w')")
    edit(jury / "config.json", **asks)
    assert "would run code" in refusal(model, jury=jury)
    for part in ("text_encoder", "unet", "vae"):
        config = model / part / "config.json"
        before = config.read_text()
        edit(config, **asks)
        assert "would run code" in refusal(model)
        config.write_text(before)
    assert not marker.exists()


@pytest.mark.fault("parts that do not fit")
def test_row_17_parts_that_are_missing_or_do_not_fit(
    model: Path, make_dalle_folder: Callable[..., Path], tmp_path: Path, refusal: Callable[..., str]
) -> None:
    for part in ("vae", "tokenizer"):
        (model / part).rename(tmp_path / part)
        assert f"has no {part}/" in refusal(model)
        (tmp_path / part).rename(model / part)
    edit(model / "unet" / "config.json", cross_attention_dim=48)
    assert "hidden_size is 32, unet cross_attention_dim is 48" in refusal(model)
    dalle = make_dalle_folder(tmp_path / "dalle")
    edit(dalle / "dvae" / "config.json", vocabulary=128)
    assert "dvae vocabulary is 128, transformer image_vocabulary is 64" in refusal(dalle)


@pytest.mark.parametrize("kind", ["model", "jury"])
@pytest.mark.fault("a hub out of reach")
def test_row_18_what_is_not_in_the_cache(
    kind: str,
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    refusal: Callable[..., str],
) -> None:
    import socket

    def no_network(*_: object, **__: object) -> None:
        raise AssertionError("the network was used")

    monkeypatch.setattr(socket, "socket", no_network)
    monkeypatch.setattr(socket, "getaddrinfo", no_network)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    half = tmp_path / "cache" / "models--org--half" / "snapshots" / ("0" * 40)
    half.mkdir(parents=True)
    (half.parents[1] / "refs").mkdir()
    (half.parents[1] / "refs" / "main").write_text("0" * 40)
    os.symlink("../../blobs/missing", half / "model_index.json")
    for name, reason in (("org/absent", "generate --pull org/absent"), ("org/half", "half")):
        if kind == "model":
            said = refusal(name)
            assert str(tmp_path / "cache") in said
        else:
            said = refusal(model, jury=name)
        assert reason in said
