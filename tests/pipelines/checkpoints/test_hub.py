"""Fetching from a hub on this machine: what is fetched, checked, gone on with, and recorded."""

import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_hub import COMMIT, FakeHub, serving
from huggingface_hub import constants

from pipelines.checkpoints import hub
from pipelines.checkpoints.configs import read_pulled
from pipelines.checkpoints.errors import WeightsError
from pipelines.checkpoints.hashes import files_hash
from pipelines.diffusion.pipeline import LatentDiffusion
from pipelines.families import find

ROOT = Path(__file__).parents[3]
UNET = "unet/diffusion_pytorch_model.safetensors"


@pytest.fixture
def server(tiny_diffusion_folder: Path, tmp_path: Path) -> Iterator[FakeHub]:
    """A repository with a model, and with more than is needed."""
    folder = Path(shutil.copytree(tiny_diffusion_folder, tmp_path / "repository"))
    shutil.copy(folder / UNET, folder / UNET.replace(".safetensors", ".fp16.safetensors"))
    (folder / "all.safetensors").write_bytes(b"the same again in one file")
    (folder / "unet" / "diffusion_pytorch_model.bin").write_bytes(b"a pickle")
    (folder / "README.md").write_text("about the model")
    (folder / "empty.txt").touch()
    with serving(FakeHub(folder)) as running:
        yield running


