"""Clients that others wrote, and requests as their sources make them, against the whole site."""

import base64
import io
import json
import urllib.error
import urllib.request
from dataclasses import replace
from pathlib import Path
from typing import Any

import fake_models
import pytest
import torch
from fake_site import FakeSite
from PIL import Image
from safetensors.torch import save_file

from gen import metadata
from pipelines import families
from pipelines.checkpoints.specs import Adapters
from pipelines.diffusion.samplers import SAMPLERS, SCHEDULES

pytestmark = pytest.mark.slow
PATIENCE = 60


def send(site: FakeSite, method: str, path: str, body: object = None) -> tuple[int, Any]:
    """The status and JSON of an answer; as aiohttp and node-fetch send it."""
    data = None if body is None else json.dumps(body).encode()
    headers = {"Content-Type": "application/json"} if body is not None else {}
    request = urllib.request.Request(f"{site.url}{path}", data, headers, method=method)
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def opened(text: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(text)))


# --- PyPI webuiapi


@pytest.fixture(scope="module")
def webui(fake_site: FakeSite) -> Any:
    webuiapi = pytest.importorskip("webuiapi", reason="webuiapi is not installed")
    return webuiapi.WebUIApi(baseurl=f"{fake_site.url}/sdapi/v1", steps=4)


def test_webuiapi_draws_with_its_defaults(webui: Any, quick: FakeSite) -> None:
    result = webui.txt2img(prompt="a fox", seed=7)  # 512x512, Euler a, eta 1, and so on
    assert result.image.tobytes() == fake_models.picture("a fox", 7).tobytes()
    assert result.info["sampler_name"] == "euler_a"
    assert result.info["notes"] == ["512x512 is not drawn by fake: drawn at 64x64"]
    assert result.parameters["width"] == 512


def test_webuiapi_draws_several(webui: Any, quick: FakeSite) -> None:
    result = webui.txt2img(
        prompt="a fox", negative_prompt="a cat", seed=7, batch_size=2, n_iter=2, width=64, height=64
    )
    assert [image.tobytes() for image in result.images] == [
        fake_models.picture("a fox", seed).tobytes() for seed in range(7, 11)
    ]


@pytest.mark.parametrize("name", [row.a1111 for row in SAMPLERS.values()])
def test_webuiapi_draws_with_every_sampler(name: str, webui: Any, quick: FakeSite) -> None:
    result = webui.txt2img(prompt="a fox", seed=1, sampler_name=name, width=64, height=64)
    assert SAMPLERS[result.info["sampler_name"]].a1111 == name


@pytest.mark.parametrize("name", [*SCHEDULES, *(row.a1111 for row in SCHEDULES.values())])
def test_webuiapi_draws_with_every_schedule(name: str, webui: Any, quick: FakeSite) -> None:
    result = webui.txt2img(
        prompt="a fox", seed=1, sampler_name="Euler", scheduler=name, width=64, height=64
    )
    assert result.info["scheduler"] in SCHEDULES


def test_webuiapi_asks_what_there_is(webui: Any, quick: FakeSite) -> None:
    assert "Euler a" in webui.util_get_sampler_names()
    assert "karras" in webui.util_get_scheduler_names()
    [title] = [name for name in webui.util_get_model_names() if name.startswith("fake [")]
    assert webui.util_get_current_model() == title
    assert webui.get_upscalers()[0]["name"] == "None"
    assert webui.get_scripts() == {"txt2img": [], "img2img": []}
    assert webui.get_embeddings() == {"loaded": {}, "skipped": {}}
    assert webui.get_memory()["ram"]["total"] > 0
    assert webui.get_cmd_flags()["api"] is True
    assert webui.get_latent_upscale_modes() == [{"name": "Latent"}]
    assert {"name", "prompt", "negative_prompt"} == set(webui.get_prompt_styles()[0])
    for name in ("sd_vae", "loras", "hypernetworks", "face_restorers", "realesrgan_models"):
        assert getattr(webui, f"get_{name}")() == []
    assert webui.refresh_checkpoints() is None
    assert webui.interrupt() == webui.skip() == {}
    assert webui.get_progress()["state"]["job_count"] == 0
    webui.util_wait_for_ready()


