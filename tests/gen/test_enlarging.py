"""Results larger than they are drawn, and images drawn twice: what requests for them come to."""

import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fake_models import spec
from PIL import Image

from gen import Engine, InputError, Request, editing, generate, metadata
from gen.again import read_plan
from gen.cli import main
from gen.metadata import parameters
from gen.plan import Plan, resolve
from pipelines.checkpoints.loading import save_network
from pipelines.diffusion.settings import DiffusionSettings
from pipelines.settings import settings_of
from pipelines.upscale.compact import CompactUpsampler
from pipelines.upscale.layouts import CompactConfig

ENGINE: dict[str, Any] = {"reranker": "none"}


@pytest.fixture(scope="module")
def upsampler(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    config = CompactConfig(features=4, layers=1, scale=4)
    folder = tmp_path_factory.mktemp("up") / "upsampler"
    save_network(CompactUpsampler(config), config, folder)
    return folder


@pytest.fixture(scope="module")
def model(
    tmp_path_factory: pytest.TempPathFactory, tiny_diffusion_folder: Path, upsampler: Path
) -> str:
    """A tiny model with an upsampler of its own."""
    folder = tmp_path_factory.mktemp("models") / "enlarged"
    shutil.copytree(tiny_diffusion_folder, folder)
    shutil.copytree(upsampler, folder / "upsampler")
    return str(folder)


def photo(path: Path, size: tuple[int, int]) -> str:
    noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    return str(path)


def planned(folder: Path, own: Path | None, asked: dict[str, Any], **defaults: Any) -> Plan:
    made = spec("fake", folder / "fake", tuple(settings_of(DiffusionSettings)))
    made = replace(made, upsampler=own, defaults={**made.defaults, **defaults})
    return resolve(Request("a panda", seed=1, **asked), lambda name: made)


def test_an_upsampler_of_the_model_is_used_unless_told_otherwise(
    tmp_path: Path, upsampler: Path
) -> None:
    assert planned(tmp_path, None, {}).request.upscale is None
    assert planned(tmp_path, upsampler, {}).request.upscale == 4
    assert planned(tmp_path, upsampler, {"upscale": 1}).request.upscale == 1
    assert planned(tmp_path, upsampler, {}, width=64, height=64, upscale=2).request.upscale == 2
    file = str(upsampler / "model.safetensors")
    made = planned(tmp_path, None, {"upscale_model": file}).request
    assert (made.upscale, len(str(made.upscale_model_hash))) == (4, 64)
    made = planned(tmp_path, None, {"upscale_model": file, "hires": 2}).request
    assert (made.upscale, made.hires_upscaler) == (None, "model")


@pytest.mark.parametrize(
    ("size", "own", "drawn", "result"),
    [
        ((256, 280), True, (64, 70), (256, 280)),
        ((259, 257), True, (65, 65), (259, 257)),
        ((100, 70), True, (100, 70), (100, 70)),  # too small for it
        ((100, 70), False, (100, 70), (100, 70)),
    ],
)
def test_an_edit_comes_out_as_large_as_it_was(
    tmp_path: Path,
    upsampler: Path,
    size: tuple[int, int],
    own: bool,
    drawn: tuple[int, int],
    result: tuple[int, int],
) -> None:
    mask = Image.new("L", size, 0)
    mask.paste(255, (30, 20, 41, 33))
    mask.save(tmp_path / "mask.png")
    files = {"init_image": photo(tmp_path / "photo.png", size), "mask": str(tmp_path / "mask.png")}
    [(made, request)] = planned(tmp_path, upsampler if own else None, files).models
    assert (request.width, request.height) == drawn
    begun = editing.start(request, made)
    assert begun is not None
    assert begun.result_size == result
    laid = begun.canvases[0].lay(Image.new("RGB", begun.canvases[0].box[2:], "green"))
    kept = np.asarray(mask) == 0
    before = np.asarray(Image.open(files["init_image"]))
    assert np.array_equal(np.asarray(laid)[kept], before[kept])
    assert (np.asarray(laid)[~kept] == (0, 128, 0)).all()


def test_without_an_upsampler_an_edit_is_made_larger(tmp_path: Path) -> None:
    files = {"init_image": photo(tmp_path / "photo.png", (80, 64)), "upscale": 2}
    [(made, request)] = planned(tmp_path, None, files).models
    begun = editing.start(request, made)
    assert begun is not None
    assert (begun.size, begun.result_size) == ((80, 64), (80, 64))  # enlarged when it is drawn


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        ({"hires_steps": 4}, "hires_steps: goes with hires"),
        ({"hires": 2, "hires_strength": 0.0}, "hires_strength 0: draws nothing anew"),
        ({"hires": 2, "hires_upscaler": "model"}, "fake comes with none: give a file"),
        ({"hires": 8, "width": 128}, "makes 1024x512 pixels, and fake draws at most 256"),
        ({"hires": 2, "init_image": "photo.png"}, "what begins from an image is drawn once"),
        ({"upscale_model": "none.pth"}, "upscale_model none.pth: no such file"),
    ],
)
def test_bad_requests_are_one_line_before_anything_loads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: dict[str, Any], reason: str
) -> None:
    monkeypatch.chdir(tmp_path)
    photo(tmp_path / "photo.png", (80, 64))
    with pytest.raises(InputError, match=reason) as error:
        planned(tmp_path, None, asked)
    assert "\n" not in str(error.value)


