"""LoRA files and other settings that change how a model is loaded or reads, through the engine."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from gen import Engine, generate, metadata
from gen.cli import main
from gen.errors import InputError
from gen.plan import resolve
from gen.settings.request import Request
from pipelines.checkpoints.errors import WeightsError

SIZE = ["-W", "64", "-H", "64", "--steps", "2", "--device", "cpu"]
ARGUMENTS = [*SIZE, "--candidates", "2", "--top-k", "1", "--reranker", "none"]


@pytest.fixture
def lora(tmp_path: Path) -> Path:
    """A file that changes the tiny UNet much."""
    stem = "unet.mid_block.resnets.0.conv1"
    up, down = torch.randn(32, 2, 1, 1), torch.randn(2, 32, 3, 3)
    path = tmp_path / "style.safetensors"
    save_file({f"{stem}.lora_B.weight": up, f"{stem}.lora_A.weight": down}, path)
    return path


def test_pictures_say_what_was_added(
    tiny_diffusion_folder: Path, lora: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = ["-m", str(tiny_diffusion_folder)]
    out = tmp_path / "with"
    assert (
        main(["a panda", *model, *ARGUMENTS, "-s", "7", "--lora", f"{lora}:0.8", "-o", str(out)])
        == 0
    )
    assert main(["a panda", *model, *ARGUMENTS, "-s", "7", "-o", str(tmp_path / "without")]) == 0
    [one] = out.glob("*-r1-*.png")
    [other] = (tmp_path / "without").glob("*-r1-*.png")
    added, plain = metadata.read(one), metadata.read(other)
    assert added.request.lora == f"{lora}:0.8"
    assert added.model_hash != plain.model_hash
    assert one.read_bytes() != other.read_bytes()
    capsys.readouterr()
    assert main(["--again", str(one), "-o", str(tmp_path / "again"), "--reranker", "none"]) == 0
    assert re.search("by at most [012] of 255", capsys.readouterr().out)


def test_flags_may_be_repeated(
    tiny_diffusion_folder: Path, lora: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    twice = ["--lora", f"{lora}:0.5", "--lora", str(lora)]
    assert main(["a panda", "-m", str(tiny_diffusion_folder), *twice, "--dry-run"]) == 0
    assert json.loads(capsys.readouterr().out)["lora"] == f"{lora}:0.5,{lora}:1"


def test_wrong_additions(tiny_diffusion_folder: Path, lora: Path) -> None:
    request = Request("a panda", model=str(tiny_diffusion_folder))
    with pytest.raises(InputError, match="behind the colon must be a number"):
        resolve(Request("a panda", model=request.model, lora=f"{lora}:x"))
    with pytest.raises(WeightsError, match="does not exist"):
        resolve(Request("a panda", model=request.model, vae="nowhere.safetensors"))


def test_the_jury_reads_words_without_signs(
    tiny_diffusion_folder: Path,
    tiny_clip_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from rerank import Reranker

    read: list[str] = []
    real: Callable[..., list[float]] = Reranker.score

    def score(self: Reranker, prompt: str, images: list[object]) -> list[float]:
        read.append(prompt)
        return real(self, prompt, images)

    monkeypatch.setattr(Reranker, "score", score)
    engine = Engine(device="cpu", reranker=str(tiny_clip_folder))
    for syntax in (None, "plain"):
        generate(
            "a (red:1.3) panda",
            model=str(tiny_diffusion_folder),
            candidates=1,
            steps=1,
            prompt_syntax=syntax,
            engine=engine,
        )
    assert read == ["a red panda", "a (red:1.3) panda"]
