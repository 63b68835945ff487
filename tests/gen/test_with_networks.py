"""The engine and the command over real networks: tiny ones with random weights."""

import json
import math
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from gen import Engine, InputError, Request, Result, RoomError, generate, metadata
from gen.cli import main
from gen.events import Cancel, Event, Loading, Note, Progress
from gen.metadata import parameters
from gen.models import find

pytestmark = pytest.mark.slow

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
@pytest.mark.fault("one seed, every batch and device")
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


@pytest.mark.fault("odd surroundings")
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
    assert not any("dropped" in note for note in notes)  # it is read in two chunks


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


# --- the DALL·E path, alone and in one pool ---


@pytest.fixture
def pool_words(
    tiny_diffusion_folder: Path, tiny_dalle_folder: Path, tiny_clip_folder: Path
) -> list[str]:
    models = f"{tiny_diffusion_folder},{tiny_dalle_folder}"
    words = ["a red panda", "-m", models, "--reranker", str(tiny_clip_folder), "--device", "cpu"]
    return [*words, "--candidates", "6", "--top-k", "4", "--seed", "7", "--json", "-q"]


def test_two_paths_make_one_pool(
    pool_words: list[str],
    tiny_dalle_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Candidates in turns, each with the settings of its path, ranked together."""
    words = ["--steps", "2", "--temperature", "0.8", "--guidance", "2", "-o", str(tmp_path / "out")]
    assert main([*pool_words, *words]) == 0
    row = json.loads(capsys.readouterr().out)
    records = [metadata.read(path) for path in (tmp_path / "out").rglob("0001-*.png")]
    by_seed = {record.request.seed: record for record in records}
    assert sorted(by_seed) == list(range(7, 13))
    for seed, record in by_seed.items():
        drawn_by_dalle = seed % 2 == 0  # candidate i has seed 7 + i
        assert (record.model == tiny_dalle_folder.name) == drawn_by_dalle
        assert (record.request.steps, record.request.temperature) == (
            (None, 0.8) if drawn_by_dalle else (2, None)
        )
        assert record.request.guidance == 2
        assert (record.log_likelihood is not None) == drawn_by_dalle
        assert ("Log likelihood: -" in parameters.to_text(record)) == drawn_by_dalle
    scores = [result["score"] for result in row["results"]]
    assert scores == sorted(scores, reverse=True)
    assert len({result["model"] for result in row["results"]}) == 2
    for result in row["results"]:
        assert ("log_likelihood" in result) == result["model"].endswith("tiny-dalle")

    again = next(result["file"] for result in row["results"] if "log_likelihood" in result)
    words = ["--again", again, "--reranker", "none", "--json", "-q", "-o", str(tmp_path / "again")]
    assert main(words) == 0
    assert json.loads(capsys.readouterr().out)["difference"] == 0


def test_folders_may_have_the_same_name(
    tiny_dalle_folder: Path,
    make_dalle_folder: Callable[..., Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """As each other, and as a known model: each candidate is drawn by the one that was named."""
    folders = [tmp_path / "one" / "stickers", tmp_path / "other" / "stickers"]
    shutil.copytree(tiny_dalle_folder, folders[0])
    make_dalle_folder(folders[1], size=64)
    words = ["a panda", "-m", f"{folders[0]},{folders[1]}", "--reranker", "none", "--seed", "1"]
    words += ["--candidates", "2", "--top-k", "2", "--device", "cpu", "--json", "-q"]
    assert main([*words, "-o", str(tmp_path / "out")]) == 0
    results = json.loads(capsys.readouterr().out)["results"]
    assert [result["model"] for result in results] == [str(folder) for folder in folders]
    assert [Image.open(result["file"]).width for result in results] == [32, 64]


def test_a_picture_is_completed(
    tiny_dalle_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The upper half of what was drawn before comes back, from the command as from Python."""
    engine = Engine("cpu", reranker="none")
    given = {"model": str(tiny_dalle_folder), "candidates": 1, "engine": engine}
    [first] = generate("a panda", seed=3, outdir=tmp_path / "first", **given)
    assert first.path is not None
    [second] = generate("red", seed=4, init_image=first.path, keep_rows=2, **given)
    tokens = [engine.pipeline(find(given["model"])).tokens(p.image) for p in (first, second)]
    assert first.log_likelihood != second.log_likelihood

    words = ["red", "-m", str(tiny_dalle_folder), "--seed", "4", "--candidates", "1", "--json"]
    words += ["--init-image", str(first.path), "--keep-rows", "2", "--reranker", "none", "-q"]
    assert main([*words, "-o", str(tmp_path / "second"), "--device", "cpu"]) == 0
    [result] = json.loads(capsys.readouterr().out)["results"]
    saved = Path(result["file"])
    assert np.array_equal(pixels(Image.open(saved)), pixels(second.image))
    assert metadata.read(saved).request.init_image == str(first.path.resolve())
    assert tokens[0].shape == tokens[1].shape == (4, 4)


@pytest.mark.parametrize(
    ("words", "code", "reason"),
    [
        (["--token-top-k", "0"], 2, "token_top_k 0: must be a whole number from 1"),
        (["--temperature", "-1"], 2, "temperature -1: must be a number from 0"),
        (["--steps", "5"], 2, "steps: not a setting of the chosen model: .* takes .*temperature"),
        (["-W", "64"], 2, "width: not a setting of the chosen model"),
        (["--keep-rows", "2"], 2, "keep_rows: goes with init_image"),
        (["--mask", "right.png"], 2, "mask: goes with init_image"),
        (["--init-image", "right.png", "--mask-blur", "2"], 2, "mask_blur: goes with mask"),
        (["--init-image", "right.png", "--strength", "0"], 2, "strength 0: draws nothing anew"),
        (["--init-image", "right.png", "--strength", "1.2"], 2, "strength 1.2: must be a number"),
        (["--init-image", "right.png", "--mask", "right.png"], 2, "mask .* is the image itself"),
        (["--init-image", "right.png", "--mask", "wide.png"], 2, "is 64x32, the image is 32x32"),
        (["--init-image", "right.png", "--mask", "black.png"], 2, "nothing in it is white"),
        (
            ["--init-image", "right.png", "--keep-rows", "2", "--strength", "0.5"],
            2,
            "keep_rows and strength each say what is kept",
        ),
        (["--init-image", "right.png", "--keep-rows", "0"], 2, "keep_rows 0: must be"),
        (["--init-image", "right.png", "--keep-rows", "4"], 2, "keep_rows 4: .* from 1 to 3"),
        (["--init-image", "gone.png", "--keep-rows", "2"], 2, "gone.png: no such file"),
        (["--init-image", "text.png", "--keep-rows", "2"], 2, "text.png: not an image in one of"),
        (["--attention", "flex"], 2, "attention 'flex' needs a CUDA device"),
        (["--safety"], 3, "has no safety_checker/"),
        (["--temperature", "0"], 0, ""),
        (["--init-image", "right.png", "--keep-rows", "3"], 0, ""),
        (["--init-image", "wide.png", "--keep-rows", "2"], 0, ""),
        (["--init-image", "grey.png"], 0, ""),
    ],
)
def test_bad_input_is_one_line_and_the_right_code(
    words: list[str],
    code: int,
    reason: str,
    tiny_dalle_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, mode, size in (
        ("right.png", "RGB", (32, 32)),
        ("wide.png", "RGB", (64, 32)),
        ("grey.png", "L", (32, 32)),
        ("black.png", "L", (32, 32)),
    ):
        Image.new(mode, size).save(name)
    Path("text.png").write_text("no picture")
    always = ["a panda", "-m", str(tiny_dalle_folder), "--reranker", "none", "--candidates", "1"]
    assert main([*always, *words, "-q", "--device", "cpu"]) == code
    error = capsys.readouterr().err
    assert re.search(reason, error)
    assert len(error.splitlines()) == (0 if code == 0 else 1)


def test_parts_of_two_models_are_exit_code_3(
    tiny_dalle_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(shutil.copytree(tiny_dalle_folder, tmp_path / "model"))
    config = folder / "dvae" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "vocabulary": 32}))
    words = ["a panda", "-m", str(folder), "--reranker", "none", "-q", "-o", str(tmp_path / "out")]
    assert main(words) == 3
    error = capsys.readouterr().err
    assert "dvae vocabulary is 32, transformer image_vocabulary is 64" in error
    assert len(error.splitlines()) == 1


