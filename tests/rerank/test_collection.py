import io
import json
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from rerank import Collection, MissingExtraError, Reranker, cli
from rerank.search import nearest
from rerank.search.shards import FilesShard, list_shards


def image(seed: int) -> bytes:
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(coarse).resize((40, 40)).save(buffer, "PNG")
    return buffer.getvalue()


def write_tar(path: Path, files: dict[str, bytes]) -> None:
    with tarfile.open(path, "w:gz" if path.suffix == ".tgz" else "w") as opened:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            opened.addfile(info, io.BytesIO(content))


@pytest.fixture
def sources(tmp_path: Path) -> list[Path]:
    """Two images in each: a tar as WebDataset has it, a compressed one, Parquet files of three
    kinds, a folder."""
    folder = tmp_path / "shards"
    (folder / "files" / "inner").mkdir(parents=True)
    sample = {"a.png": image(0), "a.txt": b"a fox", "b.png": image(1), ".c.png": b"hidden"}
    write_tar(folder / "0000.tar", sample)
    write_tar(folder / "0001.tgz", {"x/d.png": image(2), "x/e.png": image(3)})
    plain = pa.table({"text": ["f", "g"], "jpg": [image(4), image(5)]})
    pq.write_table(plain, folder / "plain.parquet", row_group_size=1)
    hub = [{"bytes": image(6), "path": None}, {"bytes": None, "path": "files/i.png"}]
    pq.write_table(pa.table({"image": hub}), folder / "hub.parquet")
    (folder / "files" / "i.png").write_bytes(image(7))
    (folder / "files" / "inner" / "j.png").write_bytes(image(8))
    pq.write_table(
        pa.table({"file_name": ["files/i.png", "files/inner/j.png"]}), folder / "paths.parquet"
    )
    names = ["0000.tar", "0001.tgz", "plain.parquet", "hub.parquet", "paths.parquet", "files"]
    return [folder / name for name in names]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "features"


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The numbers of images that were read, shard by shard."""
    numbers: list[int] = []
    encode = Reranker.encode

    def counted(self: Reranker, *args: object, **more: object) -> object:
        found = encode(self, *args, **more)  # type: ignore[arg-type]
        numbers.append(len(found))
        return found

    monkeypatch.setattr(Reranker, "encode", counted)
    return numbers


def test_every_kind_of_shard_is_found(sources: list[Path], place: Path, reranker: Reranker) -> None:
    collection, update = Collection.build(sources, place, reranker)
    assert (update.added, update.kept, update.removed, update.failed) == (12, 0, 0, {})
    folder = sources[0].parent
    where = {
        0: ["0000.tar/a.png"],
        1: ["0000.tar/b.png"],
        2: ["0001.tgz/x/d.png"],
        3: ["0001.tgz/x/e.png"],
        4: ["plain.parquet/0"],
        5: ["plain.parquet/1"],
        6: ["hub.parquet/0"],
        7: ["hub.parquet/1", "paths.parquet/0", "files/i.png"],
        8: ["paths.parquet/1", "files/inner/j.png"],
    }
    for each in (collection, Collection.open(place, reranker)):
        assert len(each) == 12
        for seed, names in where.items():
            found = each.search(Image.open(io.BytesIO(image(seed))), k=len(names))
            assert {one.path for one in found} == {folder / name for name in names}
            assert [one.score for one in found] == pytest.approx([1] * len(names), abs=1e-5)
            assert not any(one.stale for one in found)


def test_texts_find_what_scores_highest(
    sources: list[Path], place: Path, reranker: Reranker
) -> None:
    collection, _ = Collection.build(sources[-1:], place, reranker)
    files = sorted(sources[-1].rglob("*.png"))
    expected = reranker.top_k("a red panda", files, 2)
    found = collection.search("a red panda", 2)
    assert [one.path for one in found] == [files[ranked.index] for ranked in expected]
    assert [one.score for one in found] == pytest.approx([r.score for r in expected], abs=1e-5)


def test_what_is_there_is_not_read_again(
    sources: list[Path], place: Path, reranker: Reranker, encoded: list[int]
) -> None:
    Collection.build(sources, place, reranker)
    assert sum(encoded) == 12
    encoded.clear()
    write_tar(sources[0], {"a.png": image(9)})
    _, update = Collection.build(sources, place, reranker)
    assert encoded == [1]
    assert (update.added, update.kept, update.removed) == (1, 10, 2)
    # Others are added to what is there; what is gone is forgotten.
    encoded.clear()
    sources[1].unlink()
    other = sources[0].with_name("other.tar")
    write_tar(other, {"k.png": image(10)})
    collection, update = Collection.build([other], place, reranker)
    assert encoded == [1]
    assert (update.added, update.kept, update.removed) == (1, 0, 2)
    assert len(collection) == 10


def test_one_that_was_killed_goes_on(
    sources: list[Path], place: Path, reranker: Reranker, encoded: list[int]
) -> None:
    class Killed(BaseException):
        pass

    def kill(done: int) -> None:
        if done >= 4:
            raise Killed

    with pytest.raises(Killed):
        Collection.build(sources, place, reranker, progress=kill)
    before = sum(encoded)
    assert 4 <= before < 12
    (place / ".1-2.new").write_bytes(b"half")  # as a kill in the middle of a file leaves it
    _, update = Collection.build(sources, place, reranker)
    assert sum(encoded) == 12
    assert (update.added, update.kept) == (12 - before, before)
    assert not list(place.glob(".*.new"))


def test_a_new_file_changes_one_shard_of_a_folder(
    tmp_path: Path, reranker: Reranker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rerank.search.shards.FILES", 4)
    for number in range(60):
        (tmp_path / f"{number:03}.png").write_bytes(b"")
    before = list_shards([tmp_path])
    assert len(before) > 5
    (tmp_path / "0305.png").write_bytes(b"")
    after = list_shards([tmp_path])
    assert len(set(after) - set(before)) <= 2
    files = [file for shard in after if isinstance(shard, FilesShard) for file in shard.files]
    assert files == sorted(tmp_path.iterdir())


def test_bad_images_are_named_and_the_rest_is_found(
    tmp_path: Path, place: Path, reranker: Reranker
) -> None:
    tar, cut = tmp_path / "a.tar", tmp_path / "cut.tar"
    write_tar(tar, {"good.png": image(0), "bad.png": b"nothing"})
    write_tar(cut, {"good.png": image(1), "lost.png": image(2) * 50})
    cut.write_bytes(cut.read_bytes()[: 3 * 512 + len(image(1)) + 100])
    table = pa.table({"path": ["a.png", None, "https://example.org/a.png"]})
    pq.write_table(table, tmp_path / "p.parquet")
    files = [tar, cut, tmp_path / "p.parquet"]
    collection, update = Collection.build(files, place, reranker)
    assert len(collection) == update.added == 2
    assert set(update.failed) == {
        tar / "bad.png",
        cut,
        *(tmp_path / "p.parquet" / str(row) for row in range(3)),
    }
    assert "damaged from here on" in update.failed[cut]
    assert "not fetched" in update.failed[tmp_path / "p.parquet" / "2"]
    assert len(collection.search("a fox", 9)) == 2


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda folder: folder / "none.tar", "no such file"),
        (
            lambda folder: ((folder / "a.zip").write_bytes(b"") and None) or folder / "a.zip",
            "neither",
        ),
        (lambda folder: folder, "no images"),
    ],
)
def test_sources_that_are_none(
    make: Callable[[Path], Path], said: str, tmp_path: Path, place: Path, reranker: Reranker
) -> None:
    with pytest.raises(ValueError, match=said):
        Collection.build([make(tmp_path)], place, reranker)
    assert not place.exists()


def test_parquet_files_that_cannot_be_read(tmp_path: Path, place: Path, reranker: Reranker) -> None:
    damaged, two, none = (tmp_path / f"{name}.parquet" for name in ("damaged", "two", "none"))
    damaged.write_bytes(b"PAR1")
    pq.write_table(pa.table({"small": [b""], "large": [b""]}), two)
    pq.write_table(pa.table({"url": ["https://example.org"]}), none)
    for path, said in ((damaged, "can be read"), (two, "small, large"), (none, "none in")):
        with pytest.raises(ValueError, match=said):
            Collection.build([path], place, reranker)
    with pytest.raises(ValueError, match="no column 'big'"):
        Collection.build([two], place, reranker, column="big")
    Collection.build([two], place, reranker, column="large")


def test_features_that_somebody_damaged(
    sources: list[Path], place: Path, reranker: Reranker
) -> None:
    Collection.build(sources, place, reranker)
    first, second, *_ = sorted(place.glob("*.parquet"))
    first.write_bytes(first.read_bytes()[:-20])
    pq.write_table(pa.table({"features": ["x"]}), second)
    collection = Collection.open(place, reranker)
    assert len(collection.problems) == 2
    assert first.name in collection.problems[0]
    assert "it has no" in collection.problems[1]
    assert collection.search("a fox")
    repaired, update = Collection.build(sources, place, reranker)
    assert len(repaired) == 12
    assert not repaired.problems
    assert 0 < update.added < 12


def test_other_weights_have_features_of_their_own(
    sources: list[Path], place: Path, reranker: Reranker, damaged: Path
) -> None:
    Collection.build(sources, place, reranker)
    file = damaged / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-2] ^= 1
    file.write_bytes(content)
    other = Reranker.load(damaged, "cpu")
    with pytest.raises(ValueError, match="no features of"):
        Collection.open(place, other)
    Collection.build(sources[:1], place, other)
    assert (len(Collection.open(place, other)), len(Collection.open(place, reranker))) == (2, 12)


def test_large_collections_have_an_inverted_file(
    tmp_path: Path, place: Path, reranker: Reranker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nearest, "LARGE", 300)
    monkeypatch.setattr(nearest, "BLOCK", 100)
    monkeypatch.setattr(nearest, "LOOKED_INTO", 4)
    for part in range(4):
        files = {f"{n}.png": image(1000 * part + n) for n in range(100)}
        write_tar(tmp_path / f"{part}.tar", files)
    tars = sorted(tmp_path.glob("*.tar"))
    Collection.build(tars, place, reranker)
    [folder] = place.glob("nearest-*")
    assert len(list(folder.iterdir())) == 4
    opened = Collection.open(place, reranker)
    for seed in (0, 1042, 2099, 3001):
        [found] = opened.search(Image.open(io.BytesIO(image(seed))), 1)
        assert found.path == tars[seed // 1000] / f"{seed % 1000}.png"
        assert found.score == pytest.approx(1, abs=1e-5)
    # Looking into all lists is the same as reading all features.
    monkeypatch.setattr(nearest, "LOOKED_INTO", 10**6)
    whole = opened.search("a red panda", 50, exhaustive=True)
    listed = opened.search("a red panda", 50)
    assert [one.score for one in listed] == pytest.approx([one.score for one in whole], abs=1e-5)
    assert {one.path for one in listed[:40]} <= {one.path for one in whole}
    # The folder may move, and one made of other features is gone.
    place.rename(place.with_name("moved"))
    assert len(Collection.open(place.with_name("moved"), reranker).search("a fox", 5)) == 5
    write_tar(tars[0], {"a.png": image(7)})
    Collection.build(tars, place.with_name("moved"), reranker)
    [other] = place.with_name("moved").glob("nearest-*")
    assert other.name != folder.name
    block = next(other.iterdir())
    block.write_bytes(block.read_bytes()[:-1000])
    with pytest.raises(ValueError, match="damaged"):
        Collection.open(place.with_name("moved"), reranker).search("a fox", 5)


def test_no_room_for_an_inverted_file(
    tmp_path: Path, place: Path, reranker: Reranker, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_tar(tmp_path / "a.tar", {"a.png": image(0), "b.png": image(1)})
    monkeypatch.setattr(nearest, "LARGE", 2)
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=0))
    with pytest.raises(OSError, match="No space left"):
        Collection.build([tmp_path / "a.tar"], place, reranker)
    # What was read is kept, and found by reading it all.
    assert len(Collection.open(place, reranker).search("a fox")) == 2
    assert not list(place.glob("*nearest*"))


def test_without_pyarrow(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(MissingExtraError, match=r"pyarrow.*pip install 'salon\[search\]'"):
        Collection.build([place], place)


def test_the_commands(sources: list[Path], place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = sources[0].parent
    assert cli.main(["index", str(folder)]) == 2
    assert "--index FOLDER" in capsys.readouterr().err
    assert cli.main(["index", str(folder / "files"), "--workers", "2"]) == 2
    assert "--workers for --ray" in capsys.readouterr().err
    assert cli.main(["index", str(folder), "--index", str(place), "--device", "cpu"]) == 0
    assert capsys.readouterr().out == "12 images: 12 read, 0 there already, 0 forgotten\n"
    asked = ["search", str(place), "--like", str(folder / "files" / "i.png"), "--top-k", "3"]
    assert cli.main([*asked, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["results"]
    assert {row["file"] for row in rows} == {
        str(folder / name) for name in ("files/i.png", "hub.parquet/1", "paths.parquet/0")
    }
    assert cli.main([*asked, "--exhaustive"]) == 0
    assert "files/i.png" in capsys.readouterr().out
    (folder / "bad.tar").write_bytes(b"nothing")
    assert cli.main(["index", str(folder / "bad.tar"), "--index", str(place)]) == 4
    assert "bad.tar is left out: damaged" in capsys.readouterr().err
