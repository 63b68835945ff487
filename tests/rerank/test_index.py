import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from rerank import Index, MissingExtraError, Reranker
from rerank.search import parts


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    folder = tmp_path / "images"
    (folder / "inner").mkdir(parents=True)
    for name in ("a.png", "b.png", "c.png", "inner/d.png"):
        coarse = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8))
        coarse.resize((40, 40)).save(folder / name)
    return folder


def names(found: list) -> list[str]:  # type: ignore[type-arg]
    return [each.path.name for each in found]


def test_search_is_the_order_of_scores(folder: Path, reranker: Reranker) -> None:
    index, update = Index.build(folder, reranker)
    assert (update.added, update.kept, update.removed, update.failed) == (4, 0, 0, {})
    files = [folder / name for name in ("a.png", "b.png", "c.png", "inner/d.png")]
    expected = reranker.top_k("a red panda", files, 3)
    for each in (index, Index.open(folder, reranker)):
        found = each.search("a red panda", k=3)
        assert [one.path for one in found] == [files[ranked.index] for ranked in expected]
        assert [one.score for one in found] == pytest.approx([r.score for r in expected], abs=1e-5)
        assert not any(one.stale for one in found)
    assert len(index.search("a panda", k=99)) == 4


def test_search_by_image(folder: Path, reranker: Reranker) -> None:
    index, _ = Index.build(folder, reranker)
    for query in (folder / "b.png", Image.open(folder / "b.png")):
        found = index.search(query, k=1)
        assert names(found) == ["b.png"]
        assert found[0].score == pytest.approx(1, abs=1e-5)


def test_only_what_is_new_is_read(
    folder: Path, reranker: Reranker, monkeypatch: pytest.MonkeyPatch
) -> None:
    Index.build(folder, reranker)
    (folder / "a.png").unlink()
    shutil.copy(folder / "b.png", folder / "e.png")
    Image.new("RGB", (9, 9), "red").save(folder / "c.png")
    assert [path.name for path in Index.open(folder, reranker).stale()] == [
        "a.png",
        "c.png",
        "e.png",
    ]
    read = []
    prepare = Reranker.prepare
    monkeypatch.setattr(
        Reranker, "prepare", lambda self, path: read.append(path.name) or prepare(self, path)
    )
    index, update = Index.build(folder, reranker)
    assert sorted(read) == ["c.png", "e.png"]
    assert (update.added, update.kept, update.removed) == (2, 2, 1)
    assert index.stale() == []
    fresh, _ = Index.build(folder, reranker, where=folder.parent / "elsewhere")
    assert [entry.file for entry in index.entries] == [entry.file for entry in fresh.entries]
    np.testing.assert_allclose(index.features, fresh.features, atol=1e-6)


def test_stale_results_say_so(folder: Path, reranker: Reranker) -> None:
    index, _ = Index.build(folder, reranker)
    (folder / "a.png").unlink()
    os.utime(folder / "b.png", ns=(0, 0))
    assert {each.path.name for each in index.search("x", 4) if each.stale} == {"a.png", "b.png"}


def test_bad_images_are_named_and_tried_again(folder: Path, reranker: Reranker) -> None:
    (folder / "bad.png").write_bytes(b"nothing")
    for _ in range(2):
        index, update = Index.build(folder, reranker)
        assert list(update.failed) == [folder / "bad.png"]
        assert len(index.entries) == 4


def test_other_weights(folder: Path, reranker: Reranker, damaged: Path) -> None:
    Index.build(folder, reranker)
    file = damaged / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-2] ^= 1
    file.write_bytes(content)
    other = Reranker.load(damaged, "cpu")
    with pytest.raises(ValueError, match="other weights"):
        Index.open(folder, other)
    _, update = Index.build(folder, other)
    assert (update.added, update.kept) == (4, 0)


def part_of(folder: Path) -> Path:
    [part] = (folder / ".rerank").glob("*.safetensors")
    return part


def edited(folder: Path, change: Callable[[list[bytes]], list[bytes]]) -> None:
    """Change the lines of an index, as somebody with an editor might."""
    part = part_of(folder)
    tensors = load_file(part)
    with safe_open(part, "pt") as opened:
        facts = opened.metadata()
    lines = change(bytes(tensors["files"].numpy()).splitlines())
    tensors["files"] = torch.frombuffer(bytearray(b"\n".join(lines)), dtype=torch.uint8)
    save_file(tensors, part, facts)


def test_no_index_and_damaged_ones(folder: Path, reranker: Reranker) -> None:
    with pytest.raises(ValueError, match="no index; make one"):
        Index.open(folder, reranker)
    Index.build(folder, reranker)
    whole = part_of(folder).read_bytes()
    for content in (whole[:-9], whole[:100], b"", b"{" * 1000):
        part_of(folder).write_bytes(content)
        with pytest.raises(ValueError, match="damaged"):
            Index.open(folder, reranker)
    index, update = Index.build(folder, reranker)
    assert (update.added, len(index.problems)) == (4, 1)
    assert Index.open(folder, reranker).problems == ()


