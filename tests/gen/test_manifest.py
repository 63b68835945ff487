"""The manifest survives what kills its writer."""

from pathlib import Path

import pytest

from gen.errors import InputError
from gen.run_folder.manifest import Manifest


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


def test_lines_that_make_no_sense_are_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "manifest.jsonl"
    path.write_bytes(b'{"a": 1}\nnonsense\n[3]\n{"b": 2}\n')
    assert read(path) == [{"a": 1}, {"b": 2}]


def test_one_process_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "manifest.jsonl"
    first = Manifest(path)
    with pytest.raises(InputError, match="another run is writing"):
        Manifest(path)
    first.close()
    Manifest(path).close()