def test_webuiapi_chooses_a_model(
    webui: Any, quick: FakeSite, capsys: pytest.CaptureFixture[str]
) -> None:
    webui.util_set_model("other")
    try:
        assert webui.txt2img(prompt="a fox", seed=1).info["sd_model_name"] == "other"
        assert webui.util_get_current_model().startswith("other [")
    finally:
        webui.set_options({"sd_model_checkpoint": "fake"})


def test_webuiapi_reads_what_an_image_says(webui: Any, quick: FakeSite) -> None:
    image = webui.txt2img(prompt="a fox", seed=7).image
    assert webui.png_info(image).info.startswith("a fox\nSteps: 4, Sampler: Euler a, ")
    with pytest.raises(RuntimeError, match="interrogate: no network that describes images"):
        webui.interrogate(image)


def test_webuiapi_enlarges(webui: Any, quick: FakeSite) -> None:
    image = fake_models.picture("a fox", 1)
    twice = webui.extra_single_image(image, upscaler_1="Nearest", upscaling_resize=2).image
    assert twice.tobytes() == image.resize((128, 128), Image.Resampling.NEAREST).tobytes()
    sized = webui.extra_single_image(
        image, resize_mode=1, upscaling_resize_w=96, upscaling_resize_h=128, upscaler_1="Lanczos"
    )
    assert sized.image.size == (96, 128)
    assert webui.extra_single_image(image).image.tobytes() == image.tobytes()
    several = webui.extra_batch_images([image, image], upscaler_1="Lanczos").images
    assert [each.size for each in several] == [(128, 128)] * 2
    for bad, name in (
        ({"upscaler_1": "ESRGAN_4x"}, "upscaler_1"),
        ({"gfpgan_visibility": 1}, "gfpgan_visibility"),
        ({"resize_mode": 0, "upscaler_1": "Nearest", "upscaling_resize": 9}, "upscaling_resize"),
    ):
        with pytest.raises(RuntimeError, match=name):
            webui.extra_single_image(image, **bad)


