import json
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipelines import families
from pipelines.checkpoints.errors import WeightsError
from pipelines.checkpoints.hashes import files_hash
from pipelines.checkpoints.places import Place
from pipelines.diffusion.samplers import check_sampler
from pipelines.families import DEFAULT_MODEL, find, read_spec


@pytest.fixture
def folder(tiny_diffusion_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_diffusion_folder, tmp_path / "model"))


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_known_models_are_consistent() -> None:
    assert DEFAULT_MODEL in families.shipped()
    for name, spec in families.shipped().items():
        assert spec.name == name
        assert find(name) is spec
        assert set(spec.defaults) <= {*spec.settings, "width", "height"}
        if "sampler" in spec.settings:
            check_sampler(*(spec.defaults[name] for name in ("sampler", "schedule", "steps")))
        for side in ("width", "height"):
            assert spec.defaults[side] % spec.size_multiple == 0
            assert spec.size_multiple <= spec.defaults[side] <= spec.max_size


def test_known_models_say_what_their_folders_say() -> None:
    shipped = [
        spec for spec in families.shipped().values() if (spec.folder / "model_index.json").is_file()
    ]
    for spec in shipped:
        found = read_spec(Place(spec.name, spec.folder))
        assert (spec.kind, spec.settings) == (found.kind, found.settings)
        assert spec.context == found.context
        assert spec.size_multiple % found.size_multiple == 0
        assert spec.defaults["width"] == found.defaults["width"]
        assert spec.defaults["height"] == found.defaults["height"]


def test_facts_of_an_unknown_folder(tiny_diffusion_folder: Path) -> None:
    spec = find(str(tiny_diffusion_folder))
    assert spec.name == "tiny-diffusion"
    assert spec.kind == "latent_diffusion"
    assert dict(spec.defaults) == {
        "width": 64,
        "height": 64,
        "steps": 30,
        "guidance": 7.5,
        "sampler": "ddim",
        "schedule": "default",
    }
    assert spec.context == 32
    assert spec.size_multiple == 8  # the VAE shrinks by 8; the UNet pads
    assert spec.vocabulary is None


def test_sampler_of_a_folder(folder: Path) -> None:
    scheduler = folder / "scheduler" / "scheduler_config.json"
    edit(scheduler, _class_name="PNDMScheduler")
    assert find(str(folder)).defaults["sampler"] == "pndm"
    edit(scheduler, _class_name="SomeOtherScheduler")
    assert find(str(folder)).defaults["sampler"] == "dpmpp_2m"


def test_context_of_a_tokenizer_without_a_limit(folder: Path) -> None:
    edit(folder / "tokenizer" / "tokenizer_config.json", model_max_length=10**30)
    assert find(str(folder)).context == 32


def test_vocabulary_is_found(folder: Path) -> None:
    (folder / "vocabulary.json").write_text("{}")
    assert find(str(folder)).vocabulary == folder / "vocabulary.json"


