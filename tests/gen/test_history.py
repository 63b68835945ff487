from pathlib import Path

import fake_models
import pytest

from gen.engine import Engine
from gen.plan import resolve
from gen.run_folder.events import Axis, Comparison
from gen.run_folder.folder import RunFolder
from gen.run_folder.history import History
from gen.settings.request import Request


@pytest.fixture
def fakes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> fake_models.Studio:
    return fake_models.Studio(tmp_path, monkeypatch.setattr, monkeypatch.setitem)


@pytest.fixture
def folder(tmp_path: Path, fakes: fake_models.Studio):
    with RunFolder(tmp_path / "out") as folder:
        yield folder


def draw(folder: RunFolder, prompt: str = "a panda", seed: int = 2**60, top_k: int = 2):
    request = Request(prompt, seed=seed, candidates=5, top_k=top_k)
    return Engine().draw(resolve(request), folder)


def test_history_tells_what_the_engine_told(folder: RunFolder) -> None:
    history = History(folder.path)
    first, second = draw(folder), draw(folder, "a fox", seed=0, top_k=1)
    folder.note_matches(first.number, {first.best[0].seed: 0.75})

    history.refresh()
    prompts = history.prompts()
    assert [prompt.request.prompt for prompt in prompts] == ["a fox", "a panda"]
    prompt = history.find(first.number)
    assert [(p.seed, p.rank, p.score) for p in prompt.best] == [
        (r.seed, r.rank, r.score) for r in first.best
    ]
    assert [p.seed for p in prompt.rest] == [r.seed for r in first.rest]
    assert [p.match for p in prompt.best] == [0.75, None]
    assert [history.path(p) for p in prompt.images] == [r.path for r in first.best + first.rest]
    assert len(prompts[0].best) == len(second.best) == 1


def test_a_restarted_history_is_the_one_that_read_along(folder: RunFolder) -> None:
    along = History(folder.path)
    for seed in range(3):
        draw(folder, seed=seed * 10)
        along.refresh()
    anew = History(folder.path)
    anew.refresh()
    assert anew.prompts() == along.prompts()


def test_what_is_deleted_comes_back(folder: RunFolder) -> None:
    outcome = draw(folder)
    history = History(folder.path)
    history.refresh()
    gone = history.find(outcome.number).best[0]
    data = history.path(gone).read_bytes()

    files = {outcome.number: {gone.seed: gone.file}}
    folder.delete(files)
    history.refresh()
    assert history.find(outcome.number).find(gone.seed) is None
    assert not (folder.path / gone.file).exists()

    folder.restore(files)
    history.refresh()
    assert history.deletions() == []
    assert history.path(history.find(outcome.number).best[0]).read_bytes() == data


def test_deletions_are_known_after_a_restart_and_undone_one_by_one(
    tmp_path: Path, fakes: fake_models.Studio
) -> None:
    with RunFolder(tmp_path / "out") as folder:
        first, second = draw(folder), draw(folder, "a fox", seed=0)
        everything = sorted(path.name for path in folder.path.rglob("*.png"))
        both = {o.number: {r.seed: r.path.name for r in o.best} for o in (first, second)}
        folder.delete(both)
        rest = {second.number: {r.seed: f"candidates/{r.path.name}" for r in second.rest}}
        folder.delete(rest)
    with RunFolder(tmp_path / "out") as folder:
        history = History(folder.path)
        history.refresh()
        assert [prompt.number for prompt in history.prompts()] == [first.number]
        assert [deletion.files for deletion in history.deletions()] == [both, rest]
        folder.restore(history.deletions()[-1].files)
        folder.restore(history.deletions()[0].files)
        history.refresh()
    assert history.deletions() == []
    anew = History(folder.path)
    anew.refresh()
    assert anew.prompts() == history.prompts()
    assert all(anew.path(p) is not None for prompt in anew.prompts() for p in prompt.images)
    assert sorted(path.name for path in folder.path.rglob("*.png")) == everything


def test_what_is_deleted_again_after_it_was_drawn_again(folder: RunFolder) -> None:
    outcome = draw(folder)
    best = outcome.best[0]
    files = {outcome.number: {best.seed: best.path.name}}
    folder.delete(files)
    draw(folder)
    folder.delete(files)
    history = History(folder.path)
    history.refresh()
    assert history.find(outcome.number).find(best.seed) is None
    assert not best.path.exists()
    for deletion in reversed(history.deletions()):
        folder.restore(deletion.files)
    history.refresh()
    assert history.path(history.find(outcome.number).find(best.seed)) == best.path
    assert history.deletions() == []
    assert list((folder.path / "deleted").iterdir()) == []