def test_webuiapi_asks_for_the_words_of_its_model(
    webui: Any, quick: FakeSite, fixed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "words.safetensors"
    save_file({"<fox>": torch.zeros(2, 8), "<cat>": torch.zeros(8)}, path)
    spec = replace(families.shipped()[fixed], adapters=Adapters(embeddings=(path,)))
    monkeypatch.setitem(families.shipped(), fixed, spec)  # type: ignore[arg-type]
    webui.set_options({"sd_model_checkpoint": fixed})
    try:
        loaded = webui.get_embeddings()["loaded"]
    finally:
        webui.set_options({"sd_model_checkpoint": "fake"})
    assert {word: (e["vectors"], e["shape"]) for word, e in loaded.items()} == {
        "<fox>": (2, 8),
        "<cat>": (1, 8),
    }
    assert webui.get_embeddings() == {"loaded": {}, "skipped": {}}


def test_webuiapi_is_told_what_is_not_done(webui: Any, quick: FakeSite) -> None:
    with pytest.raises(RuntimeError, match="enable_hr: fake draws once"):
        webui.txt2img(prompt="a fox", enable_hr=True)
    assert "/controlnet/version" in webui.custom_get("controlnet/version")["detail"]


# --- LangChain


def test_langchain(quick: FakeSite, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("langchain_community", reason="langchain-community is not installed")
    from langchain_community.utilities.dalle_image_generator import DallEAPIWrapper

    draw = DallEAPIWrapper(
        model="fake", size="64x64", n=2, api_key="none", base_url=f"{quick.url}/v1"
    )
    addresses = draw.run("a fox").split("\n")
    assert len(addresses) == 2
    for address in addresses:
        with urllib.request.urlopen(address, timeout=PATIENCE) as answer:
            assert metadata.read_image(Image.open(answer)).request.prompt == "a fox"


# --- Open WebUI, after backend/open_webui/routers/images.py


def test_open_webui(quick: FakeSite) -> None:
    status, options = send(quick, "GET", "/sdapi/v1/options")  # verifies the address
    assert status == 200
    status, models = send(quick, "GET", "/sdapi/v1/sd-models")
    choices = [{"id": model["title"], "name": model["model_name"]} for model in models]
    [other] = [choice["id"] for choice in choices if choice["name"] == "other"]
    assert options["sd_model_checkpoint"] != other
    try:
        options["sd_model_checkpoint"] = other  # all options go back as they came
        assert send(quick, "POST", "/sdapi/v1/options", options)[0] == 200
        assert send(quick, "GET", "/sdapi/v1/options")[1]["sd_model_checkpoint"] == other
        body = {"prompt": "a fox", "batch_size": 1, "width": 512, "height": 512, "steps": 50}
        status, answer = send(quick, "POST", "/sdapi/v1/txt2img", body)
        assert status == 200
        assert opened(answer["images"][0]).size == (64, 64)
        assert json.loads(answer["info"])["sd_model_name"] == "other"
    finally:
        send(quick, "POST", "/sdapi/v1/options", {"sd_model_checkpoint": "fake"})


def test_open_webui_by_its_other_engine(quick: FakeSite) -> None:
    body = {
        "model": "fake",
        "prompt": "a fox",
        "n": 1,
        "size": "64x64",
        "response_format": "b64_json",
    }
    status, answer = send(quick, "POST", "/v1/images/generations?api-version=2025", body)
    assert status == 200
    [image] = answer["data"]
    assert "url" not in image  # which it would take first, and may not fetch from here
    assert opened(image["b64_json"]).size == (64, 64)


# --- SillyTavern, after src/endpoints/stable-diffusion.js and its extension


def test_sillytavern(quick: FakeSite) -> None:
    assert send(quick, "GET", "/sdapi/v1/options")[0] == 200  # ping, and get-model
    names = {}
    for path in ("upscalers", "latent-upscale-modes", "samplers", "schedulers"):
        status, items = send(quick, "GET", f"/sdapi/v1/{path}")
        assert status == 200
        names[path] = [item["name"] for item in items]
    assert names["upscalers"][0] == "None"
    assert send(quick, "GET", "/sdapi/v1/sd-vae") == (200, [])
    titles = [model["title"] for model in send(quick, "GET", "/sdapi/v1/sd-models")[1]]
    [title] = [title for title in titles if title.startswith("fake [")]
    assert send(quick, "POST", "/sdapi/v1/options", {"sd_model_checkpoint": title})[0] == 200
    progress = send(quick, "GET", "/sdapi/v1/progress")[1]
    assert (progress["progress"], progress["state"]["job_count"]) == (0, 0)
    for sampler in names["samplers"]:
        for scheduler in (*names["schedulers"], "Automatic", "normal", "simple"):
            body = {
                "url": "http://localhost:7860",
                "auth": "",
                "prompt": "a fox",
                "negative_prompt": "blurry",
                "sampler_name": sampler,
                "scheduler": scheduler,
                "steps": 20,
                "cfg_scale": 7,
                "width": 512,
                "height": 512,
                "restore_faces": False,
                "enable_hr": False,
                "hr_upscaler": "Latent",
                "hr_scale": 1,
                "hr_additional_modules": [],
                "denoising_strength": 0.7,
                "hr_second_pass_steps": 0,
                "seed": -1,
                "override_settings": {"CLIP_stop_at_last_layers": 1, "sd_vae": "Automatic"},
                "override_settings_restore_afterwards": True,
                "clip_skip": 1,
                "save_images": True,
                "send_images": True,
                "do_not_save_grid": False,
                "do_not_save_samples": False,
            }
            status, answer = send(quick, "POST", "/sdapi/v1/txt2img", body)
            assert status == 200, answer
            assert opened(answer["images"][0]).format == "PNG"
    assert send(quick, "POST", "/sdapi/v1/interrupt") == (200, {})


# --- what any client does


@pytest.mark.parametrize("path", ["/healthz", "/metrics", "/v1/models", "/sdapi/v1/sd-models", "/"])
def test_head_is_get_without_a_body(path: str, quick: FakeSite) -> None:
    heads = []
    for method in ("GET", "HEAD"):
        request = urllib.request.Request(quick.url + path, method=method)
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
            heads.append((answer.status, answer.headers["content-type"]))
            assert bool(answer.read()) == (method == "GET")
    assert heads[0] == heads[1]


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/v1/images/generations", "POST"),
        ("DELETE", "/v1/models/fake", "GET"),
        ("POST", "/healthz", "GET"),
        ("PUT", "/sdapi/v1/options", "GET, POST"),
        ("HEAD", "/v1/rerank", "POST"),
    ],
)
def test_a_wrong_method(method: str, path: str, allowed: str, quick: FakeSite) -> None:
    request = urllib.request.Request(quick.url + path, method=method)
    with pytest.raises(urllib.error.HTTPError) as error:
        urllib.request.urlopen(request, timeout=PATIENCE)
    assert (error.value.code, error.value.headers["allow"]) == (405, allowed)