@pytest.fixture
def cache(server: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and the fake hub in the place of the true one."""
    monkeypatch.setattr(constants, "ENDPOINT", server.url)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", "a secret")
    return tmp_path / "cache"


def fetch(name: str = "org/model") -> Path:
    told: list[tuple[int, int]] = []
    repository = hub.look_up(name)
    folder = hub.pull(repository, lambda done, total: told.append((done, total)))
    assert told[-1] == (repository.size, repository.size)
    assert repository.missing() == 0
    return folder


def test_a_model_is_fetched_and_found(server: FakeHub, cache: Path) -> None:
    folder = fetch()
    assert folder == cache / "models--org--model" / "snapshots" / COMMIT
    spec = find("org/model")
    assert spec.folder == folder
    assert spec.licence == "cc-by-nc-4.0"
    assert spec.forbids_commerce
    with pytest.warns(UserWarning, match="forbids commercial use"):
        LatentDiffusion.from_pretrained("org/model", device="cpu")
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert UNET in names
    assert not {name for name in names if name.endswith((".bin", ".fp16.safetensors", ".md"))}
    assert "all.safetensors" not in names


def test_a_variant_in_the_place_of_larger_files(server: FakeHub, cache: Path) -> None:
    folder = server.folder / "unet"
    for name in ("a-00001-of-00002", "a-00002-of-00002", "a.fp16", "b.fp16", "b.bf16"):
        (folder / f"{name}.safetensors").write_bytes(name.encode())

    def names(variant: str | None, part: str) -> set[str]:
        files = hub.look_up("org/model", variant).files
        return {Path(f.name).name for f in files if f.name.startswith(f"{part}/")}

    plain, half = Path(UNET).name, Path(UNET.replace(".safe", ".fp16.safe")).name
    shards = {"a-00001-of-00002.safetensors", "a-00002-of-00002.safetensors"}
    only = {"b.fp16.safetensors", "b.bf16.safetensors"}
    assert names(None, "unet") - {"config.json"} == {plain, *shards, *only}
    assert names("fp16", "unet") - {"config.json"} == {
        half,
        "a.fp16.safetensors",
        "b.fp16.safetensors",
    }
    assert plain in names("fp16", "vae")  # of which there is no other
    with pytest.raises(WeightsError, match="no files of variant fp61"):
        hub.look_up("org/model", "fp61")

    for path in folder.glob("[ab]*.safetensors"):
        path.unlink()
    repository = hub.look_up("org/model", "fp16")
    fetched = hub.pull(repository, lambda done, total: None)
    assert not (fetched / UNET).exists()
    with pytest.warns(UserWarning, match="forbids commercial use"):
        LatentDiffusion.from_pretrained("org/model", device="cpu")


@pytest.mark.parametrize(
    ("word", "name", "expected", "forbids"),
    [
        ("other", "flux-1-dev-non-commercial-license", "flux-1-dev-non-commercial-license", True),
        ("other", None, "other", False),
        ("apache-2.0", "a name", "apache-2.0", False),
        (None, None, None, False),
    ],
)
def test_a_licence_with_a_name_of_its_own(
    server: FakeHub,
    cache: Path,
    word: str | None,
    name: str | None,
    expected: str | None,
    forbids: bool,
) -> None:
    server.licence, server.licence_name = word, name
    folder = fetch()
    assert read_pulled(folder).get("licence") == expected
    assert find("org/model").forbids_commerce == forbids


def test_commit_and_hashes_are_recorded(server: FakeHub, cache: Path) -> None:
    folder = fetch("org/model@v2")
    record = read_pulled(folder)
    assert (record["repository"], record["commit"]) == ("org/model", COMMIT)
    for name, facts in record["files"].items():
        content = (server.folder / name).read_bytes()
        assert facts == {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    assert find("org/model@v2").folder == find(f"org/model@{COMMIT}").folder == folder
    with pytest.raises(WeightsError, match=r"generate --pull org/model$"):
        find("org/model")  # that would be another branch


def test_a_download_that_breaks_off_goes_on(server: FakeHub, cache: Path) -> None:
    server.break_after = 1000
    fetch()
    ranges = [asked for _, asked, _ in server.requests]
    assert ranges.count("bytes=1000-") == 1
    assert all(token is None for *_, token in server.requests)  # it is for the hub alone


def test_the_next_command_goes_on(server: FakeHub, cache: Path) -> None:
    repository = hub.look_up("org/model")
    file = next(file for file in repository.files if file.name == UNET)
    part = repository.blob(file).with_name(f"{file.digest}.incomplete")
    part.parent.mkdir(parents=True)
    part.write_bytes((server.folder / UNET).read_bytes()[:2000])
    fetch()
    assert (UNET, "bytes=2000-", None) in server.requests
    before = len(server.requests)
    fetch()
    assert len(server.requests) == before  # all is there


def test_other_contents_than_the_hub_says_are_refused(server: FakeHub, cache: Path) -> None:
    server.lie = True
    with pytest.raises(WeightsError, match="is not what the hub says"):
        fetch()
    assert not list(cache.rglob("*.incomplete"))
    assert not list(cache.rglob("*.safetensors"))
    server.lie = False
    fetch()


def test_one_flipped_byte_is_noticed_later(server: FakeHub, cache: Path) -> None:
    folder = fetch()
    whole = files_hash(folder)
    file = (folder / UNET).resolve()
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(WeightsError, match=rf"{UNET} is damaged: its sha256 is") as error:
        files_hash(folder)
    assert "\n" not in str(error.value)
    fetch()
    assert files_hash(folder) == whole


@pytest.mark.parametrize(
    ("status", "reason"),
    [(401, "log in with hf auth login"), (404, "org/model is not there"), (500, "cannot be had")],
)
@pytest.mark.fault("a hub out of reach")
def test_what_the_hub_refuses(server: FakeHub, cache: Path, status: int, reason: str) -> None:
    server.status = status
    with pytest.raises(WeightsError, match=reason):
        hub.look_up("org/model")


def test_names_that_lead_out_of_the_folder(
    server: FakeHub, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = {"rfilename": "../../evil.safetensors", "size": 1, "blobId": "0" * 40}
    monkeypatch.setattr(server, "answer", lambda: {"sha": COMMIT, "siblings": [entry]})
    with pytest.raises(WeightsError, match="does not answer as a hub does"):
        hub.look_up("org/model")
    monkeypatch.setattr(server, "answer", lambda: {"sha": "../../up", "siblings": []})
    with pytest.raises(WeightsError, match="names no commit"):
        hub.look_up("org/model")


def test_only_pickles(server: FakeHub, cache: Path) -> None:
    for path in server.folder.rglob("*.safetensors"):
        path.unlink()
    with pytest.raises(WeightsError, match="has no safetensors"):
        hub.look_up("org/model")


@pytest.mark.fault("a hub out of reach")
def test_a_cache_that_is_half_written(server: FakeHub, cache: Path) -> None:
    folder = fetch()
    (folder / "vae" / "config.json").unlink()
    with pytest.raises(WeightsError, match="not complete"):
        find("org/model")


@pytest.mark.parametrize(
    "name", ["model", "a/b/c", "../x", "org/model@", "org/model@../../x", "http://x/y"]
)
def test_no_names_of_a_hub(name: str, cache: Path) -> None:
    with pytest.raises(WeightsError):
        hub.look_up(name)


@pytest.fixture
def silent() -> Iterator[str]:
    """A server that takes connections and says nothing."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


@pytest.mark.parametrize("kind", ["offline", "closed", "silent"])
@pytest.mark.fault("a hub out of reach")
def test_unreachable_within_bounded_time(
    kind: str, silent: str, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "SECONDS", 1)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", kind == "offline")
    monkeypatch.setattr(constants, "ENDPOINT", silent if kind == "silent" else "http://127.0.0.1:9")
    began = time.monotonic()
    with pytest.raises(WeightsError) as error:
        hub.look_up("org/model")
    assert time.monotonic() - began < 5
    expected = {"offline": "HF_HUB_OFFLINE is set", "closed": str(cache), "silent": "timed out"}
    assert expected[kind] in str(error.value)


@pytest.mark.slow
def test_the_command(server: FakeHub, tmp_path: Path) -> None:
    """Fetch, draw without the network, and be told of the licence."""
    environment = {
        **os.environ,
        "HF_ENDPOINT": server.url,
        "HF_HUB_CACHE": str(tmp_path / "cache"),
        "HF_HUB_OFFLINE": "0",
    }

    def command(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "gen", *words],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
        )

    done = command("a panda", "-m", "org/model", "-o", str(tmp_path / "out"))
    assert done.returncode == 3
    assert "generate --pull org/model" in done.stderr
    done = command("--pull", "org/model", "--variant", "fp16")
    assert done.returncode == 0, done.stderr
    snapshot = tmp_path / "cache" / "models--org--model" / "snapshots" / COMMIT
    assert not (snapshot / UNET).exists()
    assert f"org/model at {COMMIT}" in done.stdout
    assert "cc-by-nc-4.0" in done.stdout
    server.status = 500
    settings = ["--candidates", "1", "--steps", "1", "--reranker", "none", "--json"]
    done = command("a panda", "-m", "org/model", "-o", str(tmp_path / "out"), *settings)
    assert done.returncode == 0, done.stderr
    assert "forbids commercial use" in done.stderr
    assert json.loads(done.stdout)["made"] == 1
    done = command("--pull", "org/model")
    assert done.returncode == 3
    assert done.stderr.count("\n") == 1
