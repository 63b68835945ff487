"""A run folder: names, resuming, and what a kill at any moment leaves."""

import io
import json
import os
import random
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fake_models
import pytest
from fake_models import Studio
from image_files import pixels_of
from PIL import Image
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile

from gen import metadata
from gen.cli import main
from gen.engine import Engine
from gen.errors import InputError
from gen.events import Cancel
from gen.metadata import Metadata
from gen.plan import Plan, resolve
from gen.result import Result
from gen.run_folder import events
from gen.run_folder import folder as run_folder
from gen.run_folder.fold import fold
from gen.run_folder.folder import Job, RunFolder
from gen.run_folder.history import History
from gen.run_folder.saving import Export
from gen.settings.request import Request

COMMAND = ["a panda", "--candidates", "6", "--top-k", "2", "--seed", "5", "--batch-size", "2", "-q"]


def draw(request: Request, path: Path, export: Export | None = None, keep: str = "all") -> int:
    """Draw a prompt into a folder; how many pictures were made now."""
    with RunFolder(path, export, keep) as folder:
        return Engine(batch_size=2).draw(resolve(request), folder).drawn


def names(path: Path) -> list[str]:
    return sorted(p.relative_to(path).as_posix() for p in path.rglob("*") if p.is_file())


def snapshot(path: Path) -> dict[str, tuple[bytes, int]]:
    return {n: ((path / n).read_bytes(), (path / n).stat().st_mtime_ns) for n in names(path)}


@pytest.mark.usefixtures("studio")
def test_the_best_lie_on_top_and_the_others_below(tmp_path: Path) -> None:
    draw(Request("a panda", seed=5, candidates=4, top_k=2), tmp_path)
    draw(Request("a cat", seed=5, candidates=2, top_k=1), tmp_path)
    found = names(tmp_path)
    assert sum(name.startswith("0001-") for name in found) == 2
    assert sum(name.startswith("candidates/0001-") for name in found) == 2
    assert sum("0002-" in name for name in found) == 2
    for name in found:
        if name.endswith(".png"):
            record = metadata.read(tmp_path / name)
            expected = fake_models.picture(record.request.prompt, int(record.request.seed or 0))
            assert record.score == fake_models.score(expected)
            assert (f"-r{record.rank}-" in name) == (not name.startswith("candidates/"))


def test_only_the_best_are_kept_if_that_is_wished(studio: Studio, tmp_path: Path) -> None:
    request = Request("a panda", seed=5, candidates=4, top_k=2)
    assert draw(request, tmp_path, keep="top") == 4
    assert len(list(tmp_path.rglob("*.png"))) == 2
    assert draw(request, tmp_path, keep="top") == 0
    assert len(studio.pipeline.drawn) == 4
    assert draw(request, tmp_path) == 2  # now all are wished for
    assert len(list(tmp_path.rglob("*.png"))) == 4
    assert draw(request, tmp_path) == 0


def test_what_is_not_the_best_stays_until_all_are_made(studio: Studio, tmp_path: Path) -> None:
    cancel = Cancel()
    studio.pipeline.on_step = lambda draft: cancel.stop() if 7 in draft.seeds else None
    request = Request("a panda", seed=5, candidates=4, top_k=1)
    with RunFolder(tmp_path, keep="top") as folder:
        Engine(batch_size=2).draw(resolve(request), folder, cancel=cancel)
    assert len(list(tmp_path.rglob("*.png"))) == 2
    assert draw(request, tmp_path, keep="top") == 2
    assert len(list(tmp_path.rglob("*.png"))) == 1


@pytest.mark.parametrize(
    "export",
    [Export(), Export("jpeg"), Export("webp"), Export("png", strip_metadata=True)],
)
def test_the_same_command_again_changes_nothing(
    studio: Studio, tmp_path: Path, export: Export
) -> None:
    request = Request("a panda", seed=5, candidates=4, top_k=2)
    assert draw(request, tmp_path, export) == 4
    before = snapshot(tmp_path)
    assert draw(request, tmp_path, export) == 0
    assert snapshot(tmp_path) == before


