"""The engine and the command over real networks: tiny ones with random weights."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from gen import Engine, Result, generate, metadata
from gen.cli import main
from gen.events import Cancel, Event, Note, Progress

ROOT = Path(__file__).parents[2]
TOLERANCE = 2  # of 255, between batch sizes


def pixels(image: Image.Image | None) -> np.ndarray:
    assert image is not None
    return np.asarray(image, dtype=np.int16)


def by_seed(results: list[Result]) -> dict[int, np.ndarray]:
    return {result.seed: pixels(result.image) for result in results}


@pytest.mark.parametrize(
    ("device", "sizes"),
    [
        ("cpu", (1, 4, 16)),
        pytest.param(
            "cuda",
            (16,),
            marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
        ),
    ],
)
def test_a_seed_is_a_picture_whatever_the_micro_batch_and_the_device(
    device: str, sizes: tuple[int, ...], tiny_diffusion_folder: Path, tiny_clip_folder: Path
) -> None:
    drawn = [
        by_seed(
            generate(
                "a red panda",
                model=str(tiny_diffusion_folder),
                candidates=16,
                top_k=16,
                seed=5,
                steps=3,
                sampler="euler_a",
                engine=Engine(
                    where, dtype="float32", reranker=str(tiny_clip_folder), batch_size=size
                ),
            )
        )
        for where, size in [("cpu", 16), *((device, size) for size in sizes)]
    ]
    for seed in range(5, 21):
        for others in drawn[1:]:
            assert np.abs(drawn[0][seed] - others[seed]).max() <= TOLERANCE
    assert np.abs(drawn[0][5] - drawn[0][6]).max() > 10 * TOLERANCE


def test_neither_home_nor_caches_nor_the_clock_are_needed(
    tiny_diffusion_folder: Path, tiny_clip_folder: Path, tmp_path: Path
) -> None:
    """Nothing can be written below a file, whoever the user is; and the clock runs backwards."""
    backwards = (
        "import itertools, sys, time; from gen.cli import main; "
        "hours = itertools.count(2e9, -3600); time.time = lambda: next(hours); "
        "sys.exit(main(sys.argv[1:]))"
    )
    words = ["a panda", "-m", str(tiny_diffusion_folder), "--reranker", str(tiny_clip_folder)]
    words += ["--candidates", "2", "--steps", "2", "--device", "cpu", "-o", str(tmp_path / "out")]
    caches = ("HF_HOME", "XDG_CACHE_HOME", "TORCH_HOME", "MPLCONFIGDIR")
    done = subprocess.run(
        [sys.executable, "-c", backwards, *words],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "LC_ALL": "C"} | dict.fromkeys(caches, "/dev/null/cache"),
        capture_output=True,
        encoding="utf-8",
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "out").rglob("*-r*.png"))) == 2


def test_the_command_draws_judges_saves_and_does_it_again(
    tiny_diffusion_folder: Path,
    tiny_clip_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out"
    words = ["a red panda", "-m", str(tiny_diffusion_folder), "--reranker", str(tiny_clip_folder)]
    words += ["--candidates", "4", "--top-k", "2", "--steps", "2", "--seed", "7", "--json"]
    assert main([*words, "-o", str(out), "--device", "cpu"]) == 0
    said = capsys.readouterr()
    [row] = [json.loads(line) for line in said.out.splitlines()]
    scores = [result["score"] for result in row["results"]]
    assert scores == sorted(scores, reverse=True)
    assert all(-1 <= score <= 1 for score in scores)
    record = metadata.read(Path(row["results"][0]["file"]))
    assert (record.attention, record.rerank_model) == ("sdpa", tiny_clip_folder.name)
    assert record.request.model == str(tiny_diffusion_folder)

    again = ["--again", row["results"][0]["file"], "-o", str(tmp_path / "again"), "--json"]
    assert main([*again, "--reranker", str(tiny_clip_folder), "--device", "cpu"]) == 0
    assert json.loads(capsys.readouterr().out)["difference"] <= TOLERANCE


def test_previews_and_half_precision_on_a_cpu(tiny_diffusion_folder: Path) -> None:
    events: list[Event] = []
    engine = Engine("cpu", dtype="float16", reranker="none")
    [result] = generate(
        "a panda " + "red " * 40,
        model=str(tiny_diffusion_folder),
        candidates=1,
        steps=2,
        engine=engine,
        watch=events.append,
    )
    assert pixels(result.image).shape == (64, 64, 3)
    notes = [event.text for event in events if isinstance(event, Note)]
    assert any("float32" in note for note in notes)
    assert any("dropped: 'red red" in note for note in notes)


def test_what_the_models_safety_checker_flags_has_failed(
    make_checked_folder: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = make_checked_folder(threshold=-2.0), tmp_path / "out"
    words = ["a panda", "-m", str(folder), "--reranker", "none", "--candidates", "2"]
    words += ["--steps", "1", "--seed", "7", "--device", "cpu", "--json", "-q", "-o", str(out)]
    rows = []
    for safety in (True, False, True):
        assert main([*words, "--safety"] if safety else words) == (4 if safety else 0)
        rows.append(json.loads(capsys.readouterr().out))
        assert len(list(out.rglob("*-[78]*.png"))) == (0 if len(rows) == 1 else 2)
    first, unchecked, again = rows
    assert [result["seed"] for result in first["failed"]] == [7, 8]
    for result in first["failed"]:
        assert "safety checker flagged it; without --safety it is shown" in result["failed"]
        assert "file" not in result
    assert len(unchecked["results"]) == 2
    assert again == first  # what is there by now was not checked


def test_finishing_early_does_not_get_round_the_safety_checker(
    make_checked_folder: Callable[..., Path],
) -> None:
    for threshold, flagged in ((-2.0, True), (2.0, False)):
        cancel = Cancel()

        def finish(event: Event, cancel: Cancel = cancel) -> None:
            if isinstance(event, Progress):
                cancel.finish_now()

        results = generate(
            "a panda",
            model=str(make_checked_folder(threshold)),
            candidates=2,
            steps=4,
            engine=Engine("cpu", reranker="none", safety=True),
            watch=finish,
            cancel=cancel,
        )
        assert len(results) == 2
        for result in results:
            assert (result.image is None) == flagged
            assert ("safety checker" in (result.failed or "")) == flagged
            assert result.unfinished == (None if flagged else "step 1 of 4")


def test_a_model_without_a_safety_checker_is_exit_code_3_if_one_is_asked_for(
    tiny_diffusion_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["a panda", "-m", str(tiny_diffusion_folder), "--reranker", "none", "--safety"]
    assert main([*words, "-o", str(tmp_path), "-q"]) == 3
    error = capsys.readouterr().err
    assert "has no safety_checker/" in error
    assert len(error.splitlines()) == 1


@pytest.mark.parametrize("part", ["vae", "tokenizer", "unet/diffusion_pytorch_model.safetensors"])
def test_an_incomplete_model_is_exit_code_3(
    part: str, tiny_diffusion_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "model"
    shutil.copytree(tiny_diffusion_folder, broken)
    if (broken / part).is_dir():
        shutil.rmtree(broken / part)
    else:
        (broken / part).unlink()
    assert (
        main(
            ["a panda", "-m", str(broken), "-o", str(tmp_path / "out"), "-q", "--reranker", "none"]
        )
        == 3
    )
    error = capsys.readouterr().err
    assert part.split("/")[0] in error
    assert len(error.splitlines()) == 1
    assert not list((tmp_path / "out").rglob("*.png"))


@pytest.mark.parametrize("flag", ["--device", "--dtype", "--attention"])
def test_what_the_machine_lacks_is_bad_input(
    flag: str, tiny_diffusion_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["a panda", "-m", str(tiny_diffusion_folder), "-o", str(tmp_path), "--reranker", "none"]
    assert main([*words, flag, "nonesuch"]) == 2
    error = capsys.readouterr().err
    assert "nonesuch" in error
    assert "choose from" in error