def test_undoing_after_it_was_drawn_again_and_ranked_otherwise(folder: RunFolder) -> None:
    outcome = draw(folder)
    best = outcome.best[0]
    folder.delete({outcome.number: {best.seed: best.path.name}})
    draw(folder)
    aside = folder.path / "deleted" / best.path.name
    aside = aside.rename(aside.with_name(best.path.name.replace("-r1", "-r2")))
    before = sorted(path.name for path in folder.path.glob("*.png"))
    folder.restore({outcome.number: {best.seed: aside.name}})
    assert sorted(path.name for path in folder.path.glob("*.png")) == before
    assert not aside.exists()


def test_a_comparison_is_one_entry_in_place_of_its_cells(folder: RunFolder) -> None:
    across, down = Axis("guidance", (1.0, 3.0)), Axis("steps", (5,))
    before, first, second = draw(folder, seed=1), draw(folder, seed=2), draw(folder, seed=3)
    numbers = first.number, second.number

    def note(comparison: int, count: int) -> None:
        folder.note_comparison(comparison, across, down, numbers[:count])

    assert folder.begin_comparison() == 1
    history = History(folder.path)
    for count in (1, 2):
        note(1, count)
        history.refresh()
        assert history.find_comparison(1).numbers == numbers[:count]
    after = draw(folder, seed=4)
    history.refresh()
    found = [entry.number for entry in history.entries()]
    assert found == [after.number, 1, before.number]
    comparison = history.entries()[1]
    assert comparison == Comparison(1, across, down, numbers)

    note(2, 1)  # the same again, ended early, is the same
    history.refresh()
    assert history.entries()[1] == Comparison(2, across, down, numbers)
    assert len(history.entries()) == 3
    gone = {
        n: {r.seed: history.find(n).find(r.seed).file for r in o.best + o.rest}
        for n, o in zip(numbers, (first, second), strict=True)
    }
    folder.delete(gone)
    history.refresh()
    assert [entry.number for entry in history.entries()] == [after.number, before.number]


def test_comparisons_are_numbered_on_after_a_restart(
    tmp_path: Path, fakes: fake_models.Studio
) -> None:
    axis = Axis("guidance", (1.0,))
    with RunFolder(tmp_path / "out") as folder:
        folder.note_comparison(folder.begin_comparison(), axis, axis, [draw(folder).number])
    with RunFolder(tmp_path / "out") as folder:
        assert folder.begin_comparison() == 2


def test_what_was_deleted_goes_for_good_and_can_be_drawn_again(folder: RunFolder) -> None:
    outcome = draw(folder)
    best = outcome.best[0]
    folder.delete({outcome.number: {best.seed: best.path.name}})
    folder.empty_deleted()
    folder.restore({outcome.number: {best.seed: best.path.name}})  # too late
    assert list((folder.path / "deleted").iterdir()) == []

    again = draw(folder)
    history = History(folder.path)
    history.refresh()
    assert again.drawn == 1
    assert history.find(outcome.number).best[0].seed == best.seed


@pytest.mark.parametrize(
    "line",
    [
        '{"event": "picture", "number": 1, "seed": 3, "file": "../../etc/passwd"}',
        '{"event": "deleted", "files": {"1": {"99": "0001-99.png"}}}',
        '{"event": "deleted", "files": {"99": {"1": "0099-1.png"}}}',
        '{"event": "deleted", "files": {"1": 5}}',
        '{"event": "restored", "files": {"1": {"99": "0001-99.png"}, "2": {}}}',
        '{"event": "judged", "number": 1, "scores": 4}',
        '{"event": "picture", "number": []}',
        '{"event": "compared", "comparison": 1, "numbers": []}',
        '{"event": "compared", "comparison": [], "numbers": [1], "across": {}, "down": 3}',
        '{"event": "compared", "comparison": 1, "numbers": [1], "down": {"name": "steps",'
        ' "values": [3]}, "across": {"name": "<b>", "values": [1]}}',
        "[" * 5000,
        "not json",
    ],
)
def test_lines_that_cannot_be_understood_are_passed_over(folder: RunFolder, line: str) -> None:
    outcome = draw(folder)
    with (folder.path / "manifest.jsonl").open("a") as file:
        file.write(line + "\n")
    draw(folder, "a fox")
    history = History(folder.path)
    history.refresh()
    assert len(history.prompts()) == 2
    assert len(history.find(outcome.number).images) == 5


def test_a_symbolic_link_is_no_image(folder: RunFolder, tmp_path: Path) -> None:
    outcome = draw(folder)
    path = outcome.best[0].path
    path.rename(tmp_path / "elsewhere.png")
    path.symlink_to(tmp_path / "elsewhere.png")
    history = History(folder.path)
    history.refresh()
    assert history.path(history.find(outcome.number).best[0]) is None
