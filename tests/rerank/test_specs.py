from pathlib import Path

import pytest

import pipelines.checkpoints.specs
from rerank.model import specs


def test_a_folder_is_a_model(tiny_clip_folder: Path) -> None:
    spec = specs.find(tiny_clip_folder)
    assert spec.name == tiny_clip_folder.name
    assert spec.folder == tiny_clip_folder


@pytest.mark.parametrize("name", ["stickers-clop", "no/such/folder", "/no/such/folder"])
def test_unknown_names_list_the_choices(name: str) -> None:
    with pytest.raises(specs.WeightsError, match=f"'{name}'.*stickers-clip"):
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
    with pytest.raises(specs.WeightsError, match="generate --pull someone/some-clip"):
        specs.find("someone/some-clip")


def test_a_shipped_model_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = specs.Spec(name="gone", folder=tmp_path / "gone")
    monkeypatch.setitem(specs.SPECS, "gone", gone)
    with pytest.raises(specs.WeightsError, match="install the package again"):
        specs.find("gone")


def test_files_hash_follows_the_weights_alone(damaged: Path) -> None:
    before = specs.files_hash(damaged)
    (damaged / "notes.txt").write_text("not a weight")
    assert specs.files_hash(damaged) == before
    assert len(before) == 10
    content = bytearray((damaged / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (damaged / "model.safetensors").write_bytes(content)
    assert specs.files_hash(damaged) != before


def test_files_hash_is_the_one_that_pipelines_use(tiny_clip_folder: Path) -> None:
    # The packages may not import each other, but a manifest records both.
    assert specs.files_hash(tiny_clip_folder) == pipelines.checkpoints.hashes.files_hash(
        tiny_clip_folder
    )


def test_facts_that_both_packages_have_are_the_same() -> None:
    import pipelines.checkpoints.known_models
    import rerank.model.known_models
    from rerank.model.weights import CODE_KEYS

    assert specs.NON_COMMERCIAL == pipelines.checkpoints.specs.NON_COMMERCIAL
    assert specs.PULLED == pipelines.checkpoints.configs.PULLED
    assert specs.HUB_NAME == pipelines.checkpoints.specs.HUB_NAME
    assert CODE_KEYS < pipelines.checkpoints.configs.CODE_KEYS
    assert (
        not rerank.model.known_models.PUBLIC.keys()
        & pipelines.checkpoints.known_models.PUBLIC.keys()
    )


def test_a_licence_that_forbids_commerce_is_said(damaged: Path) -> None:
    from rerank import Reranker

    (damaged / specs.PULLED).write_text('{"licence": "cc-by-nc-4.0"}')
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
    with pytest.raises(specs.WeightsError, match="generate --pull facebook/metaclip-b16-400m`"):
        specs.find("facebook/metaclip-b16-400m")