def test_finishing_early_and_previews_by_tokens(tiny_dalle_folder: Path) -> None:
    cancel, events = Cancel(), []

    def finish(event: Event) -> None:
        events.append(event)
        if isinstance(event, Progress) and event.step == 6:
            cancel.finish_now()

    [result] = generate(
        "a panda",
        model=str(tiny_dalle_folder),
        candidates=1,
        engine=Engine("cpu", reranker="none"),
        watch=finish,
        cancel=cancel,
    )
    assert result.unfinished == "step 6 of 16"
    assert result.image is not None
    assert result.image.getpixel((31, 31)) == (128, 128, 128)


@pytest.mark.parametrize(
    ("fixture", "engine", "flags"),
    [
        ("tiny_dalle_folder", Engine("cpu", compiled=True, vae_tiling=True), "compile, --vae"),
        ("tiny_dalle_folder", Engine("cpu", offload="model"), "--offload"),
    ],
)
def test_wishes_that_only_other_models_fulfil(
    fixture: str, engine: Engine, flags: str, request: pytest.FixtureRequest
) -> None:
    folder = request.getfixturevalue(fixture)
    with pytest.raises(InputError, match=f"runs without .*{flags}"):
        engine.pipeline(find(str(folder)))


def test_loading_is_told(tiny_diffusion_folder: Path) -> None:
    told: list[Event] = []
    Engine("cpu", vae_tiling=True).pipeline(find(str(tiny_diffusion_folder)), told.append)
    loading = [event for event in told if isinstance(event, Loading)]
    assert loading[0].total == 0  # at once, when it is not known yet
    assert loading[-1].loaded == loading[-1].total > loading[1].loaded > 0


