"""The manifest survives what kills its writer."""

from pathlib import Path

import pytest

from gen.errors import InputError
from gen.run_folder.folder import RunFolder
from gen.run_folder.manifest import KEPT, LONGEST_LINE, Manifest, Unreadable


def written(path: Path, *records: dict[str, object]) -> None:
    manifest = Manifest(path)
    for record in records:
        manifest.append(record)
    manifest.close()


def read(path: Path) -> list[dict[str, object]]:
    manifest = Manifest(path)
    records = [record for _, record in manifest]
    assert list(manifest.read([place for place, _ in manifest])) == records
    manifest.close()
    return records


def test_what_is_appended_is_read(tmp_path: Path) -> None:
    path = tmp_path / "manifest.jsonl"
    written(path, {"a": 1})
    written(path, {"b": "熊"})
    assert read(path) == [{"a": 1}, {"b": "熊"}]


@pytest.mark.parametrize("rest", [b'{"event": "pict', b'{"long": "' + b"x" * 10_000, b"\xff"])
@pytest.mark.fault("kill -9")
def test_half_a_line_at_the_end_is_cut_off(tmp_path: Path, rest: bytes) -> None:
    path = tmp_path / "manifest.jsonl"
    written(path, {"a": 1})
    with path.open("ab") as file:
        file.write(rest)
    written(path, {"b": 2})
    assert read(path) == [{"a": 1}, {"b": 2}]
    assert path.read_bytes() == b'{"a": 1}\n{"b": 2}\n'


def test_a_file_with_nothing_but_half_a_line(tmp_path: Path) -> None:
    path = tmp_path / "manifest.jsonl"
    path.write_bytes(b'{"a"')
    assert read(path) == []


BROKEN = {
    "nonsense": b"nonsense",
    "no object": b"[3]",
    "no UTF-8": b'{"a": "\xff"}',
    "deep": b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "long": b'{"a": "' + b"x" * LONGEST_LINE + b'"}',
    "digits": b'{"a": ' + b"9" * 100_000 + b"}",
}


@pytest.mark.parametrize("line", BROKEN.values(), ids=BROKEN)
def test_a_line_that_is_no_record_is_given_as_such(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "manifest.jsonl"
    path.write_bytes(b'{"a": 1}\n' + line + b'\n{"b": 2}\n')
    manifest = Manifest(path)
    first, broken, last = (record for _, record in manifest)
    manifest.close()
    assert (first, last) == ({"a": 1}, {"b": 2})
    assert isinstance(broken, Unreadable)
    assert len(broken.text) <= KEPT


@pytest.mark.parametrize("line", BROKEN.values(), ids=BROKEN)
def test_such_a_line_is_named_once_and_everything_else_goes_on(tmp_path: Path, line: bytes) -> None:
    RunFolder(tmp_path).close()
    with (tmp_path / "manifest.jsonl").open("ab") as file:
        file.write(line + b"\n")
    with RunFolder(tmp_path) as folder:
        [note] = folder.notes
        assert "a line of no sense" in note
        assert len(note) < 400
        assert folder.start_run("a command", 7) == (7, False)
    assert len((tmp_path / "set-aside.jsonl").read_bytes()) < 2 * KEPT
    with RunFolder(tmp_path) as folder:
        assert folder.notes == []
        assert folder.start_run("a command", 8) == (7, True)


def test_one_process_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "manifest.jsonl"
    first = Manifest(path)
    with pytest.raises(InputError, match="another run is writing"):
        Manifest(path)
    first.close()
    Manifest(path).close()