@pytest.mark.fault("the same command twice")
def test_another_kind_of_file_or_other_weights_are_another_job(
    studio: Studio, tmp_path: Path
) -> None:
    request = Request("a panda", seed=5, candidates=2, top_k=1)
    draw(request, tmp_path)
    before = snapshot(tmp_path)
    assert draw(request, tmp_path, Export("jpeg")) == 2
    (studio.folder / "fake" / "weights.safetensors").write_bytes(b"better")
    assert draw(request, tmp_path) == 2
    after = snapshot(tmp_path)
    changed = {name for name in before if after[name] != before[name]}
    assert changed == {"manifest.jsonl"}


def test_a_image_that_was_removed_is_made_again(studio: Studio, tmp_path: Path) -> None:
    request = Request("a panda", seed=5, candidates=4, top_k=2)
    draw(request, tmp_path)
    before = {name: data for name, (data, _) in snapshot(tmp_path).items()}
    next(tmp_path.glob("*-r1-*.png")).unlink()
    next(tmp_path.glob("candidates/*.png")).unlink()
    assert draw(request, tmp_path) == 2
    after = {name: data for name, (data, _) in snapshot(tmp_path).items()}
    assert {**before, "manifest.jsonl": b""} == {**after, "manifest.jsonl": b""}


def test_names_sort_by_rank(studio: Studio, tmp_path: Path) -> None:
    draw(Request("a panda", seed=5, candidates=12, top_k=11), tmp_path)
    best = sorted(tmp_path.glob("0001-*.png"))
    assert [metadata.read(path).rank for path in best] == list(range(1, 12))


def test_a_folder_of_an_older_version_is_read(studio: Studio, tmp_path: Path) -> None:
    """There the best were named 0001-5-r1.png."""
    request = Request("a panda", seed=5, candidates=4, top_k=2)
    draw(request, tmp_path)
    for path in tmp_path.glob("0001-*.png"):
        path.rename(path.with_name(re.sub(r"-(r\d)-(\d+)", r"-\2-\1", path.name)))
    manifest = tmp_path / "manifest.jsonl"
    manifest.write_text(re.sub(r'"0001-(r\d)-(\d+)', r'"0001-\2-\1', manifest.read_text()))
    before = snapshot(tmp_path)
    assert draw(request, tmp_path) == 0
    assert snapshot(tmp_path) == before
    [prompt] = fold(map(events.from_json, map(json.loads, manifest.open()))).prompts.values()
    assert sorted(prompt.images, key=lambda i: i.rank or 9)[0].file.endswith("-r1.png")
    next(tmp_path.glob("*-r1.png")).unlink()
    assert draw(request, tmp_path) == 1
    assert {"r1", "r2"} == {path.name.split("-")[1] for path in tmp_path.glob("0001-*.png")}


def test_files_of_unknown_origin_are_not_touched(studio: Studio, tmp_path: Path) -> None:
    foreign = tmp_path / "0007-r1-5.png"
    foreign.write_bytes(b"not ours")
    draw(Request("a panda", seed=5, candidates=1), tmp_path)
    assert foreign.read_bytes() == b"not ours"
    assert (tmp_path / "0008-r1-5.png").exists()


