import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rerank import Index, MissingExtraError, Reranker


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


def test_no_index_and_damaged_ones(folder: Path, reranker: Reranker) -> None:
    with pytest.raises(ValueError, match="no index; make one"):
        Index.open(folder, reranker)
    Index.build(folder, reranker)
    lines = (folder / ".rerank" / "files.jsonl").read_text().splitlines()
    for text in ("\n".join(lines[:2]), '{"file": 1}', "{"):
        (folder / ".rerank" / "files.jsonl").write_text(text)
        with pytest.raises(ValueError, match="damaged"):
            Index.open(folder, reranker)


def test_without_faiss(folder: Path, reranker: Reranker, monkeypatch: pytest.MonkeyPatch) -> None:
    index, _ = Index.build(folder, reranker)
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(MissingExtraError, match=r"faiss-cpu.*pip install 'salon\[search\]'"):
        index.search("a panda")


def test_k_below_one(folder: Path, reranker: Reranker) -> None:
    index, _ = Index.build(folder, reranker)
    with pytest.raises(ValueError, match="k is 0"):
        index.search("a panda", 0)
