import csv
import io
import json
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from rerank import Reranker, WeightsError, cli
from rerank import output as output_module
from rerank.model import specs, towers

pytestmark = pytest.mark.slow


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Five noisy images, a text file and a hidden file."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "images"
    folder.mkdir()
    for name in ("a.png", "b.jpg", "c.webp", "d.gif", "e.PNG"):
        array = rng.integers(0, 256, (9, 9, 3), dtype=np.uint8)
        Image.fromarray(array).save(folder / name)
    (folder / "notes.txt").write_text("not an image")
    (folder / ".hidden.png").write_bytes(b"")
    return folder


@pytest.fixture
def rerank(
    reranker: Reranker, tiny_clip_folder: Path, capsys: pytest.CaptureFixture[str]
) -> "Command":
    return Command(tiny_clip_folder, capsys)


class Command:
    def __init__(self, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.model = model
        self.capsys = capsys

    def __call__(self, *arguments: object) -> tuple[int, str, list[str]]:
        """(exit code, standard output, lines on standard error) of the command."""
        try:
            code = cli.main([*map(str, arguments), "--model", str(self.model), "--device", "cpu"])
        except SystemExit as stopped:  # by argparse
            code = int(stopped.code or 0)
        output, errors = self.capsys.readouterr()
        assert "Traceback" not in errors
        return code, output, errors.splitlines()


def test_table(rerank: Command, folder: Path, reranker: Reranker) -> None:
    code, output, errors = rerank("a red panda", folder)
    assert (code, errors) == (0, [])
    files = sorted(folder.glob("[a-e].*"))
    expected = reranker.top_k("a red panda", files, 5)
    lines = [
        f"{i:4}  {ranked.score:+.4f}  {files[ranked.index]}"
        for i, ranked in enumerate(expected, start=1)
    ]
    assert output.splitlines() == lines


def test_json(rerank: Command, folder: Path) -> None:
    code, output, _ = rerank("a red panda", folder / "a.png", folder / "b.jpg", "--json")
    assert code == 0
    table = json.loads(output)
    assert table["prompt"] == "a red panda"
    assert table["model"] == rerank.model.name
    assert [result["rank"] for result in table["results"]] == [1, 2]
    assert table["results"][0]["score"] >= table["results"][1]["score"]
    assert {result["file"] for result in table["results"]} == {
        str(folder / "a.png"),
        str(folder / "b.jpg"),
    }
    assert table["failed"] == []


@pytest.mark.fault("damaged images", "folders to rank")
def test_one_bad_of_512(rerank: Command, tmp_path: Path) -> None:
    for i in range(511):
        Image.new("RGB", (8, 8), (i % 256, i // 256 * 99, 40)).save(tmp_path / f"{i:03}.png")
    (tmp_path / "300b.png").write_bytes((tmp_path / "300.png").read_bytes()[:50])
    code, output, errors = rerank("a red panda", tmp_path)
    assert code == 4
    assert len(output.splitlines()) == 511
    assert "300b.png" not in output
    assert len(errors) == 1
    assert errors[0].startswith(f"rerank: {tmp_path / '300b.png'} is left out: ")


def test_bad_ones_are_in_the_json(rerank: Command, folder: Path) -> None:
    (folder / "f.png").write_text("<svg/>")
    code, output, _ = rerank("a red panda", folder, folder / "missing.png", "--json")
    assert code == 4
    table = json.loads(output)
    assert len(table["results"]) == 5
    assert [(Path(each["file"]).name, each["reason"]) for each in table["failed"]] == [
        ("f.png", "not an image in one of PNG, JPEG, WEBP, GIF, BMP, TIFF, AVIF"),
        ("missing.png", "no such image file"),
    ]


def test_nothing_but_bad_ones(rerank: Command, folder: Path) -> None:
    code, output, errors = rerank("a red panda", folder / "notes.txt", folder / "missing.png")
    assert (code, output, len(errors)) == (2, "", 2)


@pytest.mark.fault("folders to rank")
def test_empty_folder(rerank: Command, tmp_path: Path) -> None:
    code, output, errors = rerank("a red panda", tmp_path)
    assert (code, output) == (2, "")
    assert errors == [
        f"rerank: {tmp_path}: no images (.avif, .bmp, .gif, .heic, .heif, .jfif, .jpe, .jpeg, "
        ".jpg, .png, .tif, .tiff, .webp) in this folder"
    ]


def test_top_k(rerank: Command, folder: Path) -> None:
    _, everything, _ = rerank("a red panda", folder)
    code, output, errors = rerank("a red panda", folder, "--top-k", 2)
    assert (code, errors) == (0, [])
    assert output.splitlines() == everything.splitlines()[:2]


@pytest.mark.fault("folders to rank")
def test_more_asked_for_than_there_are(rerank: Command, folder: Path) -> None:
    code, output, errors = rerank("a red panda", folder, "-k", 9)
    assert (code, len(output.splitlines())) == (0, 5)
    assert errors == ["rerank: 9 images were asked for, there are 5"]


@pytest.mark.parametrize("k", ["0", "-1", "x", "1.5", "²"])
@pytest.mark.fault("folders to rank")
def test_bad_k(rerank: Command, folder: Path, k: str) -> None:
    code, output, errors = rerank("a red panda", folder, f"--top-k={k}")
    assert (code, output) == (2, "")
    assert errors[-1].endswith(f"{k!r} is not a whole number of at least 1")


@pytest.mark.parametrize("prompt", ["", " \t"])
def test_empty_prompt(rerank: Command, folder: Path, prompt: str) -> None:
    code, _, errors = rerank(prompt, folder)
    assert code == 2
    assert errors[-1].endswith("the text is empty")


@pytest.mark.fault("folders to rank")
def test_equal_images_keep_their_order(rerank: Command, folder: Path) -> None:
    content = (folder / "a.png").read_bytes()
    copies = [folder / f"copy{i}.png" for i in range(7)]
    for copy in copies:
        copy.write_bytes(content)
    _, output, _ = rerank("a red panda", *copies, "--json")
    assert [each["file"] for each in json.loads(output)["results"]] == [*map(str, copies)]


def test_long_prompt_is_noted(rerank: Command, folder: Path, reranker: Reranker) -> None:
    code, _, errors = rerank("a red panda " * 20, folder)
    assert code == 0
    parts = len(reranker.chunks("a red panda " * 20))
    assert errors == [f"rerank: the prompt is longer than 32 tokens: it is scored in {parts} parts"]


@pytest.mark.fault("scores that are not finite")
def test_a_score_that_is_not_finite_is_an_error(
    rerank: Command, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = towers.image_features

    def first_fails(model: object, pixels: torch.Tensor) -> torch.Tensor:
        features = original(model, pixels)  # type: ignore[arg-type]
        features[0] = torch.nan
        return features

    monkeypatch.setattr(towers, "image_features", first_fails)
    code, output, errors = rerank("a red panda", folder)
    assert code == 4
    assert "a.png" not in output
    assert errors == [f"rerank: {folder / 'a.png'} is left out: the model gives no finite score"]


def test_missing_weights(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    gone = specs.Spec(name=specs.DEFAULT, folder=folder / "gone")
    monkeypatch.setitem(specs.SPECS, specs.DEFAULT, gone)
    assert cli.main(["a red panda", str(folder)]) == 3
    assert "install the package again" in capsys.readouterr().err


def test_bad_device(folder: Path, rerank: Command) -> None:
    code = cli.main(["a panda", str(folder), "-m", str(rerank.model), "--device", "tpu9"])
    assert code == 2
    assert rerank.capsys.readouterr().err == (
        "rerank: no device 'tpu9' here: use cpu, or cuda with a GPU\n"
    )


@pytest.mark.parametrize(
    ("error", "code"), [(KeyboardInterrupt, 130), (MemoryError, 5), (ZeroDivisionError, 1)]
)
def test_exit_codes(
    rerank: Command,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: type[BaseException],
    code: int,
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(cli, "list_files", fail)
    assert rerank("a red panda", folder)[0] == code


def test_debug_shows_where(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(WeightsError):
        cli.main(["a red panda", str(folder), "--model", str(tmp_path), "--debug"])


@pytest.mark.fault("odd surroundings")
def test_a_reader_that_leaves_early(folder: Path, tiny_clip_folder: Path) -> None:
    """`rerank … | true`; also that libraries add nothing to the command's output."""
    command = [sys.executable, "-m", "rerank", "a panda", str(folder), "-m", str(tiny_clip_folder)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.close()
    _, errors = process.communicate(timeout=120)
    assert (process.returncode, errors) == (0, b"")


# ---- what else can be asked for


def test_csv(rerank: Command, folder: Path) -> None:
    code, output, _ = rerank("a red panda", folder, "--csv", "--top-k", 2)
    _, table, _ = rerank("a red panda", folder, "--json", "--top-k", 2)
    assert code == 0
    rows = list(csv.DictReader(io.StringIO(output)))
    for row, result in zip(rows, json.loads(table)["results"], strict=True):
        assert {**row, "rank": int(row["rank"]), "score": float(row["score"])} == result


def test_copies_have_their_rank_in_front(rerank: Command, folder: Path, tmp_path: Path) -> None:
    code, output, _ = rerank("a red panda", folder, "-k", 3, "--copy-to", tmp_path / "best" / "few")
    assert code == 0
    files = [Path(line.split()[-1]) for line in output.splitlines()]
    copies = sorted((tmp_path / "best" / "few").iterdir())
    assert [copy.name for copy in copies] == [f"{i:02}-{f.name}" for i, f in enumerate(files, 1)]
    assert [copy.read_bytes() for copy in copies] == [file.read_bytes() for file in files]


def test_sheet(rerank: Command, folder: Path, tmp_path: Path) -> None:
    code, _, _ = rerank("a red panda", folder, "--claims", "--sheet", tmp_path / "sheet.png")
    assert code == 0
    with Image.open(tmp_path / "sheet.png") as page:
        assert min(page.size) > 400


def test_claims(rerank: Command, folder: Path, reranker: Reranker) -> None:
    prompt = "two red apples to the left of a cat at dusk"
    code, output, errors = rerank(prompt, folder / "a.png", "--claims")
    assert (code, errors) == (0, ["rerank: not checked: at dusk"])
    [checked] = reranker.check(prompt, [folder / "a.png"])
    marks = [f"{'✓' if v.holds else '✗'} {v.claim.text}" for v in checked.results]
    assert output.splitlines()[1].strip() == "  ".join(marks)
    _, output, _ = rerank(prompt, folder / "a.png", "--claims", "--json")
    table = json.loads(output)
    assert table["unsplit"] == ["at dusk"]
    assert table["results"][0]["fits_best"] == checked.corrected
    assert [row["holds"] for row in table["results"][0]["claims"]] == [
        verdict.holds for verdict in checked.results
    ]


def test_diversity(rerank: Command, folder: Path) -> None:
    (folder / "copy.png").write_bytes((folder / "a.png").read_bytes())
    code, output, _ = rerank("a red panda", folder, "--diversity", "0.01", "--json", "-k", 4)
    assert code == 0
    results = json.loads(output)["results"]
    groups = [{result["file"], *result.get("alike", [])} for result in results]
    assert any(group >= {str(folder / "copy.png"), str(folder / "a.png")} for group in groups)
    assert rerank("a red panda", folder, "--diversity", "2")[0] == 2


def test_templates(rerank: Command, folder: Path, reranker: Reranker) -> None:
    words = ["--template", "a {}", "--template", "the {} on the left"]
    _, output, _ = rerank("panda", folder / "a.png", *words, "--json")
    expected = reranker.score("panda", [folder / "a.png"], templates=words[1::2])
    assert json.loads(output)["results"][0]["score"] == pytest.approx(expected[0], abs=1e-6)
    assert rerank("panda", folder, "--template", "no place")[0] == 2


def test_calibrate_without_calibration(rerank: Command, folder: Path) -> None:
    code, _, errors = rerank("a red panda", folder, "--calibrate")
    assert code == 3
    assert "rerank calibrate" in errors[0]


def test_a_calibration_from_captions(rerank: Command, damaged: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = []
    for number in range(30):
        array = rng.integers(0, 256, (9, 9, 3), dtype=np.uint8)
        Image.fromarray(array).save(tmp_path / f"{number}.png")
        caption = f"a {('red', 'blue')[number % 2]} {('panda', 'apple', 'balloon')[number % 3]}"
        rows.append({"file": f"{number}.png", "caption": caption})
    captions = tmp_path / "captions.jsonl"
    captions.write_text("".join(json.dumps(row) + "\n" for row in rows))
    rerank.model = damaged
    code, output, errors = rerank("calibrate", captions)
    assert (code, errors) == (0, [])
    assert output.startswith(f"{damaged / 'calibration.json'}: on 18 pairs held out")
    code, output, errors = rerank("a red panda", tmp_path / "1.png", "--calibrate", "--json")
    assert code == 0
    table = json.loads(output)
    assert 0 <= table["results"][0]["probability"] <= 1
    assert table["none_matches"] == (table["results"][0]["probability"] < 0.5)
    assert errors == ["rerank: none of these matches the prompt"] * table["none_matches"]


def test_several_models(rerank: Command, folder: Path, damaged: Path) -> None:
    code, output, _ = rerank("a red panda", folder, "-m", f"{damaged}=0.5", "--json")
    assert code == 0
    table = json.loads(output)
    assert table["model"] == f"{damaged.name} + {rerank.model.name}"
    assert set(table["results"][0]["parts"]) == {damaged.name, rerank.model.name}
    assert rerank("a red panda", folder, "-m", damaged, "--claims")[0] == 2
    assert rerank("a red panda", folder, "-m", f"{damaged}=0")[0] == 2


def test_classify(rerank: Command, folder: Path, reranker: Reranker) -> None:
    labels = ["--label", "a panda", "--label", "an apple"]
    (folder / "f.png").write_bytes(b"")
    code, output, errors = rerank("classify", folder, *labels)
    assert code == 4
    assert len(output.splitlines()) == 5
    assert errors[0].startswith(f"rerank: {folder / 'f.png'} is left out")
    code, output, _ = rerank("classify", folder / "a.png", *labels, "--json")
    [expected] = reranker.classify([folder / "a.png"], labels[1::2])
    [result] = json.loads(output)["results"]
    assert result["probabilities"] == pytest.approx(expected, abs=1e-6)
    assert result["label"] == max(expected, key=lambda label: expected[label])
    assert rerank("classify", folder, "--label", "x", "--label", "x")[0] == 2


def test_index_and_search(rerank: Command, folder: Path, reranker: Reranker) -> None:
    assert rerank("search", "a red panda", folder)[0] == 2
    code, output, _ = rerank("index", folder)
    assert (code, output) == (0, "5 images: 5 read, 0 there already, 0 forgotten\n")
    code, output, errors = rerank("search", "a red panda", folder, "-k", 2)
    assert (code, errors) == (0, [])
    files = sorted(folder.glob("[a-e].*"))
    expected = [str(files[each.index]) for each in reranker.top_k("a red panda", files, 2)]
    assert [line.split()[-1] for line in output.splitlines()] == expected
    _, output, _ = rerank("search", folder, "--like", folder / "c.webp", "-k", 1, "--json")
    assert json.loads(output)["results"][0]["file"] == str(folder / "c.webp")
    (folder / "a.png").unlink()
    code, output, errors = rerank("search", "a red panda", folder)
    assert "a.png  (changed or removed since)" in output
    assert errors == [
        f"rerank: 1 images are new, changed or gone: `rerank index {folder}` brings the index up "
        "to date"
    ]
    assert rerank("search", folder)[0] == 2
    assert rerank("search", "x", folder, "--like", folder / "b.jpg")[0] == 2


def test_a_prompt_that_is_a_command(rerank: Command, folder: Path) -> None:
    code, output, _ = rerank("rank", "search", folder, "--json")
    assert code == 0
    assert json.loads(output)["prompt"] == "search"


@pytest.mark.parametrize("command", ["rank", "classify", "index", "search", "calibrate"])
def test_help(rerank: Command, command: str) -> None:
    code = 0
    try:
        cli.main([command, "--help"])
    except SystemExit as stopped:
        code = int(stopped.code or 0)
    assert code == 0
    assert "--device" in rerank.capsys.readouterr().out


# ---- what people's folders and words are like


@pytest.mark.parametrize(
    "words", [["{}"], ["classify", "--label", "{}"], ["a", "--template", "{}"]]
)
def test_text_that_is_not_utf8(rerank: Command, folder: Path, words: list[str]) -> None:
    bad = os.fsdecode(b"caf\xe9 {}")
    code, output, errors = rerank(*(word.replace("{}", bad) for word in words), folder)
    assert (code, output, len(errors)) == (2, "", 1)
    assert "is not UTF-8" in errors[0]


def test_half_a_pair_in_captions_is_no_traceback(rerank: Command, folder: Path) -> None:
    rows = [{"file": "a.png", "caption": f"a \ud800 {number}"} for number in range(40)]
    (folder / "c.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    code, _, errors = rerank("calibrate", folder / "c.jsonl", "-o", folder / "c.json")
    assert code == 2
    assert "c.jsonl:1: not like" in errors[0]


def test_captions_with_a_byte_order_mark(rerank: Command, folder: Path) -> None:
    (folder / "c.jsonl").write_bytes(b'\xef\xbb\xbf{"file": "a.png", "caption": "a"}\n')
    code, _, errors = rerank("calibrate", folder / "c.jsonl", "-o", folder / "c.json")
    assert (code, errors) == (
        2,
        ["rerank: a calibration takes 40 pairs or more, right ones and wrong ones"],
    )


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["a", ".", "--calibate"], "no option '--calibate' (did you mean --calibrate?)"),
        (["classify", "a.png", "--label", "x", "--templte", "y"], "did you mean --template?"),
        (["a"], "the following arguments are required: IMAGE|FOLDER"),
        (["a", ".", "--csv", "--json"], "not allowed with argument --csv"),
    ],
)
def test_wrong_words_are_one_line(rerank: Command, words: list[str], said: str) -> None:
    code, output, errors = rerank(*words)
    assert (code, output, len(errors)) == (2, "", 1)
    assert said in errors[0]


def test_what_is_not_read_is_counted(rerank: Command, folder: Path) -> None:
    for name in ("a.svg", "b.svg", "c.NEF", "d.jfif", "notes.md"):
        (folder / name).write_bytes((folder / "b.jpg").read_bytes())
    code, output, errors = rerank("a red panda", folder)
    assert (code, len(output.splitlines())) == (0, 6)
    assert errors == [f"rerank: {folder}: not read: 1 .nef, 2 .svg"]


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp"])
def test_contact_sheets_are_not_ranked(rerank: Command, folder: Path, suffix: str) -> None:
    for _ in range(2):
        code, output, _ = rerank("a red panda", folder, "--sheet", folder / f"page{suffix}")
        assert (code, len(output.splitlines())) == (0, 5)
    (folder / "manifest.jsonl").write_text("")
    Image.new("RGB", (9, 9)).save(folder / "sheet.png")  # as earlier versions drew it
    assert len(rerank("a red panda", folder)[1].splitlines()) == 5


def test_a_contact_sheet_of_many_pages(
    rerank: Command, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rerank.contact_sheet.PAGE_ROWS", 1)
    for number in range(13):
        Image.new("RGB", (9, 9), (number, 0, 0)).save(folder / f"{number}.png")
    code, _, errors = rerank("a red panda", folder, "--sheet", folder.parent / "s.webp")
    pages = sorted(folder.parent.glob("s*.webp"))
    assert (code, [page.name for page in pages]) == (0, ["s-2.webp", "s-3.webp", "s.webp"])
    assert errors == [f"rerank: the contact sheet takes 3 pages, up to {folder.parent}/s-3.webp"]


def test_outputs_are_checked_before_the_work(
    rerank: Command, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli, "_score", lambda *_: pytest.fail("images were read"))
    (tmp_path / "file").write_text("")
    for words in (
        ["--sheet", tmp_path / "s.xyz"],
        ["--sheet", tmp_path / "file" / "s.png"],
        ["--sheet", folder],
        ["--copy-to", folder],
        ["--copy-to", tmp_path / "file"],
    ):
        code, output, errors = rerank("a red panda", folder, *words)
        assert (code, output, len(errors)) == (2, "", 1)


def test_copies_with_long_names_and_of_files_that_went(
    rerank: Command, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "a.png").rename(folder / ("é" * 125 + ".png"))
    gone = folder / "b.jpg"
    draw = output_module.copy
    monkeypatch.setattr(output_module, "copy", lambda *a: (gone.unlink(), draw(*a))[1])
    code, _, errors = rerank("a red panda", folder, "--copy-to", tmp_path / "best")
    names = [path.name for path in (tmp_path / "best").iterdir()]
    assert code == 4
    assert errors == [f"rerank: {gone} is not copied: No such file or directory"]
    assert len(names) == 4
    [long] = [name for name in names if "é" in name]
    assert len(os.fsencode(long)) <= 255
    assert long.endswith("é.png")


# ---- full disks and closed pipes


@contextmanager
def full_beyond(size: int) -> Iterator[None]:
    """No file can grow beyond so many bytes: the kernel refuses what is written, as on a full
    disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("what", ["copy", "sheet", "index", "calibrate"])
@pytest.mark.fault("a full disk")
def test_a_full_disk_leaves_nothing_half(
    rerank: Command, folder: Path, tmp_path: Path, what: str
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    rng = np.random.default_rng(0)
    for number in range(40):
        pixels = rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    rows = [
        {"file": f"{number}.png", "caption": f"a {('red', 'blue')[number % 2]} apple {number}"}
        for number in range(40)
    ]
    (folder / "c.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = {
        "copy": ["a", folder, "--copy-to", out],
        "sheet": ["a", folder, "--sheet", out / "s.png"],
        "index": ["index", folder, "--index", out],
        "calibrate": ["calibrate", folder / "c.jsonl", "-o", out / "c.json"],
    }[what]
    with full_beyond(1024):
        code, _, errors = rerank(*words)
    assert (code, len(errors)) == (5, 1)
    assert errors[0].startswith(f"rerank: cannot write {out}")
    left = [path.name for path in out.iterdir() if path.name != "lock"]
    assert all(path.startswith("0") for path in left) if what == "copy" else left == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
@pytest.mark.parametrize("form", [[], ["--json"], ["--csv"]])
@pytest.mark.fault("a full disk")
def test_standard_output_on_a_full_disk(
    rerank: Command, folder: Path, form: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        code, _, errors = rerank("a", folder, *form)
    assert (code, errors) == (
        5,
        [
            "rerank: cannot write standard output: No space left on device: make room and run it "
            "again"
        ],
    )


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_notes_that_nobody_can_read_stop_nothing(
    rerank: Command, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "bad.png").write_bytes(b"")
    read, write = os.pipe()
    os.close(read)
    with open("/dev/full", "w") as full, open(write, "w") as pipe:
        monkeypatch.setattr(sys, "stdout", pipe)
        monkeypatch.setattr(sys, "stderr", full)
        assert rerank("a", folder, "--copy-to", tmp_path / "best")[0] == 4
    for stream in ("stdout", "stderr"):  # closed, as by >&-
        monkeypatch.setattr(sys, stream, None)
    assert rerank("a", folder, "--copy-to", tmp_path / "best")[0] == 4
    assert len(list((tmp_path / "best").iterdir())) == 5