def test_an_unfinished_run_without_a_seed_is_finished_with_its_own(
    studio: Studio,
    tmp_path: Path,
    generate_in_fork: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ["a panda", "a cat", "--candidates", "4", "-o", str(tmp_path / "out")]

    def kill_in_the_second_prompt() -> None:
        studio.pipeline.on_step = lambda draft: (
            os.kill(os.getpid(), signal.SIGKILL) if draft.prompt == "a cat" else None
        )

    assert generate_in_fork(words, kill_in_the_second_prompt) == -signal.SIGKILL
    assert main(words) == 0
    said = capsys.readouterr()
    assert "finishing the run" in said.err
    assert len(studio.pipeline.drawn) == 4  # here, that is: the second prompt's
    seeds = {Path(name).stem.split("-")[2] for name in names(tmp_path / "out") if "-r1-" in name}
    first = min(studio.pipeline.drawn)
    assert f"seed {first}" in said.err
    assert all(first <= int(seed) < first + 4 for seed in seeds)

    assert main(words) == 0  # it was finished, so this is a new run
    assert min(studio.pipeline.drawn[4:]) != first
    assert main([*words, "--seed", "-1"]) == 0
    assert len(list((tmp_path / "out").glob("*-r1-*.png"))) == 6


@pytest.mark.fault("output folders")
def test_a_folder_that_cannot_be_one(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    for bad, said in {
        tmp_path / "file": "File exists|Not a directory",
        tmp_path / "file" / "below": "Not a directory",
        tmp_path / "link": "symbolic link",
        Path("/proc/outputs"): "cannot save to",
    }.items():
        with pytest.raises(InputError, match=said) as caught:
            RunFolder(bad)
        assert str(bad) in str(caught.value)
    assert os.listdir(tmp_path / "elsewhere") == []


@pytest.mark.fault("output folders")
def test_links_inside_the_folder_lead_nowhere(studio: Studio, tmp_path: Path) -> None:
    out, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    out.mkdir()
    elsewhere.mkdir()
    (out / "candidates").symlink_to(elsewhere)
    with pytest.raises(InputError, match="symbolic link"):
        RunFolder(out)
    (out / "candidates").unlink()
    (out / "manifest.jsonl").symlink_to(elsewhere / "manifest.jsonl")
    with pytest.raises(InputError, match="cannot save to"):
        RunFolder(out)
    assert os.listdir(elsewhere) == []


@pytest.mark.parametrize(
    ("event", "change"),
    [
        ("picture", {"seed": None}),
        ("picture", {"seed": 99}),
        ("picture", {"file": "/etc/passwd"}),
        ("picture", {"file": "candidates/../../0001-5.png"}),
        ("ranked", {"pictures": [{"seed": 5, "rank": 1, "to": "../0001-r1-5.png"}]}),
        ("judged", {"scores": 3}),
        ("judged", {"scores": {"5": float("inf")}}),
        ("picture", {"score": "high"}),
        ("picture", {"seed": float("inf")}),
        ("ranked", {"pictures": [{"seed": 5, "rank": "1", "file": "x", "to": None}]}),
        ("prompt", {"key": ["a"]}),
        ("prompt", {"request": {"prompt": "a panda", "seed": float("inf")}}),
        ("prompt", {"number": 10**30}),
    ],
)
def test_a_line_that_somebody_edited_is_set_aside_and_everything_else_goes_on(
    event: str, change: dict[str, object], studio: Studio, tmp_path: Path
) -> None:
    request = Request("a panda", seed=5, candidates=1)
    draw(request, tmp_path)
    path = tmp_path / "manifest.jsonl"
    records = [json.loads(line) for line in path.read_text().splitlines()]
    next(record for record in records if record["event"] == event).update(change)
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    assert draw(request, tmp_path) <= 1  # what the line was about, and no more
    with Image.open(tmp_path / "0001-r1-5.png") as image:
        image.load()
    with RunFolder(tmp_path) as folder:
        assert folder.notes == []  # it was named once
    assert draw(request, tmp_path) == 0


PARTS = {"clip": 0.25, "aesthetic": 5.5}
EXPORTS = [
    Export(),
    Export("jpeg"),
    Export("webp"),
    Export("webp", strip_metadata=True),
]


def three_saved(folder: RunFolder, plan: Plan) -> tuple[Job, list[Result]]:
    """Save a prompt's images by hand."""
    job = folder.job(plan, {})
    results = []
    for place, candidate in enumerate(plan.candidates()):
        image = fake_models.picture("a panda", candidate.seed)
        results.append(folder.save(job, candidate, image, Metadata(candidate.request)))
        results[-1].score, results[-1].rank = 0.5 - place / 8, place + 1
    folder.note_scores(job, results)
    return job, results


PLAN_REQUEST = Request("a panda", seed=5, candidates=3, top_k=2)


@pytest.mark.usefixtures("studio")
@pytest.mark.parametrize("export", EXPORTS, ids=str)
def test_ranking_neither_decodes_nor_encodes(
    export: Export, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = resolve(PLAN_REQUEST)
    with RunFolder(tmp_path, export) as folder:
        job, results = three_saved(folder, plan)
        before = [pixels_of(export.format, result.path) for result in results]
        with monkeypatch.context() as patched:

            def never(*_: object, **__: object) -> None:
                raise AssertionError("pixels were touched")

            for touching in (ImageFile, PngImageFile, JpegImageFile, WebPImageFile):
                patched.setattr(touching, "load", never)
            patched.setattr(Image.Image, "save", never)
            folder.place(job, results, plan)
        assert [pixels_of(export.format, result.path) for result in results] == before
    for result in results:
        assert result.path is not None
        assert f"-r{result.rank}-" in result.path.name or result.rank == 3
        if not export.strip_metadata:
            record = metadata.read(result.path)
            assert (record.rank, record.score) == (result.rank, result.score)
            assert record.request == result.request


@pytest.mark.usefixtures("studio")
@pytest.mark.parametrize("kind", ["png", "jpeg", "webp"])
@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_an_image_that_is_damaged_before_its_ranking_is_made_again(
    kind: str, share: float, tmp_path: Path
) -> None:
    plan = resolve(PLAN_REQUEST)
    with RunFolder(tmp_path, Export(kind)) as folder:
        job, results = three_saved(folder, plan)
        broken = results[0].path
        assert broken is not None
        data = broken.read_bytes()
        broken.write_bytes(data[: int(share * len(data))])
        folder.place(job, results, plan)
        assert results[0].path is None
        assert all(result.path is not None for result in results[1:])
        again = folder.job(plan, {})
    assert not again.finished
    assert results[0].seed not in again.results
    assert again.results.keys() == {result.seed for result in results[1:]}


@pytest.mark.usefixtures("studio")
def test_parts_of_scores_are_kept_everywhere(tmp_path: Path) -> None:
    plan = resolve(PLAN_REQUEST)
    with RunFolder(tmp_path) as folder:
        job, results = three_saved(folder, plan)
        for result in results:
            result.scores = PARTS
        folder.note_scores(job, results)
        scored = folder.job(plan, {})
        assert [result.scores for result in scored.results.values()] == [PARTS] * 3
        folder.place(job, results, plan)
    with RunFolder(tmp_path) as folder:
        again = folder.job(plan, {})
    history = History(tmp_path)
    history.refresh()
    prompt = history.find(job.number)
    assert prompt is not None
    assert [image.scores for image in prompt.images] == [PARTS] * 3
    assert again.finished
    for result in again.results.values():
        assert result.path is not None
        assert metadata.read(result.path).scores == result.to_json()["scores"] == PARTS


@pytest.mark.usefixtures("studio")
def test_nothing_tells_of_parts_where_there_is_one_scorer(tmp_path: Path) -> None:
    draw(PLAN_REQUEST, tmp_path)
    for line in _records(tmp_path):
        assert "parts" not in line
        assert all("scores" not in image for image in line.get("pictures", []))
        assert line["event"] == "judged" or "scores" not in line
    for path in tmp_path.rglob("*.png"):
        assert "scores" not in metadata.read(path).to_json()


@pytest.mark.usefixtures("studio")
def test_lines_of_a_newer_version_are_passed_over(tmp_path: Path) -> None:
    request = Request("a panda", seed=5, candidates=2, top_k=1)
    draw(request, tmp_path)
    with (tmp_path / "manifest.jsonl").open("a") as file:
        file.write('{"event": "painted", "number": 1, "colour": "red"}\n')
    assert draw(request, tmp_path) == 0


@pytest.mark.usefixtures("studio")
@pytest.mark.parametrize(
    "line",
    [
        '{"event": "picture", "number": []}',
        '{"event": "prompt", "number": "x", "key": "y"}',
        '{"event": "run", "fingerprint": [], "seed": "many"}',
        '{"event": "compared", "comparison": "one"}',
        "{}",
    ],
)
def test_damaged_lines_about_no_prompt_cost_nothing(line: str, tmp_path: Path) -> None:
    request = Request("a panda", seed=5, candidates=2, top_k=1)
    draw(request, tmp_path)
    with (tmp_path / "manifest.jsonl").open("a") as file:
        file.write(line + "\n")
    assert draw(request, tmp_path) == 0


class Killer:
    """Ends the process without a word at the n-th operation on the disk, some of them half done."""

    def __init__(self, fatal: int | None) -> None:
        self.fatal = fatal
        self.count = 0
        self.write, self.replace = os.write, os.replace
        self.fsync, self.unlink = os.fsync, Path.unlink

    def install(self) -> None:
        os.write = self.writing
        os.replace = lambda *names: self.before(self.replace, *names)
        os.fsync = lambda file: self.before(self.fsync, file)
        run_folder.Path.unlink = lambda path, missing_ok=False: self.before(  # type: ignore
            self.unlink, path, missing_ok
        )

    def tick(self) -> bool:
        self.count += 1
        return self.count == self.fatal

    def before(self, operation: Callable[..., None], *facts: object) -> None:
        if self.tick():
            os.kill(os.getpid(), signal.SIGKILL)
        operation(*facts)

    def writing(self, file: int, data: bytes) -> int:
        if self.tick():
            self.write(file, data[: len(data) // 2])
            os.kill(os.getpid(), signal.SIGKILL)
        return self.write(file, data)


@pytest.mark.slow
@pytest.mark.fault("kill -9")
def test_a_kill_at_any_moment_loses_nothing_that_was_finished(
    studio: Studio, tmp_path: Path, generate_in_fork: Callable[..., int]
) -> None:
    calm = tmp_path / "calm"
    counter = Killer(None)

    def count_operations() -> None:
        counter.install()
        main([*COMMAND, "-o", str(calm)])
        (tmp_path / "count").write_text(str(counter.count))

    generate_in_fork(["--version"], count_operations)
    expected = names(calm)
    operations = int((tmp_path / "count").read_text())
    assert operations > 30

    for fatal in sorted(random.Random(0).sample(range(1, operations + 1), 20)):
        out = tmp_path / f"killed-{fatal}"
        words = [*COMMAND, "-o", str(out)]
        assert generate_in_fork(words, Killer(fatal).install) == -signal.SIGKILL
        saved = [line for line in _records(out) if line["event"] == "picture"]
        whole = {p.name for p in out.rglob("[0-9]*.png")}
        for name in whole:
            metadata.read(next(out.rglob(name)))

        before = len(studio.pipeline.drawn)
        assert main(words) == 0
        assert names(out) == expected
        assert not list(out.rglob("*.tmp"))
        assert len(studio.pipeline.drawn) - before == 6 - len(saved)
        for path in out.rglob("[0-9]*.png"):
            assert path.read_bytes() == (calm / path.relative_to(out)).read_bytes()


def _records(out: Path) -> list[dict[str, Any]]:
    path = out / "manifest.jsonl"
    lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
    return [json.loads(line) for line in lines]


def test_no_image_of_thousands_of_scans_is_decoded(tmp_path: Path) -> None:
    """Somebody put it into the folder, in the place of one of ours."""
    out = io.BytesIO()
    Image.new("RGB", (64, 64)).save(out, "jpeg", progressive=True)
    data = out.getvalue()
    scan = data[data.rindex(b"\xff\xda") : -2]
    path = tmp_path / "0001-r1-5.png"
    path.write_bytes(data)
    assert Result(Request("a panda", seed=5), path=path).open() is not None
    path.write_bytes(data[:-2] + scan * 3000 + data[-2:])
    assert Result(Request("a panda", seed=5), path=path).open() is None
    with pytest.raises(InputError, match="3010 scans; at most 64"):
        resolve(Request("a panda", init_image=str(path)))
