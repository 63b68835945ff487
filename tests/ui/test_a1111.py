import base64
import io
import json
import threading
import time
import urllib.error
import urllib.request
from typing import Any

import fake_models
import pytest
from fake_site import FakeSite
from PIL import Image

from gen import metadata
from ui.api.sdapi.options import MOST_CLIENTS, Choice, Choices

pytestmark = pytest.mark.slow

PATIENCE = 60


def call(site: FakeSite, path: str, body: object = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(
        f"{site.url}/sdapi/v1/{path}", data, {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
        return json.load(answer)


def refused(site: FakeSite, body: object) -> tuple[int, str]:
    with pytest.raises(urllib.error.HTTPError) as error:
        call(site, "txt2img", body)
    return error.value.code, json.load(error.value)["detail"]


def opened(text: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(text)))


def test_images_come_in_the_order_of_their_seeds(quick: FakeSite) -> None:
    answer = call(
        quick,
        "txt2img",
        {
            "prompt": "a panda",
            "negative_prompt": "a cat",
            "seed": 5,
            "steps": 6,
            "cfg_scale": 2,
            "width": 128,
            "height": 64,
            "sampler_name": "Euler a",
            "scheduler": "sgm_uniform",
            "batch_size": 2,
            "n_iter": 2,
            "override_settings": {"sd_model_checkpoint": "fake [0123456789]"},
            "enable_hr": False,
            "styles": [],
            "alwayson_scripts": {},
        },
    )
    info = json.loads(answer["info"])
    assert info["all_seeds"] == [5, 6, 7, 8]
    assert (info["sampler_name"], info["sd_model_name"]) == ("euler_a", "fake")
    for text, seed in zip(answer["images"], info["all_seeds"], strict=True):
        image = opened(text)
        request = metadata.read_image(image).request
        assert image.tobytes() == fake_models.picture("a panda", seed, (128, 64)).tobytes()
        assert (request.seed, request.steps, request.guidance) == (seed, 6, 2)
        assert (request.sampler, request.schedule) == ("euler_a", "trailing")
    assert info["infotexts"][0].startswith("a panda\nNegative prompt: a cat\nSteps: 6, ")
    assert answer["parameters"]["batch_size"] == 2


def test_the_best_of_many(quick: FakeSite) -> None:
    answer = call(quick, "txt2img", {"prompt": "a fox", "seed": 1, "candidates": 8})
    best = max((fake_models.picture("a fox", seed) for seed in range(1, 9)), key=fake_models.score)
    [text] = answer["images"]
    assert opened(text).tobytes() == best.tobytes()
    info = json.loads(answer["info"])
    assert info["probabilities"] == pytest.approx([fake_models.score(best)])
    assert [(each["claim"], each["holds"]) for each in info["claims"][0]] == [
        ("a", True),
        ("fox", False),
    ]


@pytest.mark.parametrize(
    "body",
    [
        {"prompt": ""},
        {"prompt": "a", "batch_size": 100, "n_iter": 100},
        {"prompt": "a", "steps": 10**6},
        {"prompt": "a", "width": 100_000, "height": 100_000},
        {"prompt": "a", "width": 64},
        {"prompt": "a", "sampler_name": "magic"},
        {"prompt": "a", "scheduler": "magic"},
        {"prompt": "a", "seed": 1.5},
        {"prompt": ["a"]},
        [],
    ],
    ids=lambda body: str(body)[:40],
)
def test_what_cannot_be_is_refused(body: object, quick: FakeSite) -> None:
    code, detail = refused(quick, body)
    assert code == 400
    assert detail


def test_a_model_goes_without_what_it_does_not_take(quick: FakeSite, fixed: str) -> None:
    body = {
        "prompt": "a fox",
        "seed": 1,
        "steps": 20,
        "cfg_scale": 4,
        "sampler_name": "Euler a",
        "width": 64,
        "height": 64,
        "override_settings": {"sd_model_checkpoint": fixed},
    }
    answer = call(quick, "txt2img", body)
    assert opened(answer["images"][0]).size == (64, 64)
    info = json.loads(answer["info"])
    assert (info["steps"], info["cfg_scale"], info["sd_model_name"]) == (None, 4, fixed)
    assert info["notes"] == ["fixed takes no sampler, steps: left out"]
    answer = call(quick, "txt2img", body | {"width": 512, "height": 512})
    assert opened(answer["images"][0]).size == (64, 64)
    info = json.loads(answer["info"])
    assert (info["width"], info["height"]) == (64, 64)
    assert info["notes"][-1] == "512x512 is not drawn by fixed: drawn at 64x64"


def test_a_model_that_is_not_served(quick: FakeSite) -> None:
    settings = {"sd_model_checkpoint": "/etc"}
    assert refused(quick, {"prompt": "a", "override_settings": settings})[0] == 404


def test_progress_and_interrupt(quick: FakeSite) -> None:
    quick.fakes.pipeline.seconds_per_step = 0.02
    answers: list[Any] = []
    asked = {"prompt": "an owl", "steps": 240, "batch_size": 2, "seed": 9}
    asking = threading.Thread(target=lambda: answers.append(call(quick, "txt2img", asked)))
    asking.start()
    deadline = time.monotonic() + PATIENCE
    while (seen := call(quick, "progress"))["state"]["sampling_step"] < 2:
        assert time.monotonic() < deadline
    assert 0 < seen["progress"] < 1
    assert seen["eta_relative"] > 0
    assert seen["state"]["sampling_steps"] == 240
    while (seen := call(quick, "progress"))["current_image"] is None:
        assert time.monotonic() < deadline
    assert opened(seen["current_image"]).size == (64, 64)
    assert call(quick, "progress?skip_current_image=true")["current_image"] is None

    assert call(quick, "interrupt", {}) == {}
    asking.join(PATIENCE)
    [answer] = answers
    records = [metadata.read_image(opened(text)) for text in answer["images"]]
    assert len(records) == 2
    assert all(record.unfinished.endswith("of 240") for record in records)  # type: ignore[union-attr]
    assert call(quick, "progress")["progress"] == 0


def test_a_job_of_another_client_is_not_interrupted(quick: FakeSite) -> None:
    from gen.settings.request import Request

    quick.fakes.pipeline.seconds_per_step = 0.02
    job = quick.service.submit(Request("a crow", seed=1, candidates=1, steps=20), "somebody")
    call(quick, "interrupt", {})
    assert job.future.result(PATIENCE).best[0].unfinished is None


def test_png_info(quick: FakeSite) -> None:
    [text] = call(quick, "txt2img", {"prompt": "a panda", "seed": 5})["images"]
    answer = call(quick, "png-info", {"image": "data:image/png;base64," + text})
    assert answer["info"].startswith("a panda\nSteps: 4, Sampler: Euler, ")
    assert answer["items"] == {"parameters": answer["info"]}
    assert answer["parameters"]["cfg_scale"] == 3.0
    assert answer["parameters"]["sampler_name"] == "euler"
    again = call(quick, "txt2img", answer["parameters"] | {"override_settings": {}})
    assert opened(again["images"][0]).tobytes() == opened(text).tobytes()

    plain = io.BytesIO()
    fake_models.picture("a", 1).save(plain, "png")
    nothing = call(quick, "png-info", {"image": base64.b64encode(plain.getvalue()).decode()})
    assert nothing == {"info": "", "items": {}, "parameters": {}}


def test_what_there_is(quick: FakeSite) -> None:
    models = {model["model_name"]: model for model in call(quick, "sd-models")}
    assert models["fake"]["title"] == f"fake [{models['fake']['hash']}]"
    assert "/" not in models["fake"]["filename"]
    samplers = {sampler["name"]: sampler["aliases"] for sampler in call(quick, "samplers")}
    assert samplers["DPM++ 2M"] == ["dpmpp_2m"]
    assert samplers["Euler a"] == ["euler_a", "euler_ancestral"]


@pytest.mark.parametrize(
    ("sent", "sampler", "schedule"),
    [
        ({"sampler_name": "DPM++ 2M Karras"}, "dpmpp_2m", "karras"),
        ({"sampler_name": "DPM++ 2M Karras", "scheduler": "Automatic"}, "dpmpp_2m", "karras"),
        ({"sampler_name": "k_euler_a"}, "euler_a", "default"),
        ({"sampler_index": "Euler a"}, "euler_a", "default"),
        ({"sampler_name": "", "sampler_index": "Heun"}, "heun", "default"),
        ({"sampler_name": "Euler", "sampler_index": "Heun"}, "euler", "default"),
        ({"scheduler": "simple"}, "euler", "default"),
        ({"scheduler": "SGM Uniform"}, "euler", "trailing"),
        ({"sampler_name": "Euler a", "scheduler": "karras"}, "euler_a", "default"),
    ],
    ids=str,
)
def test_names_of_samplers(
    sent: dict[str, str], sampler: str, schedule: str, quick: FakeSite
) -> None:
    answer = call(quick, "txt2img", {"prompt": "a fox", "seed": 1, **sent})
    request = metadata.read_image(opened(answer["images"][0])).request
    assert (request.sampler, request.schedule) == (sampler, schedule)
    notes = json.loads(answer["info"])["notes"]
    assert bool(notes) == (sent == {"sampler_name": "Euler a", "scheduler": "karras"})


@pytest.mark.parametrize(
    "sent",
    [
        {"enable_hr": True},
        {"subseed_strength": 0.2},
        {"seed_resize_from_h": 64},
        {"styles": ["a style"]},
        {"restore_faces": True},
        {"tiling": True},
        {"script_name": "x/y/z plot"},
        {"refiner_checkpoint": "other"},
        {"s_churn": 1},
        {"eta": 0.5},
        {"sampler_index": "Nonsense"},
        {"scheduler": "Beta"},
        {"clip_skip": 100},
        {"prompt": "a fox <lora:x:0.8>"},
        {"alwayson_scripts": {"ADetailer": {"args": [True, {"ad_model": "face"}]}}},
        {"override_settings": {"sd_vae": "another.safetensors"}},
        {"override_settings": {"CLIP_stop_at_last_layers": "two"}},
    ],
    ids=str,
)
def test_what_is_not_done_is_refused_by_name(sent: dict[str, Any], quick: FakeSite) -> None:
    code, detail = refused(quick, {"prompt": "a fox", **sent})
    [name] = sent.get("override_settings", sent)
    named = {"sampler_index": "sampler", "scheduler": "schedule"}.get(name, name)
    assert code == 400
    assert named.removeprefix("CLIP_") in detail or "clip_skip" in detail


def test_keys_that_are_not_known_are_noted(quick: FakeSite) -> None:
    body = {
        "prompt": "a fox",
        "seed": 1,
        "brand_new": 3,
        "subseed": 5,
        "hr_scale": 2,
        "alwayson_scripts": {"ControlNet": {"args": []}, "ADetailer": {"args": [False]}},
        "override_settings": {"upcast_attn": True, "sd_vae": "Automatic"},
    }
    notes = json.loads(call(quick, "txt2img", body)["info"])["notes"]
    assert notes == [
        "not known here, so without effect: brand_new",
        "not known here, so without effect: override_settings.upcast_attn",
    ]


def test_options_hold_for_the_client_that_set_them(quick: FakeSite) -> None:
    before = call(quick, "options")
    try:
        assert before["sd_model_checkpoint"].startswith("fake [")
        assert call(quick, "options", {**before, "sd_model_checkpoint": "other"}) is None
        assert call(quick, "options")["sd_model_checkpoint"].startswith("other [")
        info = json.loads(call(quick, "txt2img", {"prompt": "a fox", "seed": 1})["info"])
        assert info["sd_model_name"] == "other"
        asked = {"override_settings": {"sd_model_checkpoint": before["sd_model_checkpoint"]}}
        info = json.loads(call(quick, "txt2img", {"prompt": "a fox", **asked})["info"])
        assert info["sd_model_name"] == "fake"
        assert call(quick, "options")["sd_model_checkpoint"].startswith("other [")
        kept = asked | {"override_settings_restore_afterwards": False}
        call(quick, "txt2img", {"prompt": "a fox", **kept})
        assert call(quick, "options") == before
    finally:
        call(quick, "options", {"sd_model_checkpoint": "fake"})
    for bad in ({"sd_model_checkpoint": "/etc"}, {"samples_format": "jpg"}, {"new": 1}):
        with pytest.raises(urllib.error.HTTPError) as error:
            call(quick, "options", bad)
        assert error.value.code in (400, 404)


def test_choices_of_very_many_clients_are_bounded() -> None:
    choices = Choices()
    for number in range(MOST_CLIENTS + 5):
        choices.keep(str(number), Choice(model="other"))
    assert len(choices._chosen) == MOST_CLIENTS
    assert choices.of("0") == Choice()
    assert choices.of(str(MOST_CLIENTS)) == Choice(model="other")
