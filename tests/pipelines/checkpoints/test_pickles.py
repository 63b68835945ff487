"""Hostile and damaged files: nothing in them runs, and each is refused in one line."""

import argparse
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from pipelines.checkpoints.errors import WeightsError
from pipelines.checkpoints.pickles import (
    Record,
    only_file,
    read_network,
    read_pickle,
    read_tensors,
)
from pipelines.dalle.convert.__main__ import main


class Runs:
    """Its pickle makes a file, when it is loaded by something that believes pickles."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (f"touch {self.marker}",)


class LooksHarmless(Runs):
    """Its class has a name that is on the list of those that become records."""


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("reader", [read_tensors, read_network])
def test_code_in_a_pickle_does_not_run(tmp_path: Path, zipped: bool, reader: Any) -> None:
    path, marker = tmp_path / "weights.bin", tmp_path / "marker"
    state = {"weight": torch.ones(2), "more": Runs(marker)}
    torch.save(state, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(WeightsError, match=r"is refused: .*system") as error:
        reader(path)
    assert "\n" not in str(error.value)
    assert not marker.exists()
    torch.load(path, weights_only=False)  # it would have
    assert marker.exists()


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_bare_pickles_do_not_run(tmp_path: Path, protocol: int) -> None:
    path, marker = tmp_path / "weights.bin", tmp_path / "marker"
    path.write_bytes(pickle.dumps(Runs(marker), protocol=protocol))
    with pytest.raises(WeightsError):
        read_tensors(path)
    assert not marker.exists()


def test_harmless_names_give_records_and_run_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A class on the list is never imported: a record takes its place, whatever it would do."""
    path, marker = tmp_path / "trained.ckpt", tmp_path / "marker"
    monkeypatch.setattr(LooksHarmless, "__module__", __name__)
    state = {"state_dict": {"w": torch.ones(2)}, "callbacks": {"a": Plain()}}
    torch.save(state, path)
    loaded = read_pickle(path, harmless=[Plain.__module__])
    assert isinstance(loaded["callbacks"]["a"], Record)
    assert loaded["callbacks"]["a"].kept == 7
    with pytest.raises(WeightsError, match="is refused: loading it would run"):
        read_tensors(path)
    torch.save({"w": torch.ones(1), "more": LooksHarmless(marker)}, path)
    with pytest.raises(WeightsError, match="system"):
        read_pickle(path, harmless=[LooksHarmless.__module__])
    assert not marker.exists()


def test_arguments_of_a_trainer_do_not_run(tmp_path: Path) -> None:
    """They become a record, but what is in them is looked at like all else."""
    path, marker = tmp_path / "trained.pt", tmp_path / "marker"
    arguments = argparse.Namespace(place=Runs(marker))
    torch.save({"model": {"w": torch.ones(1)}, "args": arguments}, path)
    with pytest.raises(WeightsError, match=r"is refused: .*system"):
        read_tensors(path)
    assert not marker.exists()


class Plain:
    """Something with an attribute."""

    def __init__(self) -> None:
        self.kept = 7


def test_what_is_read(tmp_path: Path) -> None:
    tensors = {"a": torch.arange(4.0), "b": torch.ones(2, 2).half()}
    torch.save({"epoch": 1, "state_dict": tensors}, tmp_path / "nested.ckpt")
    torch.save(tensors, tmp_path / "old.bin", _use_new_zipfile_serialization=False)
    arguments = argparse.Namespace(width=3, place="somewhere")
    saved = {"model": tensors, "optimizer": {"state": {}}, "args": arguments}
    torch.save(saved, tmp_path / "trained.pt")
    save_file(tensors, tmp_path / "new.safetensors")
    for path in tmp_path.iterdir():
        found = read_tensors(path)
        assert found.keys() == tensors.keys()
        assert all(torch.equal(found[key], tensors[key]) for key in tensors)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    def says(path: Path) -> str:
        with pytest.raises(WeightsError) as error:
            read_tensors(path)
        assert "\n" not in str(error.value)
        return str(error.value)

    path = tmp_path / "weights.bin"
    assert "is missing" in says(path)
    torch.save({"a": torch.ones(1000)}, path)
    whole = path.read_bytes()
    for length in (3, 100, len(whole) // 2, len(whole) - 5):
        path.write_bytes(whole[:length])
        assert "cannot be read" in says(path) or "refused" in says(path)
    path.write_text("version https://git-lfs.github.com/spec/v1\n")
    assert "Git LFS pointer" in says(path)
    path.write_text("<!DOCTYPE html><html></html>")
    assert "is a web page" in says(path)
    torch.save({"a": torch.ones(1), "step": 3}, path)
    assert "holds more than tensors: step" in says(path)
    endless: dict[str, Any] = {}
    endless["model"] = endless
    torch.save(endless, path)
    assert "holds more than tensors: model" in says(path)
    torch.save([torch.ones(1)], path)
    assert "holds no weights, but a list" in says(path)
    torch.save(torch.ones(3), path)
    with pytest.raises(WeightsError, match="holds no network with parameters"):
        read_network(path)


def test_a_bomb_is_not_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "weights.bin"
    torch.save({"a": torch.zeros(4)}, path)
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data/99", bytes(2**26))
    assert path.stat().st_size < 2**20
    with pytest.raises(WeightsError, match="it would unpack to 67"):
        read_tensors(path)


def test_the_one_file(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"must hold one \*.a or \*.b with words; it holds none"):
        only_file(tmp_path, "words", "*.a", "*.b")
    (tmp_path / "x.b").touch()
    assert only_file(tmp_path, "words", "*.a", "*.b") == tmp_path / "x.b"
    (tmp_path / "y.a").touch()
    with pytest.raises(WeightsError, match=r"it holds x\.b, y\.a"):
        only_file(tmp_path, "words", "*.a", "*.b")


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, dest, marker = tmp_path / "source", tmp_path / "dest", tmp_path / "marker"
    assert main([str(source), str(dest)]) == 2
    assert "is no folder" in capsys.readouterr().err
    source.mkdir()
    assert main([str(source), str(dest)]) == 3
    assert "holds none of the known downloads, but nothing" in capsys.readouterr().err
    (source / "bpe.model").touch()
    torch.save({"weight": Runs(marker)}, source / "pytorch_model.bin")
    assert main([str(source), str(dest)]) == 3
    assert "is refused: loading it would run" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source"]
    dest.mkdir()
    assert main([str(source), str(dest)]) == 2
    assert "exists: choose another name" in capsys.readouterr().err