@pytest.mark.fault("memory runs out")
def test_a_batch_that_memory_is_too_short_for_is_halved_and_the_next_job_runs(
    tiny_diffusion_folder: Path,
) -> None:
    """The allocator itself refuses: a limit of the process fills by chance with oneDNN's caches."""
    engine, told = Engine("cpu", reranker="none", batch_size=16), list[Event]()
    unet = engine.pipeline(find(str(tiny_diffusion_folder))).unet
    most = math.inf  # rows that are computed at once

    def allocate(network: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        if len(inputs[0]) > most:
            torch.empty(2**46)

    def draw(candidates: int) -> list[Result]:
        model = str(tiny_diffusion_folder)
        asked = Request("a panda", model=model, seed=1, steps=1, top_k=candidates)
        return generate(asked, candidates=candidates, engine=engine, watch=told.append)

    hook = unet.register_forward_pre_hook(allocate)
    whole = draw(4)
    assert not [event for event in told if isinstance(event, Note)]
    most = 2  # a candidate and what it is guided away from
    alone = draw(4)
    notes = [event.text for event in told if isinstance(event, Note)]
    assert notes == [f"memory is short: {n} candidates are halved" for n in (4, 2, 2)]
    for one, other in zip(whole, alone, strict=True):
        assert np.abs(pixels(one.open()) - pixels(other.open())).max() <= TOLERANCE
    most = 1
    with pytest.raises(RoomError, match="not enough memory for one candidate alone: try a smaller"):
        draw(4)
    hook.remove()
    assert len(draw(4)) == 4
