"""The recipes of CONTRIBUTING.md are applied as they stand there, and what they add is used."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("gen", "pipelines", "rerank", "ui")
TEXT = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
RECIPES = {
    part.partition("\n")[0].partition(":")[0]: re.findall(
        r'(?ms)^```(\w+) title="(\S+)"\n(.*?)^```$', part
    )
    for part in re.split(r"(?m)^## ", TEXT)
}


def linked(folder: Path) -> Path:
    """Make a copy of the packages, of links; a recipe replaces those that it changes."""
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*")):
            copy = folder / path.relative_to(ROOT)
            if "__pycache__" in path.parts:
                continue
            if path.is_dir():
                copy.mkdir(parents=True, exist_ok=True)
            else:
                copy.parent.mkdir(parents=True, exist_ok=True)
                copy.symlink_to(path)
    return folder


def follow(recipe: str, folder: Path) -> list[Path]:
    """Do what a recipe says; the files that it touched."""
    touched = []
    for language, name, text in RECIPES[recipe]:
        file = folder / name
        if language == "diff":
            text = patched(file.read_text("utf-8"), text)
            file.unlink()
        file.parent.mkdir(parents=True, exist_ok=True)
        assert not file.exists(), "a recipe changes files by a diff"
        file.write_text(text, encoding="utf-8")
        touched.append(file)
    return list(dict.fromkeys(touched))


def patched(text: str, diff: str) -> str:
    """Apply a diff without line numbers: what it expects has to be there once."""
    lines = [line or " " for line in diff.splitlines()]
    old = "".join(f"{line[1:]}\n" for line in lines if line[0] in " -")
    new = "".join(f"{line[1:]}\n" for line in lines if line[0] in " +")
    assert text.count(old) == 1, f"not there, or not once:\n{old}"
    return text.replace(old, new)


def run(folder: Path, *words: str) -> str:
    """Run Python in the copy; what it prints."""
    done = subprocess.run(
        [sys.executable, *words],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def followed(tmp_path: Path) -> Callable[[str], Path]:
    """A function that follows a recipe in a copy, checks the style of it, and returns the copy."""

    def do(recipe: str) -> Path:
        folder = linked(tmp_path / "salon")
        files = [str(file) for file in follow(recipe, folder)]
        ruff = Path(sys.executable).parent / "ruff"
        options = ["--no-cache", "--config", str(ROOT / "pyproject.toml")]
        for check in (["check"], ["format", "--check"]):
            done = subprocess.run([ruff, *check, *options, *files], capture_output=True, text=True)
            assert done.returncode == 0, done.stdout + done.stderr
        return folder

    return do


def test_it_says_how_many_files_are_touched() -> None:
    names = {
        recipe: {str(Path(name).parent if made == "python" else name) for made, name, _ in blocks}
        for recipe, blocks in RECIPES.items()
        if blocks
    }
    assert {recipe: len(files) for recipe, files in names.items()} == {
        "A new sampler": 1,
        "A new setting": 1,
        "A new scorer": 1,
        "A new API route": 2,
        "A new pipeline": 3,  # the folder, the row, and the name in Kind
    }


@pytest.mark.slow
def test_a_new_sampler_is_offered_and_draws(
    followed: Callable[[str], Path], tiny_diffusion_folder: Path
) -> None:
    folder = followed("A new sampler")
    assert "dpmpp_3m" in run(folder, "-m", "gen", "--help")
    options = ("--sampler", "DPM++ 3M", "--candidates", "1", "--reranker", "none", "--json")
    answer = run(folder, "-m", "gen", "a panda", "-m", str(tiny_diffusion_folder), *options)
    assert json.loads(answer)["request"]["sampler"] == "dpmpp_3m"


def test_a_new_setting_is_everywhere(followed: Callable[[str], Path], tmp_path: Path) -> None:
    folder = followed("A new setting")
    assert "--guidance-rescale" in run(folder, "-m", "gen", "--help")
    (tmp_path / "prompts.txt").write_text("a panda --guidance-rescale 0.5\n")
    options = ("-f", str(tmp_path / "prompts.txt"), "--dry-run")
    assert json.loads(run(folder, "-m", "gen", *options))["guidance_rescale"] == 0.5
    asked = "gen.Request('a panda', guidance_rescale=0.5).guidance_rescale"
    assert run(folder, "-c", f"import gen; print({asked})") == "0.5\n"


@pytest.mark.slow
def test_a_new_scorer_ranks(followed: Callable[[str], Path], tiny_diffusion_folder: Path) -> None:
    folder = followed("A new scorer")
    code = f"""
import numpy as np
from gen import Engine, generate
from rerank.brightness import Brightness

engine = Engine(device="cpu", scorer=Brightness())
model = {str(tiny_diffusion_folder)!r}
results = generate("a panda", model=model, candidates=3, top_k=3, seed=0, engine=engine)
means = [float(np.asarray(result.image).mean()) for result in results]
assert [result.score for result in results] == means
print(means == sorted(means, reverse=True))
"""
    assert run(folder, "-c", code) == "True\n"


@pytest.mark.slow
def test_a_new_pipeline_draws(followed: Callable[[str], Path], tmp_path: Path) -> None:
    folder = followed("A new pipeline")
    model = tmp_path / "round"
    model.mkdir()
    (model / "model_index.json").write_text('{"_class_name": "Circles"}')
    options = ("--candidates", "3", "--top-k", "2", "--seed", "0", "--steps", "2", "--json")
    words = ("a circle", "-m", str(model), *options, "-o", str(tmp_path / "out"))
    answer = json.loads(run(folder, "-m", "gen", *words))
    assert [result["model"] for result in answer["results"]] == [str(model)] * 2
    assert json.loads(run(folder, "-m", "gen", *words))["drawn"] == 0, "it is not drawn twice"
    assert "pipelines.circles.pipeline" not in run(
        folder, "-c", "import sys, pipelines.families; print(*sys.modules)"
    )


@pytest.mark.slow
def test_a_new_route_answers(followed: Callable[[str], Path], tmp_path: Path) -> None:
    folder = followed("A new API route")
    code = f"""
import json
from pathlib import Path
from urllib.request import urlopen
from gen import Engine
from gen.run_folder.folder import RunFolder
from ui.server import served
from ui.service.service import Service

with RunFolder(Path({str(tmp_path / "out")!r})) as out:
    service = Service(Engine(), out)
    with served(service, "127.0.0.1", 0) as url:
        print(urlopen(url + "/v1/samplers").read().decode())
        paths = json.load(urlopen(url + "/openapi.json"))["paths"]
        assert "/v1/samplers" in paths
    service.stop()
"""
    assert "euler_a" in json.loads(run(folder, "-c", code))["samplers"]