def test_unknown_name_lists_the_choices() -> None:
    with pytest.raises(WeightsError, match=r"no model 'sticker'.*known models are stickers"):
        find("sticker")


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty hub cache, on a machine whose network must not be asked."""
    from huggingface_hub import constants

    def connect(*_: Any) -> None:
        pytest.fail("asked the network")

    monkeypatch.setattr(socket.socket, "connect", connect)
    monkeypatch.setattr(socket, "getaddrinfo", connect)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def test_hub_name_that_is_not_cached_says_how_to_fetch_it(hub_cache: Path) -> None:
    with pytest.raises(WeightsError, match="generate --pull some-org/some-model"):
        find("some-org/some-model")
    with pytest.raises(
        WeightsError, match=r"model@v1 is no folder .* --pull some-org/some-model@v1"
    ):
        find("some-org/some-model@v1")


def test_hub_name_that_is_cached(hub_cache: Path, tiny_diffusion_folder: Path) -> None:
    repository = hub_cache / "models--some-org--some-model"
    (repository / "refs").mkdir(parents=True)
    commit = "0123456789abcdef0123456789abcdef01234567"
    (repository / "refs" / "main").write_text(commit)
    shutil.copytree(tiny_diffusion_folder, repository / "snapshots" / commit)
    spec = find("some-org/some-model")
    assert spec.name == "some-org/some-model"
    assert spec.folder == repository / "snapshots" / commit
    (repository / "refs" / "v1").write_text(commit)
    for revision in ("v1", commit):
        assert find(f"some-org/some-model@{revision}").folder == spec.folder


@pytest.mark.parametrize("part", ["vae", "unet", "text_encoder", "tokenizer"])
def test_a_missing_part_is_named(folder: Path, part: str) -> None:
    shutil.rmtree(folder / part)
    with pytest.raises(WeightsError, match=f"has no {part}/ "):
        find(str(folder))


@pytest.mark.parametrize(
    "file", ["model_index.json", "unet/config.json", "scheduler/scheduler_config.json"]
)
def test_a_missing_or_broken_config_is_named(folder: Path, file: str) -> None:
    (folder / file).write_text('{"_class_name": ')
    with pytest.raises(WeightsError, match=f"{file} cannot be read"):
        find(str(folder))
    (folder / file).write_text("[1]")
    with pytest.raises(WeightsError, match=f"{file} is not a JSON object"):
        find(str(folder))
    (folder / file).unlink()
    with pytest.raises(WeightsError, match=f"{file} is missing"):
        find(str(folder))


def test_other_kinds_of_models_are_refused(folder: Path) -> None:
    edit(folder / "model_index.json", unet=["my_module", "MyUNet"])
    with pytest.raises(WeightsError, match="unet is a MyUNet; it must be a UNet2DConditionModel"):
        find(str(folder))
    edit(folder / "model_index.json", _class_name="PixArtSigmaPipeline")
    assert find(str(folder)).kind == "diffusers"
    edit(folder / "model_index.json", _class_name="Surprise")
    with pytest.raises(WeightsError, match="holds a Surprise"):
        find(str(folder))


@pytest.mark.parametrize(
    "name",
    [
        "StableDiffusionImg2ImgPipeline",
        "StableDiffusionInpaintPipeline",
        "LatentConsistencyModelImg2ImgPipeline",
    ],
)
def test_folders_that_were_saved_to_change_images_draw(folder: Path, name: str) -> None:
    edit(folder / "model_index.json", _class_name=name)
    assert find(str(folder)).kind == "latent_diffusion"


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        (["pipeline_mine", "Mine"], r"needs code that comes with its weights \(pipeline_mine.Mine"),
        ({"a": 1}, "names no pipeline in _class_name"),
        (None, "names no pipeline in _class_name"),
        (7, "names no pipeline in _class_name"),
    ],
)
def test_class_names_of_any_type(folder: Path, name: object, reason: str) -> None:
    edit(folder / "model_index.json", _class_name=name)
    with pytest.raises(WeightsError, match=reason):
        find(str(folder))


def test_the_refiner_is_named(folder: Path) -> None:
    edit(
        folder / "model_index.json",
        _class_name="StableDiffusionXLImg2ImgPipeline",
        requires_aesthetics_score=True,
    )
    with pytest.raises(WeightsError, match="the refiner of SDXL"):
        find(str(folder))


@pytest.mark.parametrize(
    ("file", "setting"),
    [
        ("text_encoder/config.json", {"auto_map": {"AutoModel": "evil.Model"}}),
        ("unet/config.json", {"trust_remote_code": True}),
        ("text_encoder/config.json", {"_attn_implementation_internal": "org/kernel"}),
        ("tokenizer/tokenizer_config.json", {"auto_map": {"AutoTokenizer": ["evil.T", None]}}),
        ("vae/config.json", {"nested": {"auto_map": {"AutoModel": "evil.Model"}}}),
    ],
)
def test_configs_that_run_code_are_refused(
    folder: Path, file: str, setting: dict[str, Any]
) -> None:
    edit(folder / file, **setting)
    with pytest.raises(WeightsError, match="would run code"):
        find(str(folder))


def test_files_hash(folder: Path, tiny_diffusion_folder: Path) -> None:
    digest = files_hash(folder)
    assert digest == files_hash(tiny_diffusion_folder)
    assert len(digest) == 10
    int(digest, 16)
    (folder / "safety_checker").mkdir()
    (folder / "safety_checker" / "model.safetensors").write_bytes(b"not loaded")
    assert files_hash(folder) == digest
    weights = folder / "vae" / "diffusion_pytorch_model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    assert files_hash(folder) != digest


def test_sd2_like_folder(make_diffusion_folder: Callable[..., Path], tmp_path: Path) -> None:
    spec = find(str(make_diffusion_folder(tmp_path / "sd2", like_sd2=True)))
    assert (spec.defaults["width"], spec.size_multiple) == (64, 8)


def test_distilled_models_are_told_by_their_configs(folder: Path) -> None:
    scheduler = folder / "scheduler" / "scheduler_config.json"
    turbo = {"_class_name": "EulerAncestralDiscreteScheduler", "prediction_type": "epsilon"}
    edit(scheduler, **turbo, timestep_spacing="trailing")
    drawn = find(str(folder)).defaults
    assert (drawn["steps"], drawn["guidance"], drawn["sampler"]) == (4, 1.0, "euler_a")
    edit(scheduler, prediction_type="v_prediction")
    assert find(str(folder)).defaults["steps"] == 30
    edit(folder / "unet" / "config.json", time_cond_proj_dim=8)
    drawn = find(str(folder)).defaults
    assert (drawn["steps"], drawn["sampler"]) == (4, "lcm")


def test_known_models_are_drawn_with_as_their_rows_say(hub_cache: Path) -> None:
    name = "black-forest-labs/FLUX.1-schnell"
    snapshot = hub_cache / "models--black-forest-labs--FLUX.1-schnell" / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text("0" * 40)
    (snapshot / "model_index.json").write_text('{"_class_name": "FluxPipeline"}')
    spec = find(name)
    assert spec.defaults == {"width": 1024, "height": 1024, "steps": 4, "guidance": 0.0}
    assert spec.licence == "apache-2.0"
    assert find(str(snapshot)).defaults == {}
