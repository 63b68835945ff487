"""What is shown can be sent, and what is listed is accepted: all of it follows from one table."""

import base64
import io
import json
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fake_models
import pytest
from fake_site import FakeSite
from PIL import Image

from gen import metadata
from gen.settings.request import MODEL_SETTINGS, SETTINGS, Request
from pipelines import families
from pipelines.dalle.settings import DalleSettings
from pipelines.diffusion.settings import DiffusionSettings
from pipelines.settings import Setting, settings_of
from rerank.panel import Member, Panel
from ui.service.service import Service
from ui.service.settings import EDITS, SERVED, offered

gr = pytest.importorskip("gradio", reason="gradio is not installed")

from ui.page.details import described  # noqa: E402
from ui.page.form import build_form, build_prompt, build_quick  # noqa: E402

pytestmark = pytest.mark.slow

PATIENCE = 60
LOCAL = {
    "upscale_model",
    "mask_model",
    "init_image",
    "mask",
    "lora",
    "lora_dir",
    "vae",
    "embedding",
    "wildcards",
    "variations_of",
    "mix",
    "image_prompt",
    "mix_with",
    "prior",
}
OF_SECOND_PASS = {"hires", "hires_strength", "hires_steps", "hires_upscaler"}  # see test_edits
WITH_AN_IMAGE = {*EDITS, "init_image_hash", "mask_hash", "image_prompt_hash", "mix_with_hash"}
FAMILIES = {"whole-diffusion": DiffusionSettings, "whole-dalle": DalleSettings}


