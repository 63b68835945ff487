"""Variations, mixes and changes by words, from the command to the image and back."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageChops

from gen import InputError, Request, generate, metadata
from gen.again import make_again, read_plan
from gen.cli import main
from gen.engine import Engine
from gen.explaining import explain_what_is_known
from gen.image_prompts import defaults
from gen.plan import resolve
from gen.run_folder.folder import RunFolder
from pipelines.checkpoints.errors import WeightsError
from pipelines.checkpoints.hashes import spec_hash
from pipelines.families import find
from rerank import Reranker
from rerank.images import Encoded

pytestmark = pytest.mark.slow

QUICK: dict[str, Any] = {"steps": 2, "prior_steps": 2}


@pytest.fixture(scope="session")
def model(tiny_unclip_folder: Path) -> str:
    return str(tiny_unclip_folder)


@pytest.fixture(scope="session")
def engine() -> Engine:
    return Engine(device="cpu", reranker="none")


@pytest.fixture
def pictures(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / f"{name}.png" for name in "ab"]
    for angle, path in enumerate(paths):
        image = Image.linear_gradient("L").rotate(90 * angle).resize((80, 60)).convert("RGB")
        image.paste((200, 30, 30), (10, 10 + 20 * angle, 40, 40))
        image.save(path)
    return paths


def run(*words: object) -> int:
    return main([str(word) for word in words])


def alike(first: Image.Image, second: Image.Image) -> bool:
    """Whether they are one image, drawn in batches of different sizes."""
    lows_and_highs = ImageChops.difference(first, second).getextrema()
    return max(high for _, high in lows_and_highs) <= 2


def test_a_pool_of_embeddings_is_resumed_and_made_again(
    model: str, engine: Engine, tmp_path: Path
) -> None:
    request = Request("a panda", model=model, seed=7, prior_candidates=6, top_k=1, **QUICK)
    four, two = (
        generate(request, candidates=n, engine=engine, outdir=tmp_path / str(n), top_k=n)
        for n in (4, 2)
    )
    by_seed = {result.seed: result.open() for result in four}
    for result in two:
        assert alike(by_seed[result.seed], result.open())  # the beginning of the larger run
    more = generate(request, candidates=4, engine=engine, outdir=tmp_path / "2", top_k=4)
    assert {result.seed for result in more} == by_seed.keys()
    assert all(alike(by_seed[result.seed], result.open()) for result in more)
    last = next(result for result in four if result.seed == 10)
    assert last.path is not None
    assert metadata.read(last.path).request.prior_seed == 7
    again = make_again(last.path, read_plan(last.path), engine)
    assert again.difference is not None
    assert again.difference <= 2


def test_variations_of_any_picture(
    model: str, pictures: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    words = ("-m", model, "--candidates", 3, "-k", 2, "-s", 7, "--steps", 2, "-r", "none")
    assert run("a panda", "--variations-of", pictures[0], *words, "-o", out, "--json") == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["made"] == 3
    assert answer["request"]["image_prompt"] == str(pictures[0].resolve())
    made = [Image.open(result["file"]).convert("RGB") for result in answer["results"]]
    assert ImageChops.difference(*made).getbbox() is not None

    # without a prompt that is what the picture says of itself, if it does, or else its name
    assert run("--variations-of", pictures[1], *words, "-o", out, "--json") == 0
    assert json.loads(capsys.readouterr().out)["request"]["prompt"] == "b"
    assert run("--variations-of", pictures[1], "-m", "stickers", "-o", out) == 2
    assert "-m stickers-unclip, and other models that draw from image" in capsys.readouterr().err
    first = answer["results"][0]["file"]
    assert run("--variations-of", first, *words, "-o", tmp_path / "near", "--json") == 0
    assert json.loads(capsys.readouterr().out)["request"]["prompt"] == "a panda"

    # the picture is kept: an image is made again when it is gone
    pictures[0].unlink()
    assert run("--again", first, "-o", tmp_path / "again", "-r", "none") == 0
    said = capsys.readouterr().out
    assert "identical" in said or re.search("by at most [0-2] of 255", said)


def test_an_image_counts_as_much_as_the_prompt_that_is_read_beside_it(
    model: str, pictures: list[Path]
) -> None:
    spec, request = find(model), Request("a panda", image_prompt=str(pictures[0]))
    usual = spec.defaults["guidance"]
    assert defaults(Request("a panda"), spec) == {}
    assert defaults(request, spec) == {"decoder_text": False, "image_guidance": usual}
    assert defaults(request.replace(guidance=5.0), spec)["image_guidance"] == 5
    assert spec.defaults["image_guidance"] == 1  # where the prior drew the embedding


def test_mixes_and_changes_by_words(
    model: str, pictures: list[Path], engine: Engine, tmp_path: Path
) -> None:
    rows = tmp_path / "strip.jsonl"
    mix = ",".join(map(str, pictures))
    lines = [{"prompt": "a strip", "mix": mix, "mix_at": at, "seed": 7} for at in (0, 0.5, 1)]
    rows.write_text("\n".join(map(json.dumps, lines)))
    words = ("-m", model, "--candidates", 1, "--steps", 2, "-r", "none")
    assert run("-f", rows, *words, "-o", tmp_path / "strip") == 0
    strip = [Image.open(p).convert("RGB") for p in sorted((tmp_path / "strip").glob("0*.png"))]
    assert len(strip) == 3
    for path, end in zip(pictures, (strip[0], strip[2]), strict=True):
        [alone] = generate(
            "a strip", variations_of=path, model=model, candidates=1, seed=7, steps=2, engine=engine
        )
        assert alone.image is not None
        assert max(ImageChops.difference(alone.image, end).tobytes()) <= 2
    assert run("x", "--mix", *pictures, "--mix-at", 0.5, *words, "-s", 7, "-o", tmp_path / "m") == 0
    [mixed] = (tmp_path / "m").glob("0*.png")
    assert max(ImageChops.difference(Image.open(mixed).convert("RGB"), strip[1]).tobytes()) <= 2
    toward = ("--toward", "a cat", "--from", "a panda")
    assert run("a cat", "--image-prompt", pictures[0], *toward, *words, "-o", tmp_path / "t") == 0


@pytest.mark.parametrize(
    ("rerankers", "workers"), [(["stickers-clip"], 1), (["stickers-clip", "other"], 2)]
)
def test_candidates_are_ranked_by_the_images_in_the_place_of_the_prompt(
    model: str, pictures: list[Path], tmp_path: Path, rerankers: list[str], workers: int
) -> None:
    """By what the images are, whatever the prompt says; by words where words change them."""
    reranker = Reranker.load()
    if "other" in rerankers:
        shutil.copytree(reranker.folder, tmp_path / "other")
        rerankers = [rerankers[0], str(tmp_path / "other")]
    engine = Engine("cpu", reranker=[(name, 1.0) for name in rerankers], workers=workers)
    files = {"image_prompt": str(pictures[0]), "mix_with": str(pictures[1])}
    asked = Request("a cat", model=model, candidates=3, top_k=3, seed=5, **QUICK)
    with engine:
        mixed = generate(asked.replace(**files, mix_at=0.25), engine=engine)
        changed = generate(
            asked.replace(image_prompt=files["image_prompt"], toward="a dog"), engine=engine
        )

    ends = reranker.image_features(pictures)
    angle = (ends[0] @ ends[1]).acos()
    target = ((0.75 * angle).sin() * ends[0] + (0.25 * angle).sin() * ends[1]) / angle.sin()
    for results, wanted in (
        (mixed, lambda seen: (seen @ target).tolist()),
        (changed, lambda seen: reranker.score("a cat", Encoded(seen, {}))),
    ):
        features = reranker.image_features([result.open() for result in results])
        found = [result.scores.get("stickers-clip", result.score) for result in results]
        assert found == pytest.approx(wanted(features), abs=1e-5)
        assert [result.score for result in results] == sorted(
            (result.score for result in results), reverse=True
        )


def test_no_chance_of_a_match_is_told_where_no_prompt_is_followed(
    model: str, pictures: list[Path], tmp_path: Path
) -> None:
    engine = Engine("cpu")
    asked = Request("a fish", model=model, candidates=2, seed=5, **QUICK)
    by_image = asked.replace(image_prompt=str(pictures[0]))
    with RunFolder(tmp_path / "out") as folder:
        for request in (by_image, by_image.replace(toward="a fish"), asked):
            outcome = engine.draw(resolve(request), folder)
            explain_what_is_known(outcome, engine, folder)
            [best, *_] = outcome.best
            assert best.claims[0].text == "fish"
            assert (best.match is None) == (request == by_image)


@pytest.mark.parametrize(
    ("settings", "rule"),
    [
        ({"mix": "A"}, "names two images"),
        ({"mix": "A,B", "variations_of": "A"}, "is all that names some"),
        ({"toward": "a cat"}, "toward: goes with image_prompt"),
        ({"image_prompt": "A", "away_from": "a cat"}, "away_from: goes with toward"),
        ({"image_prompt": "A", "mix_at": 0.5}, "mix_at: goes with mix, or with toward"),
        ({"mix": "A,B", "toward": "a cat"}, "each say what an image is changed to"),
        ({"image_prompt": "A", "prior_candidates": 4}, "an image has one embedding"),
        ({"image_prompt": "A", "image_guidance": 2.0}, "image_guidance: goes with decoder_text"),
        ({"image_prompt": "none.png"}, "no such file"),
        ({"image_prompt": "A", "model": "stickers"}, "not a setting of the chosen model"),
    ],
)
def test_what_says_nothing_is_refused(
    model: str, pictures: list[Path], settings: dict[str, Any], rule: str
) -> None:
    names = {"A": str(pictures[0]), "A,B": ",".join(map(str, pictures))}
    given = {k: names.get(value, value) for k, value in settings.items()}
    with pytest.raises(InputError, match=rule):
        resolve(Request("a panda", **{"model": model, **given}))


def test_a_picture_that_is_none_is_refused_before_anything_loads(
    model: str, tmp_path: Path
) -> None:
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(InputError, match="image_prompt"):
        resolve(Request("a panda", model=model, image_prompt=str(tmp_path / "text.png")))


def test_search_looks_when_the_decoder_draws(model: str, engine: Engine) -> None:
    plan = resolve(
        Request("a panda", model=model, candidates=8, top_k=2, search="prune", seed=1, steps=4)
    )
    [schedule] = plan.schedules
    prior = find(model).defaults["prior_steps"]
    assert schedule.start == prior
    assert all(rung.step > prior for rung in schedule.rungs)
    brightness = type(
        "Brightness", (), {"score": lambda _, __, images: [float(i.float().mean()) for i in images]}
    )
    outcome = Engine(device="cpu", scorer=brightness()).draw(plan)
    assert len(outcome.best) == 2


def test_a_prior_may_be_elsewhere(model: str, tmp_path: Path) -> None:
    """As Kandinsky's are; what it is counts as the weights of the model."""
    folder = shutil.copytree(model, tmp_path / "decoder")
    index = {"_class_name": "StableUnCLIPImg2ImgPipeline"}
    (folder / "model_index.json").write_text(json.dumps(index))
    for old, new in (("clip", "image_encoder"), ("prior_scheduler", "other")):
        (folder / old).rename(folder / new)
    for part in ("feature_extractor", "image_normalizer", "image_noising_scheduler"):
        (folder / part).mkdir()
    with pytest.raises(InputError, match="has no prior: name the folder of one with --prior"):
        resolve(Request("a panda", model=str(folder)))
    [(spec, _)] = resolve(Request("a panda", model=str(folder), prior=model)).models
    assert spec.adapters.prior == Path(model).resolve()
    [(alone, _)] = resolve(Request("a", model="stickers")).models
    assert alone.adapters.prior is None
    assert spec_hash(spec) != spec_hash(find(str(folder)))
    with pytest.raises(WeightsError, match="no model 'nowhere'"):
        resolve(Request("a panda", model=str(folder), prior="nowhere"))