@pytest.mark.parametrize(
    "line",
    [
        b"{",
        b"[1]",
        b'{"file": 1}',
        b'{"file": "../../etc/passwd", "size": 1, "changed": 1}',
        b'{"file": "/etc/passwd", "size": 1, "changed": 1}',
        b'{"file": "a\\u0000", "size": 1, "changed": 1}',
        b'{"file": "b", "size": 1e999, "changed": 1}',
        b'{"file": "c", "size": "x", "changed": 1}',
        b"[" * 9000,
        b"\xff\xfe",
    ],
    ids=lambda line: line.decode("latin-1")[:20],
)
def test_a_line_that_somebody_edited_is_set_aside(
    folder: Path, reranker: Reranker, line: bytes
) -> None:
    Index.build(folder, reranker)
    edited(folder, lambda lines: [line, *lines[1:]])
    index = Index.open(folder, reranker)
    assert [entry.file for entry in index.entries] == ["b.png", "c.png", "inner/d.png"]
    assert "1 rows make no sense" in index.problems[0]
    assert len(index.search("a panda", k=9)) == 3
    _, update = Index.build(folder, reranker)
    assert (update.added, update.kept) == (1, 3)


def test_numbers_that_are_none(folder: Path, reranker: Reranker) -> None:
    Index.build(folder, reranker)
    tensors = load_file(part_of(folder))
    tensors["features"][1] = torch.nan
    with safe_open(part_of(folder), "pt") as opened:
        facts = opened.metadata()
    save_file(tensors, part_of(folder), facts)
    assert [e.file for e in Index.open(folder, reranker).entries] == [
        "a.png",
        "c.png",
        "inner/d.png",
    ]


def test_the_two_files_of_an_earlier_version_are_read(folder: Path, reranker: Reranker) -> None:
    Index.build(folder, reranker)
    place, part = folder / ".rerank", part_of(folder)
    tensors = load_file(part)
    with safe_open(part, "pt") as opened:
        facts = {"model": opened.metadata()["model"]}
    (place / "files.jsonl").write_bytes(bytes(tensors["files"].numpy()))
    save_file({"features": tensors["features"]}, place / "features.safetensors", facts)
    part.unlink()
    assert len(Index.open(folder, reranker).entries) == 4
    Image.new("RGB", (9, 9), "red").save(folder / "e.png")
    _, update = Index.build(folder, reranker)
    assert (update.added, update.kept) == (1, 4)
    assert [path.name for path in place.glob("*.safetensors")] == ["00000002.safetensors"]
    assert not (place / "files.jsonl").exists()


def test_links_to_nowhere_are_named(folder: Path, reranker: Reranker) -> None:
    (folder / "gone.png").symlink_to("nowhere.png")
    (folder / "round.png").symlink_to("round.png")
    index, update = Index.build(folder, reranker)
    assert len(index.entries) == 4
    assert set(update.failed.values()) == {"a link to nowhere"}
    (folder / "a.png").unlink()
    (folder / "a.png").symlink_to("nowhere.png")
    assert [each.path.name for each in index.search("x", 4) if each.stale] == ["a.png"]
    assert [path.name for path in index.stale()] == ["a.png"]


def test_names_that_are_not_utf8(folder: Path, reranker: Reranker) -> None:
    name = os.fsdecode(b"caf\xe9.png")
    shutil.copy(folder / "a.png", folder / name)
    Index.build(folder, reranker)
    assert name in [entry.file for entry in Index.open(folder, reranker).entries]
    _, update = Index.build(folder, reranker)
    assert (update.added, update.kept) == (0, 5)


def test_one_process_at_a_time(folder: Path, reranker: Reranker) -> None:
    with (
        parts.lock(folder / ".rerank"),
        pytest.raises(ValueError, match="another `rerank index` is writing"),
    ):
        Index.build(folder, reranker)


def test_what_was_read_before_a_kill_is_kept(
    folder: Path, reranker: Reranker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rerank.search.index.PART", 1)
    append = parts.append
    done = 0

    def killed_at_the_third(*arguments: object, **options: object) -> None:
        nonlocal done
        done += 1
        if done == 3:
            raise KeyboardInterrupt
        append(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(parts, "append", killed_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        Index.build(folder, reranker)
    assert len(Index.open(folder, reranker).entries) == 2
    _, update = Index.build(folder, reranker)
    assert (update.added, update.kept) == (2, 2)
    assert parts.count(folder / ".rerank") == 1


def test_without_faiss(folder: Path, reranker: Reranker, monkeypatch: pytest.MonkeyPatch) -> None:
    index, _ = Index.build(folder, reranker)
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(MissingExtraError, match=r"faiss-cpu.*pip install 'salon\[search\]'"):
        index.search("a panda")


def test_k_below_one(folder: Path, reranker: Reranker) -> None:
    index, _ = Index.build(folder, reranker)
    with pytest.raises(ValueError, match="k is 0"):
        index.search("a panda", 0)