@pytest.fixture
def whole(quick: FakeSite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSite:
    """The site, with a model of each family that takes all of the family's settings."""
    for name, record in FAMILIES.items():
        spec = fake_models.spec(name, tmp_path / name, tuple(settings_of(record)))
        if "width" not in spec.settings:
            spec = replace(spec, defaults={**spec.defaults, "width": 64, "height": 64})
        monkeypatch.setitem(families.shipped(), name, spec)
        monkeypatch.setitem(quick.fakes.pipelines, name, fake_models.FakePipeline())
    return quick


def ask(site: FakeSite, path: str, body: object = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(
        f"{site.url}{path}", data, {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
        return json.load(answer)


def some(setting: Setting) -> Any:
    """A value that the setting may have."""
    if setting.name == "sampler":
        return "euler_a"  # which takes every schedule
    if setting.names is not None:
        return next(reversed(setting.names().values()))
    if setting.kind is str:
        return "some text"
    low = 0 if setting.low is None else setting.low
    return setting.kind(low)


def request_in(image: str) -> Request:
    return metadata.read_image(Image.open(io.BytesIO(base64.b64decode(image)))).request


def listed(site: FakeSite, model: str) -> list[str]:
    settings: list[str] = ask(site, f"/v1/models/{model}")["settings"]
    return settings


@pytest.mark.parametrize("model", FAMILIES)
def test_every_setting_that_is_listed_can_be_posted(model: str, whole: FakeSite) -> None:
    names = listed(whole, model)
    assert set(names) == set(settings_of(FAMILIES[model])) - LOCAL - WITH_AN_IMAGE
    for name in sorted(set(names) - OF_SECOND_PASS):
        value = some(SETTINGS[name])
        asked = {"prompt": "a panda", "model": model, "seed": 1, "candidates": 1, name: value}
        [image] = ask(whole, "/v1/images/generations", asked)["data"]
        assert getattr(request_in(image["b64_json"]), name) == value


@pytest.mark.parametrize("model", FAMILIES)
def test_the_tools_of_others_reach_them_too(model: str, whole: FakeSite) -> None:
    for name in set(listed(whole, model)) - {"width", "height"} - OF_SECOND_PASS:
        setting, value = SETTINGS[name], some(SETTINGS[name])
        theirs = {"guidance": "cfg_scale", "sampler": "sampler_name", "schedule": "scheduler"}
        override = {"sd_model_checkpoint": model}
        asked = {"prompt": "a", "seed": 1, "override_settings": override}
        answer = ask(whole, "/sdapi/v1/txt2img", {**asked, theirs.get(name, name): value})
        assert getattr(request_in(answer["images"][0]), setting.name) == value


def test_a_width_without_a_height_is_a_setting_like_any_other(whole: FakeSite) -> None:
    asked = {"prompt": "a panda", "candidates": 1, "width": 128}
    assert ask(whole, "/v1/images/generations", asked)["data"][0]["size"] == "128x64"
    for extra in ({"size": "64x64"}, {"width": 72, "height": 64}):
        with pytest.raises(urllib.error.HTTPError) as error:
            ask(whole, "/v1/images/generations", {**asked, **extra})
        assert error.value.code == 400
        assert json.load(error.value)["error"]["param"] == "size"


def test_no_file_of_this_machine_is_offered_or_taken(whole: FakeSite) -> None:
    assert {name for name, setting in SETTINGS.items() if setting.local} == LOCAL
    assert not LOCAL & set(SERVED)
    assert not LOCAL & set(offered(families.shipped().values()))
    schemas = json.dumps(ask(whole, "/openapi.json"))
    for name in LOCAL:
        # A mask and a second image are sent; neither field is for a file of this machine.
        assert name in ("mask", "mix_with") or f'"{name}"' not in schemas
        asked = {"prompt": "a panda", "candidates": 1, name: some(SETTINGS[name])}
        try:
            [image] = ask(whole, "/v1/images/generations", asked)["data"]
        except urllib.error.HTTPError as error:
            assert error.code == 400  # noqa: PT017 - or an answer without effect
        else:  # a key that is not known is noted, and has no effect
            assert getattr(request_in(image["b64_json"]), name) is None


def visible(form: Any) -> list[str]:
    return [name for name, field in form.fields.items() if field.visible]


@pytest.mark.parametrize("models", [[name] for name in FAMILIES] + [list(FAMILIES)])
def test_every_visible_field_is_drawn_with(
    models: list[str], whole: FakeSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ui.service.catalog.DEFAULT_MODEL", models[0])
    chosen = [families.shipped()[name] for name in models]
    monkeypatch.setattr(Service, "specs", lambda self, names: chosen)
    with gr.Blocks():
        form = build_form(whole.service, build_prompt(), *build_quick(whole.service))
    shown = visible(form)
    taken = {name for name in MODEL_SETTINGS if any(name in spec.settings for spec in chosen)}
    of_all = {"candidates", "top_k", "seed", "search", "budget", "upscale"}
    assert set(shown) == of_all | (taken - LOCAL - WITH_AN_IMAGE)
    counts = {"candidates": 2, "top_k": 1}

    def drawn(filled: Sequence[str]) -> Request:
        values = [
            counts.get(name, some(SETTINGS[name]) if name in filled else None)
            for name in form.fields
        ]
        request = Request.from_json(form.asked(["a panda", models, *values]))
        outcome = whole.service.submit(request).future.result(PATIENCE)
        assert outcome.made == 2
        return outcome.plan.request

    # What needs networks: see test_journeys and test_edits.
    shown = [name for name in shown if name not in {"search", "budget", *OF_SECOND_PASS}]
    for name in set(shown) - set(counts) - {"seed"}:
        assert getattr(drawn([name]), name) == some(SETTINGS[name])
    drawn(shown)


def test_the_page_and_both_apis_list_the_same_models(whole: FakeSite) -> None:
    with gr.Blocks():
        form = build_form(whole.service, build_prompt(), *build_quick(whole.service))
    chosen = [name for _, name in form.models.choices]
    assert {"fake", "other", *FAMILIES} <= set(chosen)
    assert [model["id"] for model in ask(whole, "/v1/models")["data"]] == chosen
    assert [model["model_name"] for model in ask(whole, "/sdapi/v1/sd-models")] == chosen


class Darkness:
    """Scores images by how dark they are."""

    name = "darkness"

    def __init__(self, encoder: fake_models.FakeJury) -> None:
        self.encoder = encoder

    def score(self, prompt: str, images: Any) -> list[float]:
        return [1 - fake_models.score(image) for image in images]


def test_the_parts_of_a_combined_score_are_told(
    quick: FakeSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = {"prompt": "a crow", "seed": 7, "candidates": 3, "n": 3}
    alone = ask(quick, "/v1/images/generations", asked)["data"]
    assert all("scores" not in image for image in alone)

    encoder = SimpleNamespace(encode=lambda images, **_: Encoded(images))
    bright = SimpleNamespace(name="brightness", encoder=encoder, score=quick.fakes.jury.score)
    panel = Panel([Member(bright, 1.0), Member(Darkness(encoder), 3.0)])  # type: ignore[arg-type]
    monkeypatch.setattr(quick.service.engine, "scorer", panel)
    monkeypatch.setattr(quick.service.engine, "_scorer", None)
    images = ask(quick, "/v1/images/generations", {**asked, "seed": 17})["data"]
    for image in images:
        light = fake_models.score(fake_models.picture("a crow", image["seed"]))
        expected = {"brightness": pytest.approx(light), "darkness": pytest.approx(1 - light)}
        assert image["scores"] == expected
        record = metadata.read_image(Image.open(io.BytesIO(base64.b64decode(image["b64_json"]))))
        told = described(record)["Scores"]
        assert told == f"brightness {light:.4f}, darkness {1 - light:.4f}"
    order = [image["scores"]["darkness"] for image in images]
    assert order == sorted(order, reverse=True)


class Encoded(list):
    """Images as a panel's members take them."""

    failed: dict[int, str] = {}  # noqa: RUF012


def test_their_subseed_is_our_variation(whole: FakeSite) -> None:
    asked = {
        "prompt": "a fox",
        "seed": 5,
        "subseed": 9,
        "subseed_strength": 0.25,
        "batch_size": 2,
        "override_settings": {"sd_model_checkpoint": "whole-diffusion"},
    }
    answer = ask(whole, "/sdapi/v1/txt2img", asked)
    info = json.loads(answer["info"])
    assert (info["all_seeds"], info["all_subseeds"]) == ([5, 5], [9, 10])
    assert info["subseed_strength"] == 0.25
    drawn = request_in(answer["images"][1])
    assert (drawn.base_seed, drawn.seed, drawn.variation) == (5, 10, 0.25)
    answer = ask(whole, "/sdapi/v1/txt2img", {**asked, "seed": -1, "subseed": -1})
    first, second = (request_in(image) for image in answer["images"])
    assert first.base_seed == second.base_seed != first.seed == second.seed - 1


def test_loras_that_are_served(
    whole: FakeSite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prompts may name them; clients learn their names, and not where they are."""
    (tmp_path / "loras" / "sub").mkdir(parents=True)
    (tmp_path / "loras" / "sub" / "style.safetensors").write_bytes(b"a file")
    asked = {
        "prompt": "a <lora:style:0.5>fox",
        "seed": 1,
        "override_settings": {"sd_model_checkpoint": "whole-diffusion"},
    }
    with pytest.raises(urllib.error.HTTPError, match="400"):
        ask(whole, "/sdapi/v1/txt2img", asked)
    loras = {"style": tmp_path / "loras" / "sub" / "style.safetensors"}
    catalog = replace(whole.service.catalog, loras=loras)
    monkeypatch.setattr(whole.service, "catalog", catalog)
    assert ask(whole, "/sdapi/v1/loras") == [
        {"name": "style", "alias": "style", "path": "style", "metadata": {}}
    ]
    own = {"prompt": asked["prompt"], "model": "whole-diffusion", "seed": 1, "candidates": 1}
    images = [
        ask(whole, "/sdapi/v1/txt2img", asked)["images"][0],
        ask(whole, "/v1/images/generations", own)["data"][0]["b64_json"],
    ]
    for image in images:
        request = request_in(image)
        assert (request.prompt, request.lora) == ("a fox", "style:0.5")
        assert request.template == "a <lora:style:0.5>fox"
        assert request.lora_dir is None
        assert str(tmp_path / "loras").encode() not in base64.b64decode(image)
    with pytest.raises(urllib.error.HTTPError) as error:
        ask(whole, "/v1/images/generations", {**own, "prompt": "a <lora:stile> fox"})
    assert error.value.code == 400
    assert "no LoRA stile: there is style" in error.value.read().decode()
