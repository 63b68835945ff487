from pathlib import Path

import pytest

import pipelines.checkpoints.known_models
import rerank
from pipelines.checkpoints.configs import PULLED
from rerank import WeightsError
from rerank.model import specs
from rerank.model.known_models import PUBLIC


def test_a_folder_is_a_model(tiny_clip_folder: Path) -> None:
    spec = specs.find(tiny_clip_folder)
    assert spec.name == tiny_clip_folder.name
    assert spec.folder == tiny_clip_folder


@pytest.mark.parametrize("name", ["stickers-clop", "no/such/folder", "/no/such/folder"])
def test_unknown_names_list_the_choices(name: str) -> None:
    with pytest.raises(WeightsError, match=f"'{name}'.*stickers-clip"):
        specs.find(name)


def test_a_hub_name_is_looked_up_on_disk_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub.constants
    from huggingface_hub import file_download

    def no_network(*_: object, **__: object) -> None:
        raise AssertionError("the network was used")

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(file_download, "get_hf_file_metadata", no_network)
    with pytest.raises(WeightsError, match="generate --pull someone/some-clip"):
        specs.find("someone/some-clip")


def test_a_shipped_model_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = specs.Spec(name="gone", folder=tmp_path / "gone")
    monkeypatch.setitem(specs.SPECS, "gone", gone)
    with pytest.raises(WeightsError, match="install the package again"):
        specs.find("gone")


def test_both_packages_name_different_models() -> None:
    assert not PUBLIC.keys() & pipelines.checkpoints.known_models.PUBLIC.keys()
    assert rerank.WeightsError is pipelines.WeightsError


def test_a_licence_that_forbids_commerce_is_said(damaged: Path) -> None:
    from rerank import Reranker

    (damaged / PULLED).write_text('{"licence": "cc-by-nc-4.0"}')
    with pytest.warns(UserWarning, match="cc-by-nc-4.0, forbids commercial use"):
        Reranker.load(damaged, "cpu")


def test_a_known_model_has_its_processor_and_licence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    for name in ("yuvalkirstain/PickScore_v1", "facebook/metaclip-b16-400m"):
        repository = tmp_path / f"models--{name.replace('/', '--')}"
        (repository / "snapshots" / ("0" * 40)).mkdir(parents=True)
        (repository / "refs").mkdir()
        (repository / "refs" / "v1").write_text("0" * 40)
    processor = specs.find("yuvalkirstain/PickScore_v1@v1").processor
    assert processor == "laion/CLIP-ViT-H-14-laion2B-s32B-b79K"
    assert specs.find("facebook/metaclip-b16-400m@v1").forbids_commerce
    with pytest.raises(WeightsError, match="generate --pull facebook/metaclip-b16-400m`"):
        specs.find("facebook/metaclip-b16-400m")