def test_two_passes_are_told_as_the_web_ui_tells_them(tmp_path: Path, upsampler: Path) -> None:
    file = str(upsampler / "model.safetensors")
    asked = {"hires": 1.5, "hires_strength": 0.6, "hires_steps": 7, "upscale_model": file}
    made = planned(tmp_path, None, asked).request
    text = parameters.to_text(metadata.Metadata(made))
    for pair in (
        "Denoising strength: 0.6",
        "Hires upscale: 1.5",
        "Hires steps: 7",
        "Hires upscaler: model",
    ):
        assert pair in text
    assert "Postprocess" not in text
    latent = planned(tmp_path, None, {"hires": 2}).request
    assert "Hires upscaler: Latent" in parameters.to_text(metadata.Metadata(latent))


@pytest.mark.slow
def test_images_come_out_larger_and_are_made_again(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    words = [
        "a panda",
        "-m",
        model,
        "--candidates",
        "2",
        "--seed",
        "3",
        "--steps",
        "2",
        "-r",
        "none",
    ]
    assert main([*words, "-o", "large"]) == 0
    assert main([*words, "-o", "drawn", "--upscale", "1"]) == 0
    large, drawn = (next(Path(name).glob("0001-r1-3.png")) for name in ("large", "drawn"))
    assert [Image.open(path).size for path in (large, drawn)] == [(256, 256), (64, 64)]
    assert (metadata.read(large).upscale, metadata.read(drawn).upscale) == (4, 1)
    assert "Size: 64x64" in Image.open(large).info["parameters"]
    capsys.readouterr()
    assert main(["--again", str(large), "-o", "again", "-r", "none"]) == 0
    assert re.search("by at most [0-2] of 255", capsys.readouterr().out)  # as on its own
    network = f"{model}/upsampler/model.safetensors"
    twice = ["--hires", "2", "--upscale-model", network, "--hires-upscaler", "model"]
    assert main([*words, *twice, "--upscale", "1", "-o", "twice"]) == 0
    [path] = Path("twice").glob("0001-r1-3.png")
    assert Image.open(path).size == (128, 128)
    assert main(["--again", str(path), "-o", "again", "-r", "none"]) == 0
    assert re.search("by at most [0-2] of 255", capsys.readouterr().out)  # as on its own


@pytest.mark.slow
def test_an_enlarged_edit_keeps_what_is_outside_its_mask(model: str, tmp_path: Path) -> None:
    mask = Image.new("L", (270, 260), 0)
    mask.paste(255, (100, 90, 150, 170))
    mask.save(tmp_path / "mask.png")
    init = photo(tmp_path / "photo.png", (270, 260))
    engine = Engine(**ENGINE)
    asked: dict[str, Any] = {"init_image": init, "mask": str(tmp_path / "mask.png"), "steps": 2}
    made = generate("a panda", model=model, candidates=2, seed=1, engine=engine, **asked)
    kept = np.asarray(mask) == 0
    before = np.asarray(Image.open(init))
    for result in made:
        after = np.asarray(result.image)
        assert np.array_equal(after[kept], before[kept])
        assert not np.array_equal(after[~kept], before[~kept])


def bright(prompt: str, images: Any) -> list[float]:
    return [float(np.asarray(image).mean()) for image in images]


@pytest.mark.slow
def test_the_best_of_quick_candidates_are_drawn_again(
    tiny_diffusion_folder: Path, tmp_path: Path
) -> None:
    engine = Engine(scorer=bright)
    asked: dict[str, Any] = {"model": str(tiny_diffusion_folder), "seed": 3}
    large = {"width": 128, "height": 96}
    made = generate(
        "a panda",
        refine=2,
        candidates=6,
        steps=10,
        engine=engine,
        outdir=tmp_path,
        **asked,
        **large,
    )
    assert [result.image.size for result in made if result.image] == [(128, 96)] * 2
    own = made[0].request
    assert (own.steps, own.width, own.height, own.hires_steps) == (4, 88, 64, 6)
    small = {"width": own.width, "height": own.height, "steps": 4}
    quick = generate("a panda", candidates=6, top_k=6, engine=engine, **asked, **small)
    assert {result.seed for result in made} == {result.seed for result in quick[:2]}
    [plan] = [read_plan(result.path) for result in made[:1] if result.path is not None]
    again = engine.draw(plan).best[0]
    assert np.abs(np.asarray(again.image, int) - np.asarray(made[0].image, int)).max() <= 2
    looks = [line for line in (tmp_path / "manifest.jsonl").open() if '"searched"' in line]
    assert len(looks) == 1


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        ({"refine": 2, "search": "prune"}, "refine and search: each says who goes on"),
        ({"refine": 2, "top_k": 3}, "top_k 3: more than the 2 that are refined"),
        ({"refine": 2, "init_image": "photo.png"}, "what begins from an image is drawn once"),
    ],
)
def test_what_cannot_be_refined_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: dict[str, Any], reason: str
) -> None:
    monkeypatch.chdir(tmp_path)
    photo(tmp_path / "photo.png", (80, 64))
    with pytest.raises(InputError, match=reason):
        planned(tmp_path, None, asked)
    assert planned(tmp_path, None, {"refine": 2}).count == 2
