"""LoRA files and other settings that change how a model is loaded or reads, through the engine."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image, ImageChops
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


# --- LoRA files that prompts name


@pytest.fixture
def loras(lora: Path, tmp_path: Path) -> Path:
    """A folder of them: Style, and sub/style2."""
    folder = tmp_path / "loras"
    (folder / "sub").mkdir(parents=True)
    (folder / "Style.safetensors").write_bytes(lora.read_bytes())
    (folder / "sub" / "style2.safetensors").write_bytes(lora.read_bytes())
    return folder


def test_a_prompt_names_a_lora(
    tiny_diffusion_folder: Path,
    lora: Path,
    loras: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The image is that of the same file given by a flag, and can be made again."""
    common = ["-m", str(tiny_diffusion_folder), *ARGUMENTS, "-s", "7"]
    named, given = tmp_path / "named", tmp_path / "given"
    folder = ["--lora-dir", str(loras)]
    assert main(["a <lora:style:0.8>panda", *common, *folder, "-o", str(named)]) == 0
    assert main(["a panda", *common, "--lora", f"{lora}:0.8", "-o", str(given)]) == 0
    [one], [other] = (list(out.glob("*-r1-*.png")) for out in (named, given))
    assert Image.open(one).tobytes() == Image.open(other).tobytes()
    request = metadata.read(one).request
    assert (request.prompt, request.lora) == ("a panda", "Style:0.8")
    assert (request.template, request.lora_dir) == ("a <lora:style:0.8>panda", str(loras))
    moved = loras.rename(tmp_path / "moved")
    capsys.readouterr()
    again = ["--again", str(one), "-o", str(tmp_path / "again"), "--reranker", "none"]
    assert main(again) == 3
    assert f"{loras} is no folder of LoRA files" in capsys.readouterr().err
    assert main([*again, "--lora-dir", str(moved)]) == 0
    assert re.search("by at most [0-2] of 255", capsys.readouterr().out)  # as on its own


def test_a_dry_run_can_be_drawn(
    tiny_diffusion_folder: Path, loras: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "rows.txt").write_text("a fox <lora:style2> --lora-dir " + str(loras))
    model = ["-m", str(tiny_diffusion_folder)]
    assert main(["-f", str(tmp_path / "rows.txt"), *model, "--lora", "Style:2", "--dry-run"]) == 0
    out = capsys.readouterr().out
    row = json.loads(out)
    assert (row["prompt"], row["lora"]) == ("a fox", "Style:2,sub/style2:1")
    assert row["lora_dir"] == str(loras)
    (tmp_path / "rows.jsonl").write_text(out)
    assert main(["-f", str(tmp_path / "rows.jsonl"), "--dry-run"]) == 0
    assert capsys.readouterr().out == out


@pytest.mark.parametrize(
    ("prompt", "says"),
    [
        ("a <lora:stile:1> fox", "prompt: <lora:stile:1>: no LoRA stile: there is Style"),
        ("a <lora:a:1:0.5> fox", "one weight holds for text encoder and UNet"),
        ("a <lora:style:nan> fox", "a weight is a number, as in <lora:NAME:0.8>"),
        ("a <lora:../Style:1> fox", "no LoRA ../Style"),
        ("<lora:style:1>", "empty"),
    ],
)
def test_loras_that_there_are_not(
    prompt: str, says: str, tiny_diffusion_folder: Path, loras: Path
) -> None:
    with pytest.raises(InputError, match=re.escape(says)):
        resolve(Request(prompt, model=str(tiny_diffusion_folder), lora_dir=str(loras)))


def test_a_model_without_loras(tiny_dalle_folder: Path, loras: Path) -> None:
    request = Request("a <lora:style:1> fox", model=str(tiny_dalle_folder))
    with pytest.raises(InputError, match="takes no LoRA files: take it out"):
        resolve(request, loras={"style": loras / "Style.safetensors"})
    assert resolve(request).request.prompt == request.prompt  # a note says what becomes of it
    with pytest.raises(InputError, match="lora_dir: not a setting of the chosen model"):
        resolve(request.replace(lora_dir=str(loras)))


def test_two_of_a_name(tiny_diffusion_folder: Path, loras: Path) -> None:
    (loras / "other").mkdir()
    (loras / "other" / "style2.safetensors").touch()
    request = Request("a fox <lora:style2>", model=str(tiny_diffusion_folder), lora_dir=str(loras))
    with pytest.raises(InputError, match="style2 may be other/style2 or sub/style2: name one"):
        resolve(request)


# --- prompts that change, through the engine


def test_a_prompt_that_changes_is_finished_and_made_again(
    tiny_diffusion_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run that is finished later, and one image alone, are what one batch draws."""
    prompt = "a [panda|balloon] AND [red:blue:0.5] :0.7"
    common = [prompt, "-m", str(tiny_diffusion_folder), *SIZE, "-s", "7", "--reranker", "none"]
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert main([*common, "--candidates", "3", "-o", str(whole)]) == 0
    assert main([*common, "--candidates", "1", "-o", str(parts)]) == 0
    assert main([*common, "--candidates", "3", "--batch-size", "1", "-o", str(parts)]) == 0
    for seed in (7, 8, 9):
        one, other = (max(out.rglob(f"000?-*{seed}.png")) for out in (whole, parts))
        difference = ImageChops.difference(Image.open(one), Image.open(other))
        assert max(band[1] for band in difference.getextrema()) <= 2
    capsys.readouterr()
    [best] = whole.glob("*-r1-*.png")
    assert main(["--again", str(best), "-o", str(tmp_path / "again"), "--reranker", "none"]) == 0
    assert re.search("by at most [012] of 255", capsys.readouterr().out)


def test_what_images_are_scored_by() -> None:
    plan = resolve(Request("a [cow|horse] in a [wood:(field:1.2):0.5] AND a fox :0.5", steps=4))
    assert plan.words == "a cow horse in a field and a fox"
    with pytest.raises(InputError, match="AND joins 9 prompts"):
        resolve(Request(" AND ".join("a" * 9)))
    with pytest.raises(InputError, match="must come to more than 0"):
        resolve(Request("a AND b :-2", guidance=1.0))
    assert resolve(Request("a AND b :-2", guidance=2.0)).request.guidance == 2.0