@pytest.mark.parametrize(("method", "path"), [("POST", "/images/generations"), ("GET", "/models")])
def test_a_base_url_without_v1(method: str, path: str, quick: FakeSite) -> None:
    status, answer = send(quick, method, path, {} if method == "POST" else None)
    assert (status, answer["error"]["code"]) == (404, "not_found")
    assert answer["error"]["message"].endswith("the base URL of this API ends in /v1")


@pytest.mark.parametrize("kind", [None, "application/x-www-form-urlencoded", "text/plain"])
def test_a_body_that_is_not_called_json(kind: str | None, quick: FakeSite) -> None:
    request = urllib.request.Request(f"{quick.url}/v1/images/generations", b'{"prompt": "a fox"}')
    if kind is not None:
        request.add_header("Content-Type", kind)
    with pytest.raises(urllib.error.HTTPError) as error:
        urllib.request.urlopen(request, timeout=PATIENCE)
    assert error.value.code == 415
    assert "Content-Type: application/json" in json.load(error.value)["error"]["message"]


@pytest.mark.parametrize(
    "body", [b'{"prompt": ', b"[" * 5000, b'{"prompt": "a", "seed": ' + b"9" * 5000 + b"}", b"\xff"]
)
def test_json_that_is_none(body: bytes, quick: FakeSite) -> None:
    for path in ("/v1/images/generations", "/sdapi/v1/txt2img", "/v1/rerank"):
        request = urllib.request.Request(
            quick.url + path, body, {"Content-Type": "application/json"}
        )
        with pytest.raises(urllib.error.HTTPError) as error:
            urllib.request.urlopen(request, timeout=PATIENCE)
        assert error.value.code == 400
        assert json.load(error.value)["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize("body", [b"", b"[]", b"null", b'"a fox"'])
@pytest.mark.parametrize("path", ["/v1/images/generations", "/sdapi/v1/txt2img", "/v1/rerank"])
def test_json_that_is_no_object(path: str, body: bytes, quick: FakeSite) -> None:
    request = urllib.request.Request(quick.url + path, body, {"Content-Type": "application/json"})
    with pytest.raises(urllib.error.HTTPError) as error:
        urllib.request.urlopen(request, timeout=PATIENCE)
    assert error.value.code == 400
    assert "must be a JSON object" in json.load(error.value)["error"]["message"]


def test_a_byte_order_mark_before_json(quick: FakeSite) -> None:
    body = b'\xef\xbb\xbf{"prompt": "a fox", "n": 1}'
    url = f"{quick.url}/v1/images/generations"
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
        assert len(json.load(answer)["data"]) == 1
