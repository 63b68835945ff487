"""Edits before anything is drawn: what they come to, what is refused, how they are found."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fake_models import spec
from PIL import Image

from gen import InputError, Request, editing, metadata, scoring
from gen.cli import main
from gen.metadata import parameters
from gen.plan import Plan, resolve
from gen.result import Result
from pipelines.diffusion.settings import DiffusionSettings
from pipelines.settings import settings_of


@pytest.fixture(autouse=True)
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    noise = np.random.default_rng(0).integers(0, 256, (70, 100, 3), dtype=np.uint8)
    Image.fromarray(noise).save("photo.png")
    mask = Image.new("L", (100, 70), 0)
    mask.paste(255, (30, 20, 60, 40))
    mask.save("mask.png")
    mask.resize((200, 140)).save("double.png")
    Image.new("L", (100, 70), 0).save("black.png")
    frames = [Image.new("RGB", (100, 70), colour) for colour in ("red", "blue")]
    frames[0].save("moving.gif", save_all=True, append_images=frames[1:])


def planned(tmp_path: Path, **settings: Any) -> Plan:
    model = spec("fake", tmp_path / "fake", tuple(settings_of(DiffusionSettings)))
    return resolve(Request("a panda", seed=1, **settings), lambda name: model)


def test_the_size_follows_the_image(tmp_path: Path) -> None:
    made = planned(tmp_path, init_image="photo.png").request
    assert (made.width, made.height, made.strength) == (100, 70, 0.75)
    assert (made.resize_mode, made.mask_blur, made.init_image) == (
        "fill",
        None,
        str(tmp_path / "photo.png"),
    )
    made = planned(tmp_path, init_image="photo.png", width=200).request
    assert (made.width, made.height) == (200, 140)
    Image.new("RGB", (900, 300)).save("large.png")
    made = planned(tmp_path, init_image="large.png").request
    assert (made.width, made.height) == (256, 85)  # the model draws up to 256
    [model] = planned(tmp_path).models
    begun = editing.start(planned(tmp_path, init_image="photo.png").request, model[0])
    assert begun is not None
    assert (begun.size, begun.result_size) == ((112, 80), (100, 70))


def test_a_plain_request_knows_nothing_of_edits(tmp_path: Path) -> None:
    assert not set(planned(tmp_path).request.given()) & set(editing.EDITING_SETTINGS)


def test_a_mask_has_defaults_of_its_own(tmp_path: Path) -> None:
    made = planned(tmp_path, init_image="photo.png", mask="mask.png").request
    assert (made.strength, made.mask_blur, made.mask_fill) == (1, 0, "original")
    assert len(str(made.mask_hash)) == len(str(made.init_image_hash)) == 64
    small = planned(tmp_path, init_image="photo.png", mask="mask.png", inpaint_area="masked")
    assert (small.request.width, small.request.height, small.request.padding) == (64, 64, 32)
    box = editing.masked_box(planned(tmp_path, **FILES).candidate(0))
    assert box is not None
    assert box[0] < 30 < 60 < box[2]


def test_a_model_says_how_it_draws_under_a_mask(tmp_path: Path) -> None:
    model = spec("fake", tmp_path / "fake", tuple(settings_of(DiffusionSettings)))
    model = replace(model, mask_defaults={"mask_resampling": 3, "mask_guidance": 2.0})

    def made(**settings: Any) -> Request:
        return resolve(Request("a panda", seed=1, **settings), lambda name: model).request

    assert (made(**FILES).mask_resampling, made(**FILES).mask_guidance) == (3, 2)
    extended = made(init_image="photo.png", extend="left=4")
    assert (extended.mask_resampling, extended.mask_guidance) == (3, None)
    assert made(init_image="photo.png", extend="left=4", mask_guidance=1.0).mask_guidance == 1
    assert made(**FILES, mask_resampling=1).mask_resampling == 1
    assert made(init_image="photo.png").mask_resampling is None
    assert planned(tmp_path, **FILES).request.mask_resampling is None  # as others have it: once
    begun = editing.start(made(**FILES), model)
    assert begun is not None
    assert (begun.resampling, begun.guidance) == (3, 2.0)
    model = replace(model, mask_defaults={}, inpaints=True)
    for name in ("mask_resampling", "mask_guidance"):
        with pytest.raises(InputError, match=f"{name}: fake sees what is around a mask"):
            made(**FILES, **{name: 2})


@pytest.mark.parametrize(("sees", "score"), [(None, 40.0), (64, 40.0), (100, 50.0)])
def test_what_a_scorer_sees_whole_it_does_not_look_at_closer(
    sees: int | None, score: float
) -> None:
    """A scorer of brightness: of 50 in the mean of the whole, and of 30 in the box."""

    class Brightness:
        def score(self, prompt: str, images: Any) -> list[float]:
            return [float(np.asarray(image).mean()) for image in images]

    scorer = Brightness()
    if sees is not None:
        scorer.image_size = sees  # type: ignore[attr-defined]
    pixels = torch.full((1, 3, 70, 100), 70, dtype=torch.uint8)
    pixels[..., :50] = 30
    [result] = made = [Result(Request("a"))]
    scoring.score(scorer, "a", made, pixels, [(0, 0, 50, 70)])
    assert result.score == score


FILES = {"init_image": "photo.png", "mask": "mask.png"}


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"strength": 0.5}, "strength: goes with init_image"),
        ({"init_image": "photo.png", "mask_blur": 2}, "mask_blur: goes with mask"),
        ({**FILES, "padding": 3}, "padding: goes with inpaint_area masked"),
        ({"init_image": "photo.png", "strength": 0.0}, "strength 0: draws nothing anew"),
        ({"init_image": "photo.png", "strength": 0.1, "steps": 4}, "of 4 steps is none"),
        ({"init_image": "gone.png"}, "init_image gone.png: no such file"),
        ({"init_image": "photo.png", "mask": "photo.png"}, "is the image itself"),
        ({"init_image": "photo.png", "mask": "black.png"}, "nothing in it is white"),
        ({"init_image": "photo.png", "mask": "moving.gif", "invert_mask": True}, None),
        ({"init_image": "photo.png", "extend": "left"}, "extend left: must be a size"),
        ({"init_image": "photo.png", "extend": "left=4,left=4"}, "must be a size"),
        ({"init_image": "photo.png", "extend": "80x80"}, "is 100x70 already"),
        ({"init_image": "photo.png", "extend": "top=0"}, "adds nothing"),
        ({"init_image": "photo.png", "extend": "left=99999"}, "too many or too narrow"),
    ],
)
def test_bad_edits_are_one_line_before_anything_loads(
    tmp_path: Path, settings: dict[str, Any], reason: str | None
) -> None:
    if reason is None:
        planned(tmp_path, **settings)
        return
    with pytest.raises(InputError, match=reason) as error:
        planned(tmp_path, **settings)
    assert "\n" not in str(error.value)


def test_what_happens_to_files_is_noted(tmp_path: Path) -> None:
    made = planned(tmp_path, init_image="moving.gif", mask="double.png").request
    first, second = editing.notes(made)
    assert "of its 2 frames the first is taken" in first
    assert "is 200x140, and resized to the image's 100x70" in second


@pytest.mark.parametrize(
    ("extend", "size", "box"),
    [
        ("left=20,bottom=10", (120, 80), (20, 0, 120, 70)),
        ("140x90", (140, 90), (20, 10, 120, 80)),
    ],
)
def test_an_extended_image_keeps_the_old_part(
    tmp_path: Path, extend: str, size: tuple[int, int], box: tuple[int, int, int, int]
) -> None:
    asked = {"width": size[0], "height": size[1]}  # or it would grow in steps
    made = planned(tmp_path, init_image="photo.png", extend=extend, **asked)
    assert (made.request.width, made.request.height) == size
    assert (made.request.strength, made.request.mask_fill) == (1, "blur")
    [(model, own)] = made.models
    begun = editing.start(own, model)
    assert begun is not None
    drawn = Image.new("RGB", begun.size, "green")
    result = begun.canvases[0].lay(drawn)
    assert result.size == size
    assert np.array_equal(np.asarray(result.crop(box)), np.asarray(Image.open("photo.png")))
    assert result.getpixel((0, size[1] - 1)) == (0, 128, 0)


def test_an_image_grows_in_steps_where_the_model_is_small(tmp_path: Path) -> None:
    made = planned(tmp_path, init_image="photo.png", extend="left=20,bottom=40").request
    assert (made.width, made.height, made.mask_fill) == (64, 64, "blur")  # that of each window
    [(model, own)] = planned(tmp_path, init_image="photo.png", extend="left=20,bottom=40").models
    steps = editing.outpainting(own, model)
    assert steps is not None
    assert steps.image.size == (120, 110)
    assert steps.size == (64, 64)
    assert len(steps.windows) >= 4
    box = editing.masked_box(
        planned(tmp_path, init_image="photo.png", extend="left=9").candidate(0)
    )
    assert box is not None
    assert (box[0], box[3]) == (0, 70)  # what is new is what is scored, with what is around it
    assert box[2] < 100
    small = Image.open("photo.png").crop((0, 0, 40, 64))
    small.save("small.png")
    for whole in ({"extend": "64x64"}, {"extend": "left=60", "width": 100, "height": 64}):
        [(model, own)] = planned(tmp_path, init_image="small.png", **whole).models
        assert editing.outpainting(own, model) is None  # in one piece
    with pytest.raises(InputError, match="grows in steps is not searched"):
        planned(tmp_path, init_image="photo.png", extend="left=9", search="prune")


def test_images_say_what_they_were_made_from(tmp_path: Path) -> None:
    settings = {"mask_blur": 4, "inpaint_area": "masked", "invert_mask": True, "strength": 0.6}
    text = parameters.to_text(metadata.Metadata(planned(tmp_path, **FILES, **settings).request))
    for pair in (
        "Denoising strength: 0.6",
        "Mask blur: 4",
        "Inpaint area: Only masked",
        "Masked area padding: 32",
        "Mask mode: Inpaint not masked",
        "Init image hash: ",
        "Mask hash: ",
    ):
        assert pair in text
    assert "Masked content" not in text


def test_variations_take_the_settings_of_their_image(tmp_path: Path) -> None:
    made = planned(tmp_path, steps=7, guidance=2.0).request
    data = Path("photo.png").read_bytes()
    Path("made.png").write_bytes(metadata.embed(data, metadata.Metadata(made)))
    other = planned(tmp_path, variations_of="made.png", guidance=4.0).request
    assert (other.base_seed, other.steps, other.guidance) == (1, 7, 4.0)
    assert other.variations_of is None, "what is recorded can be drawn without the file"
    for file, reason in (("gone.png", "no such file"), ("photo.png", "photo.png")):
        with pytest.raises(InputError, match=reason):
            planned(tmp_path, variations_of=file)


@pytest.mark.slow
def test_an_edit_is_made_again_from_the_copy(
    tiny_dalle_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["-m", str(tiny_dalle_folder), "--reranker", "none", "-q", "--device", "cpu"]
    shutil.copy("photo.png", "kept.png")
    edit = ["--init-image", "photo.png", "--mask", "mask.png", "--candidates", "2", "--seed", "3"]
    assert main(["a panda", *edit, *words, "-o", "out"]) == 0
    [image] = Path("out").glob("0001-r1-*.png")
    assert len(list(Path("out/originals").iterdir())) == 2
    again = ["--again", str(image), "--reranker", "none", "--device", "cpu", "-o", "again"]
    Path("photo.png").unlink()
    capsys.readouterr()
    assert main(again) == 0
    assert "by at most 0 of 255" in capsys.readouterr().out
    for copy in Path("out/originals").iterdir():
        copy.unlink()
    digest = metadata.read(image).request.init_image_hash
    assert main(again) == 2
    assert f"no such file: give the file whose SHA-256 is {digest}" in capsys.readouterr().err
    assert main([*again, "--init-image", "mask.png"]) == 2
    assert main([*again, "--init-image", "kept.png"]) == 0
