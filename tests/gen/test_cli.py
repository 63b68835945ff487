"""The command as people type it: what it says, where, and with which exit code."""

import io
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from fake_models import FakeDraft, Studio
from PIL import Image

import gen.plan
from gen import Request, metadata
from gen.cli import main
from pipelines.checkpoints import hub
from pipelines.checkpoints.specs import Spec

ROOT = Path(__file__).parents[2]
RESOLVE = gen.plan.resolve


@pytest.fixture
def out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The default output folder, in an empty working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path / "outputs"


def test_a_prompt_becomes_pictures_a_sheet_and_a_summary(
    studio: Studio, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["a panda", "--candidates", "6", "--top-k", "2", "--seed", "7"]) == 0
    said = capsys.readouterr()
    first = next(out.glob("0001-r1-*.png"))
    lines = said.out.splitlines()
    assert lines[0] == "0001 a panda (seed 7)"
    assert lines[1].split() == ["1.", f"{metadata.read(first).score:.4f}", f"outputs/{first.name}"]
    assert lines[-1] == "sheet: outputs/sheet.png"
    assert said.err == ""
    assert Image.open(out / "sheet.png").width > 500


@pytest.mark.fault("the same command twice")
def test_the_same_command_twice_draws_nothing_new(
    studio: Studio, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["a panda", "--candidates", "3", "--seed", "0"]
    assert main(command) == main(command) == 0
    assert studio.pipeline.drawn == (0, 1, 2)
    assert "3 were there already" in capsys.readouterr().out


def test_json_for_scripts(studio: Studio, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"prompt": "a panda", "id": "p"}, {"prompt": "a cat", "seed": 2**62}]
    Path("rows.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    studio.pipeline.broken_seeds = {1}
    options = ["--candidates", "3", "--top-k", "1", "--seed", "0", "--json"]
    assert main(["-f", "rows.jsonl", *options]) == 4
    first, second = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert (first["id"], first["number"], first["made"], first["drawn"]) == ("p", 1, 2, 2)
    assert first["request"]["steps"] == 4
    assert [row["rank"] for row in first["results"]] == [1]
    assert [(row["seed"], row["failed"]) for row in first["failed"]] == [(1, "not finite")]
    assert second["request"]["seed"] == str(2**62)
    assert Path(first["results"][0]["file"]).is_file()


def test_quiet_says_nothing(studio: Studio, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (studio.folder / "fake" / "vocabulary.json").write_text('{"words": ["a"]}')
    assert main(["a panda", "--candidates", "1", "-q"]) == 0
    assert capsys.readouterr() == ("", "")
    assert main(["a panda", "--candidates", "1"]) == 0
    assert capsys.readouterr().err.startswith("generate: note: fake does not know “panda”")


@pytest.mark.parametrize(
    "words",
    [
        ["a panda", "--width", "513"],
        ["a panda", "--width", "0"],
        ["a panda", "--width", "-512"],
        ["a panda", "-W", "1e9"],
        ["a panda", "--height", "abc"],
        ["a panda", "--steps", "0"],
        ["a panda", "--steps", "1000000"],
        ["a panda", "--candidates", "0"],
        ["a panda", "--best-of", "1000000"],
        ["a panda", "--guidance", "nan"],
        ["a panda", "--cfg-scale", "inf"],
        ["a panda", "--guidance-scale", "-1e9"],
        ["a panda", "--guidance", "-inf"],
        ["a panda", "--seed", "-2"],
        ["a panda", "--seed", str(2**64)],
        ["a panda", "-s", "x"],
        ["a panda", "--top-k", "0"],
        ["a panda", "--temperature", "1"],
        ["a panda", "--upscale", "9"],
        ["a panda", "--batch-size", "0"],
        ["a panda", "--format", "gif"],
        ["a panda", "--format", "../../x"],
        ["a panda", "--nonsense"],
        ["a panda", "--variant", "fp16"],
        ["a panda", "-f", "rows.txt"],
        ["-f", "nothing.txt"],
        ["-f", "."],
        ["-f", "pipe"],
        ["-f", "bad.jsonl"],
        ["-f", "empty.txt"],
        ["-f", "latin.txt"],
        ["a panda", "-o", "rows.txt"],
        ["a panda", "-o", "/proc/outputs"],
        ["a panda", "-o", "a" * 300],
        ["--again", "nothing.png"],
        ["--again", "rows.txt"],
        ["--again", "nothing.png", "--steps", "3"],
        ["--again", "nothing.png", "a panda"],
        [],
        [""],
        [" \n"],
        ["a\x07panda"],
        ["a" * 100_000],
    ],
    ids=lambda words: " ".join(words)[:40],
)
@pytest.mark.fault(
    "sizes",
    "steps, counts and guidance",
    "seeds",
    "prompts",
    "prompt files that are none",
    "encodings of prompt files",
    "bad rows",
    "output folders",
)
def test_bad_input_is_one_line_and_exit_code_2(
    words: list[str], studio: Studio, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("rows.txt").write_text("a cat")
    Path("empty.txt").write_text("# nothing\n")
    Path("latin.txt").write_bytes(b"caf\xe9")
    Path("bad.jsonl").write_text('{"prompt": "a", "output": "../../x"}')
    os.mkfifo("pipe")
    before = sorted(os.listdir())
    assert main(words) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("generate: error: ")
    assert len(said.err.splitlines()) == (2 if "bad.jsonl" in words or "latin.txt" in words else 1)
    assert len(said.err) < 400
    assert sorted(os.listdir()) == before
    assert studio.loads == []


@pytest.mark.parametrize("flag", ["-m", "--reranker"])
def test_a_name_too_long_for_a_file_is_no_model(
    flag: str, studio: Studio, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["a panda", flag, "a" * 300]) == 3
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert not out.exists()
    assert studio.loads == []


@pytest.mark.parametrize("last", [[], ["--dry-run"], ["--seed", "3"]])
def test_a_request_is_resolved_once(
    last: list[str], studio: Studio, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolved: list[str] = []

    def resolve(request: Request, find: Callable[[str], Spec]) -> gen.plan.Plan:
        resolved.append(request.prompt)
        return RESOLVE(request, find)

    monkeypatch.setattr(gen.plan, "resolve", resolve)
    assert main(["a panda", "a cat", "--candidates", "1", *last]) == 0
    assert resolved == ["a panda", "a cat"]


def test_a_seed_that_is_drawn_each_time_is_another_for_the_same_prompt(
    studio: Studio, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["a panda", "a panda", "--candidates", "1", "--seed", "-1", "--json"]) == 0
    seeds = [json.loads(line)["request"]["seed"] for line in capsys.readouterr().out.splitlines()]
    assert len(set(seeds)) == 2


def test_a_picture_records_template_and_prompt(studio: Studio, out: Path) -> None:
    template = "a {red|blue} {fox|owl}"
    assert main([template, "--candidates", "1", "--seed", "3"]) == 0
    request = metadata.read(out / "0001-r1-3.png").request
    assert request.template == template
    assert request.prompt in {f"a {c} {a}" for c in ("red", "blue") for a in ("fox", "owl")}
    [line] = [line for line in (out / "manifest.jsonl").read_text().splitlines() if "fox|" in line]
    assert json.dumps(request.prompt) in line


@pytest.mark.parametrize("seed", [0, 2**63 - 1])
@pytest.mark.fault("seeds")
def test_extreme_seeds_are_accepted_and_echoed(
    seed: int, studio: Studio, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["a panda", "--seed", str(seed), "--candidates", "2"]) == 0
    assert f"(seed {seed})" in capsys.readouterr().out


@pytest.mark.fault("bad rows")
def test_every_bad_row_is_listed_and_nothing_is_drawn(
    studio: Studio, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("rows.txt").write_text("a cat\na dog --width 65\na cow --temperature 1\na hen --steps x")
    assert main(["-f", "rows.txt"]) == 2
    error = capsys.readouterr().err
    assert [line.split(":")[0].strip() for line in error.splitlines()[1:]] == [
        "line 2",
        "line 3",
        "line 4",
    ]
    assert not out.exists()


@pytest.mark.fault("very few and very many rows")
def test_a_large_file_of_rows_is_checked_in_little_memory(
    studio: Studio, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with open("rows.txt", "w") as file:
        file.writelines(f"a panda number {number}\n" for number in range(10_000))
        file.write("a cat --steps 0\n")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert main(["-f", "rows.txt", "--seed", "1"]) == 2
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 10_000  # kB


def test_standard_input(
    studio: Studio, out: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("熊貓 --seed 3\n".encode())))
    assert main(["-f", "-", "--candidates", "1"]) == 0
    assert capsys.readouterr().out.startswith("0001 熊貓 (seed 3)")
    assert metadata.read(out / "0001-r1-3.png").request.prompt == "熊貓"


def test_a_dry_run_can_be_played_back(
    studio: Studio, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["a panda", "-p", "a cat", "--dry-run", "--steps", "9", "--guidance", "0"]) == 0
    printed = capsys.readouterr().out
    rows = [json.loads(line) for line in printed.splitlines()]
    assert [row["prompt"] for row in rows] == ["a panda", "a cat"]
    assert rows[0]["seed"] == rows[1]["seed"]
    assert (rows[0]["steps"], rows[0]["guidance"], rows[0]["width"]) == (9, 0.0, 64)
    Path("rows.jsonl").write_text(printed)
    assert main(["-f", "rows.jsonl", "--dry-run"]) == 0
    assert capsys.readouterr().out == printed
    assert not out.exists()
    assert studio.loads == []


@pytest.mark.parametrize("kind", ["jpeg", "webp"])
def test_formats_and_upscaling(kind: str, studio: Studio, out: Path) -> None:
    options = ["--format", kind, "--upscale", "2", "--keep", "top"]
    assert main(["a panda", "--candidates", "3", "--top-k", "1", "--seed", "1", *options]) == 0
    [path] = [path for path in out.iterdir() if path.name.startswith("0001-")]
    with Image.open(path) as image:
        assert (image.format, image.size) == (kind.upper(), (128, 128))
    assert metadata.read(path).rank == 1
    assert list((out / "candidates").iterdir()) == []


def test_stripped_pictures_say_nothing(
    studio: Studio, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["a panda", "--candidates", "2", "--seed", "1", "--strip-metadata"]) == 0
    path = next(out.glob("0001-r1-*.png"))
    assert b"panda" not in path.read_bytes()
    assert main(["--again", str(path)]) == 2
    assert "has no metadata" in capsys.readouterr().err


def test_an_unknown_model_is_exit_code_3(
    studio: Studio, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for words in (["-m", "nonesuch"], ["--reranker", "nonesuch"]):
        assert main(["a panda", *words]) == 3
        error = capsys.readouterr().err
        assert "nonesuch" in error
        assert len(error.splitlines()) == 1
    shutil.rmtree(studio.folder / "fake")
    assert main(["a panda"]) == 3
    assert "the weights of fake are not in" in capsys.readouterr().err
    assert studio.loads == []


@pytest.mark.fault("memory runs out")
def test_short_memory_is_exit_code_5(
    studio: Studio, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    studio.pipeline.room_in_step = 0
    assert main(["a panda", "--candidates", "2"]) == 5
    assert "try a smaller --width" in capsys.readouterr().err


def test_a_bug_is_one_line_too_unless_debugged(
    studio: Studio, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(draft: FakeDraft) -> None:
        raise RuntimeError("broken")

    studio.pipeline.on_step = fail
    assert main(["a panda"]) == 1
    assert (
        capsys.readouterr().err == "generate: error: RuntimeError: broken (--debug shows where)\n"
    )
    with pytest.raises(RuntimeError, match="broken"):
        main(["a panda", "--debug"])


@pytest.mark.fault("a full disk")
def test_a_full_disk_is_exit_code_5_and_leaves_no_half_file(
    studio: Studio, out: Path, tmp_path: Path, generate_in_fork: Callable[..., int]
) -> None:
    words = ["a panda", "--candidates", "2", "--seed", "1", "--upscale", "8", "--batch-size", "1"]

    def limit_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))

    assert generate_in_fork(words, limit_files) == 5
    error = (tmp_path / "stderr").read_text().splitlines()[-1]
    assert error.startswith("generate: error: cannot write outputs/candidates/0001-1.png")
    assert "MB free" in error
    assert not list(out.rglob("*.png"))
    assert not list(out.rglob("*.tmp"))
    assert main(words) == 0  # with room, the same command finishes
    assert len(list(out.rglob("0001-*.png"))) == 2


@pytest.mark.fault("a full disk")
def test_a_disk_that_fills_up_on_the_way_keeps_what_was_saved(
    studio: Studio, out: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    left = [3]
    real = os.fsync

    def fsync(file: int) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(28, "No space left on device")
        real(file)

    words = ["a panda", "--candidates", "6", "--seed", "1", "--batch-size", "1"]
    with monkeypatch.context() as context:
        context.setattr(os, "fsync", fsync)
        assert main(words) == 5
    assert "No space left on device" in capsys.readouterr().err
    assert len(list(out.rglob("0001-*.png"))) == 3
    assert main(words) == 0
    assert studio.pipeline.drawn == (1, 2, 3, 4, 4, 5, 6)


@pytest.mark.fault("signals")
def test_one_interrupt_stops_and_keeps_what_is_finished(
    studio: Studio, out: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def interrupt(draft: FakeDraft) -> None:
        if 3 in draft.seeds and draft.done == 2:
            os.kill(os.getpid(), signal.SIGINT)

    studio.pipeline.on_step = interrupt
    words = ["a panda", "a cat", "--candidates", "6", "--seed", "1", "--batch-size", "2"]
    assert main(words) == 130
    said = capfd.readouterr()
    assert "0001 a panda" in said.out
    assert "a cat" not in said.out
    assert "once more: stop at once" in said.err
    assert len(list(out.rglob("0001-*.png"))) == 2
    assert (out / "sheet.png").exists()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler

    studio.pipeline.on_step = lambda draft: None
    assert main(words) == 0
    assert len(list(out.rglob("000?-*.png"))) == 12
    assert len(studio.pipeline.drawn) == 12


@pytest.mark.fault("signals")
def test_a_second_interrupt_stops_at_once(
    studio: Studio, out: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def interrupt(draft: FakeDraft) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    studio.pipeline.on_step = interrupt
    assert main(["a panda", "--candidates", "6"]) == 130
    assert studio.pipeline.steps == 1
    assert "stopped at once" in capfd.readouterr().err
    assert not list(out.rglob("*.tmp"))


@pytest.mark.fault("odd surroundings")
def test_nobody_reading_does_not_stop_the_run(
    studio: Studio, out: Path, tmp_path: Path, generate_in_fork: Callable[..., int]
) -> None:
    def close_the_other_end() -> None:
        reading, writing = os.pipe()
        os.dup2(writing, 1)
        os.close(reading)

    words = ["a panda", "a cat", "--candidates", "2", "--seed", "1"]
    assert generate_in_fork(words, close_the_other_end) == 0
    assert (tmp_path / "stderr").read_text() == ""
    assert len(list(out.rglob("000?-*.png"))) == 4


def test_again_makes_the_same_picture(
    studio: Studio, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["a panda", "--candidates", "4", "--seed", "1", "--guidance", "2"]) == 0
    path = next(out.glob("*-r1-*.png"))
    before = path.read_bytes()
    capsys.readouterr()
    assert main(["--again", str(path)]) == 0
    said = capsys.readouterr()
    assert f"differs from {path} by at most 0 of 255" in said.out
    assert said.err == ""
    assert path.read_bytes() == before
    [copy] = out.glob("0002-r1-*.png")
    assert metadata.read(copy).request == metadata.read(path).request
    assert studio.pipeline.settings[-1]["guidance"] == 2.0

    (studio.folder / "fake" / "weights.safetensors").write_bytes(b"other weights")
    assert main(["--again", str(path), "--json"]) == 0
    said = capsys.readouterr()
    assert "expect another image" in said.err
    assert json.loads(said.out)["difference"] == 0


def test_again_makes_an_unfinished_picture_whole(
    studio: Studio, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["a panda", "--candidates", "1", "--seed", "1"]) == 0
    path = out / "0001-r1-1.png"
    record = metadata.Metadata.from_json(
        metadata.read(path).to_json() | {"unfinished": "step 1 of 4"}
    )
    path.write_bytes(metadata.embed(path.read_bytes(), record))
    assert main(["--again", str(path), "-o", "whole"]) == 0
    assert "it is whole now" in capsys.readouterr().out
    assert metadata.read(Path("whole/0001-r1-1.png")).unfinished is None


def test_again_compares_what_was_upscaled(
    studio: Studio, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["a panda", "--candidates", "1", "--seed", "1", "--upscale", "3"]) == 0
    assert main(["--again", str(out / "0001-r1-1.png")]) == 0
    assert "by at most 0 of 255" in capsys.readouterr().out


def test_again_draws_a_damaged_picture_whose_record_is_whole(
    studio: Studio, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["a panda", "--candidates", "1", "--seed", "1"]) == 0
    path = out / "0001-r1-1.png"
    data = path.read_bytes()
    path.write_bytes(data[: data.index(b"IDAT") + 8])
    assert main(["--again", str(path), "-o", "anew"]) == 0
    assert "is damaged, so they cannot be compared" in capsys.readouterr().out
    assert Path("anew/0001-r1-1.png").read_bytes() == data


def test_again_takes_no_settings_but_those_of_the_picture(
    studio: Studio, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["a panda", "--candidates", "1", "--seed", "1"]) == 0
    again = ["--again", str(out / "0001-r1-1.png")]
    for more, named in ((["--steps", "3"], "steps"), (["a fox"], "the prompts")):
        assert main([*again, *more]) == 2
        assert f"leave out {named}" in capsys.readouterr().err
    assert main([*again, "-m", "fake", "--upscale", "2"]) == 0


LIGHT = """
import sys
from gen.cli import main
from pipelines.checkpoints import hub
COMMANDS = ["--help"], ["--version"], ["--list-models"], ["a 熊貓", "--dry-run"], ["x", "-W", "1"]
for words in COMMANDS:
    try:
        print(words[-1], main(words))
    except SystemExit as end:
        print(words[-1], end.code)
heavy = {"torch", "diffusers", "transformers", "accelerate", "gradio", "numpy", "tqdm"}
print("heavy:", sorted(heavy & set(sys.modules)))
"""


@pytest.mark.fault("odd surroundings")
def test_what_needs_no_model_loads_no_torch_even_in_a_bare_environment() -> None:
    done = subprocess.run(
        [sys.executable, "-c", LIGHT],
        cwd=ROOT,
        env={"LC_ALL": "C", "PATH": os.environ["PATH"]},  # no HOME
        capture_output=True,
        encoding="utf-8",
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    for line in ("--help 0", "--version 0", "--list-models 0", "--dry-run 0", "1 2", "heavy: []"):
        assert line in done.stdout.splitlines()
    assert "a 熊貓" in done.stdout
    assert "exit codes: 0 done" in done.stdout
    note, error = done.stderr.splitlines()
    assert "does not know “熊貓”" in note
    assert "width 1" in error


def test_the_environment_for_bug_reports(
    studio: Studio, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--env"]) == 0
    facts = dict(line.split(":", 1) for line in capsys.readouterr().out.splitlines())
    assert {"salon", "torch", "diffusers", "devices", "attention", "model fake"} <= set(facts)
    assert "cpu" in facts["devices"]


@pytest.mark.parametrize(
    ("name", "use"),
    [
        ("org/model", 'draw with it: generate "a lighthouse" -m org/model'),
        (
            "openai/clip-vit-base-patch32",
            'rank with it: rerank "a lighthouse" FOLDER -m openai/clip-vit-base-patch32',
        ),
    ],
)
def test_what_was_fetched_can_be_used_as_is_said(
    name: str,
    use: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    empty = hub.Repository(name, "main", "0" * 40, None, ())
    monkeypatch.setattr(hub, "look_up", lambda *_: empty)
    monkeypatch.setattr(hub, "pull", lambda *_: tmp_path)
    assert main(["--pull", name]) == 0
    assert capsys.readouterr().out.splitlines()[1] == use


@pytest.mark.fault("paths in rows")
def test_ids_of_rows_name_no_files(studio: Studio, out: Path) -> None:
    ids = ["../../x", "/tmp/x", "a/b", "CON", "x" * 300, ".", "a\\b"]
    rows = [json.dumps({"prompt": "a panda", "id": each, "seed": 1}) for each in ids]
    Path("rows.jsonl").write_text("\n".join(rows))
    before = {*os.listdir()}
    assert main(["-f", "rows.jsonl", "--candidates", "1", "-q"]) == 0
    with_one = {"0001-r1-1.png", "candidates", "manifest.jsonl", "sheet.png"}
    assert {*os.listdir(out)} == with_one  # they ask for the same, so it is drawn once
    assert {*os.listdir()} ^ before == {"outputs"}
