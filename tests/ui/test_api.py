"""The API as OpenAI's own client speaks to it."""

import base64
import io
import json
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fake_models
import pytest
from fake_site import serve_fakes
from PIL import Image

from gen import metadata
from gen.models import WeightsError
from gen.settings.request import Request
from ui.access.credentials import Credentials
from ui.service import queue

openai = pytest.importorskip("openai", reason="openai is not installed")
PATIENCE = 60


@pytest.fixture(params=[True, False], ids=["strict", "loose"])
def client(request: pytest.FixtureRequest, quick) -> Iterator[Any]:
    """OpenAI's client, with and without validation of what comes back."""
    with connect(quick, _strict_response_validation=request.param) as client:
        yield client


def connect(site, **options: Any) -> Any:
    given = {"api_key": "any", "max_retries": 0, **options}
    return openai.OpenAI(base_url=f"{site.url}/v1", **given)


def ask(client: Any, **extra: Any) -> Any:
    """A small order; what OpenAI has no name for goes into the body beside the rest."""
    named = {k: extra.pop(k) for k in list(extra) if k in ("n", "size", "model", "response_format")}
    return client.images.generate(
        prompt="a panda", **named, extra_body={"seed": 1, "candidates": 4, **extra}
    )


def pixels(picture: Any) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(picture.b64_json)))


def wait_until(condition: Any) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "in vain"
        time.sleep(0.005)


def test_a_prompt_is_enough(client, quick) -> None:
    answer = client.images.generate(prompt="a panda")
    [picture] = answer.data
    image = pixels(picture)
    assert (image.format, image.size) == ("PNG", (64, 64))
    assert picture.rank == 1
    assert -1 <= picture.score <= 1
    assert abs(answer.created - time.time()) < PATIENCE
    assert metadata.read_image(image).candidates == 16


def test_four_images_best_first(client) -> None:
    answer = ask(client, n=4, candidates=8)
    assert [picture.rank for picture in answer.data] == [1, 2, 3, 4]
    scores = [picture.score for picture in answer.data]
    assert scores == sorted(scores, reverse=True)
    for picture in answer.data:
        assert fake_models.score(pixels(picture)) == pytest.approx(picture.score)
        assert pixels(picture).tobytes() == fake_models.picture("a panda", picture.seed).tobytes()


def test_what_a_score_means_is_said_beside_it(client) -> None:
    for picture in ask(client, n=2).data:
        assert picture.probability == pytest.approx(fake_models.score(pixels(picture)))
        assert picture.percentile == 99
        assert picture.claims == [
            {"kind": "object", "claim": "a", "holds": True},
            {"kind": "object", "claim": "panda", "holds": False},
        ]
        assert picture.fits_best == "a panda"


def test_what_is_not_known_of_a_score_is_left_out(client, quick, monkeypatch) -> None:
    def uncalibrated(prompt: str, images: Any) -> Any:
        raise WeightsError("it has no calibration.json")

    monkeypatch.setattr(quick.fakes.jury, "calibrated", uncalibrated)
    [picture] = ask(client, seed=77).data
    assert picture.claims
    assert not hasattr(picture, "probability")
    monkeypatch.setattr(quick.service, "_usual", [])
    [picture] = ask(client, seed=78).data
    assert not hasattr(picture, "claims")
    assert not hasattr(picture, "score")


def test_the_same_seed_twice_is_the_same_file(client) -> None:
    first, second = (ask(client, seed=2**53 + 1).data[0] for _ in range(2))
    assert first.b64_json == second.b64_json
    assert int(first.seed) >= 2**53 + 1


def test_images_by_url(client, quick) -> None:
    [picture] = ask(client, response_format="url").data
    assert picture.url.startswith(f"{quick.url}/v1/files/")
    with urllib.request.urlopen(picture.url) as answer:
        assert answer.headers["content-type"] == "image/png"
        assert Image.open(answer).size == (64, 64)
    [inline] = ask(client, response_format="b64_json").data
    assert pixels(inline).size == (64, 64)


@pytest.mark.parametrize("name", ["..", "nothing.png", "%2e%2e%2fqueue.json", ""])
def test_there_are_no_other_files(name: str, quick) -> None:
    with pytest.raises(urllib.error.HTTPError) as error:
        urllib.request.urlopen(f"{quick.url}/v1/files/{name}")
    assert error.value.code in (403, 404)


@pytest.mark.parametrize("form", ["png", "jpeg", "webp"])
def test_formats(form: str, client) -> None:
    answer = client.images.generate(
        prompt="a panda", output_format=form, output_compression=50, size="128x96"
    )
    image = pixels(answer.data[0])
    assert (image.format, image.size) == (form.upper(), (128, 96))
    assert metadata.read_image(image).request.prompt == "a panda"
    assert answer.output_format == form


def test_null_and_what_makes_no_difference(client) -> None:
    answer = client.images.generate(
        prompt="a panda",
        model=None,
        n=None,
        size="auto",
        quality="hd",
        style="vivid",
        moderation="low",
        background="opaque",
        user="me",
    )
    assert pixels(answer.data[0]).size == (64, 64)


def test_both_ways_to_have_an_image_unless_one_is_asked_for(client) -> None:
    [picture] = ask(client).data
    with urllib.request.urlopen(picture.url) as answer:
        assert answer.read() == base64.b64decode(picture.b64_json)
    assert ask(client, response_format="url").data[0].b64_json is None
    assert ask(client, response_format="b64_json").data[0].url is None


def test_what_openai_thinks_of_next(client) -> None:
    answer = client.images.generate(
        prompt="a panda", model="", extra_body={"safety_identifier": "me", "seed": 42.0}
    )
    assert answer.notes == ["not known here, so without effect: safety_identifier"]
    assert (answer.data[0].model, int(answer.data[0].seed) - 42 in range(16)) == ("fake", True)


def test_settings_by_their_other_names(client) -> None:
    more = {"guidance_scale": 0, "num_inference_steps": 7, "sampler_name": "Euler a"}
    answer = client.images.generate(prompt="a panda", extra_body={**more, "cfg_scale": 0})
    request = metadata.read_image(pixels(answer.data[0])).request
    assert (request.guidance, request.steps, request.sampler) == (0, 7, "euler_a")
    assert answer.notes == []
    with pytest.raises(openai.BadRequestError, match="guidance_scale and guidance say the same"):
        ask(client, guidance=1, guidance_scale=2)


def test_extensions_reach_the_model(client, quick) -> None:
    [picture] = ask(
        client, negative_prompt="a cat", steps=7, guidance=0, sampler="euler_a", models=["fake"]
    ).data
    request = metadata.read_image(pixels(picture)).request
    assert (request.negative_prompt, request.steps, request.guidance) == ("a cat", 7, 0)
    assert (request.sampler, request.model, picture.model) == ("euler_a", "fake", "fake")
    [first, second] = ask(client, model="fake", n=2, candidates=2).data
    assert {int(first.seed), int(second.seed)} == {1, 2}


def test_two_models_draw_in_turn(client) -> None:
    answer = ask(client, models=["fake", "other"], n=4, top_k=4)
    assert sorted(picture.model for picture in answer.data) == ["fake", "fake", "other", "other"]


@pytest.mark.parametrize(
    ("body", "param", "code"),
    [
        ({"size": "100x100"}, "size", "invalid_size"),
        ({"size": "100000x100000"}, "size", "invalid_size"),
        ({"size": "large"}, "size", "invalid_value"),
        ({"n": 11}, "n", "invalid_value"),
        ({"n": 10**6}, "n", "invalid_value"),
        ({"steps": 10**6}, "steps", "invalid_value"),
        ({"candidates": 10**6}, "candidates", "invalid_value"),
        ({"seed": "seven"}, "seed", "invalid_value"),
        ({"seed": -2}, "seed", "invalid_value"),
        ({"seed": 1.5}, "seed", "invalid_value"),
        ({"steps": 1.5}, "steps", "invalid_value"),
        ({"guidance": "4"}, "guidance", "invalid_value"),
        ({"sampler": "magic"}, "sampler", "invalid_value"),
        ({"negative_prompt": "\x00"}, "negative_prompt", "invalid_value"),
        ({"prompt": " "}, "prompt", "invalid_value"),
        ({"prompt": "x" * 20_000}, "prompt", "invalid_value"),
        ({"step": 3}, "step", "unknown_parameter"),
        ({"background": "transparent"}, "background", "invalid_value"),
        ({"output_format": "../../x"}, "output_format", "invalid_value"),
        ({"model": "fake", "models": ["fake"]}, "models", "invalid_value"),
        ({"n": 2, "top_k": 3}, "top_k", "invalid_value"),
    ],
    ids=lambda value: str(value)[:30],
)
@pytest.mark.fault("too much by the API")
def test_a_bad_value_is_named_at_once(
    body: dict[str, Any], param: str, code: str, quick, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quick.service.queue, "submit", None)  # nothing is to get that far
    client = connect(quick)
    with pytest.raises(openai.BadRequestError) as error:
        client.images.generate(prompt="a panda", extra_body=body)
    assert (error.value.param, error.value.code) == (param, code)
    assert param in error.value.message


def test_a_size_that_no_model_draws_names_those_it_does(quick) -> None:
    with pytest.raises(openai.BadRequestError, match=r"64x64.* multiples of 16 from 64 to 256"):
        ask(connect(quick), size="1024x1024")


def test_a_model_of_one_size_is_asked_for_it(client, fixed: str) -> None:
    [picture] = ask(client, model=fixed, size="64x64").data
    assert pixels(picture).size == (64, 64)
    assert len(ask(client, models=["fake", fixed], n=4, size="64x64").data) == 4
    with pytest.raises(openai.BadRequestError, match=r"fixed draws 64x64$") as error:
        ask(client, model=fixed, size="128x128")
    assert error.value.param == "size"


def test_an_unknown_model_is_not_found(quick) -> None:
    for name in ("dall-e-3", "/etc", "../fake"):
        with pytest.raises(openai.NotFoundError, match="choose from") as error:
            ask(connect(quick), model=name)
        assert (error.value.param, error.value.code) == ("model", "model_not_found")


def test_models(client) -> None:
    assert {"fake", "other"} <= {model.id for model in client.models.list()}
    assert client.models.retrieve("fake").id == "fake"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("nobody")


def test_streaming(client, quick) -> None:
    seed = 100 if client._strict_response_validation else 200
    quick.fakes.pipeline.seconds_per_step = 0.01
    events = list(
        client.images.generate(
            prompt="a panda",
            stream=True,
            partial_images=2,
            n=2,
            extra_body={"seed": seed, "candidates": 4},
        )
    )
    kinds = [event.type.removeprefix("image_generation.") for event in events]
    partials = kinds.count("partial_image")
    assert 1 <= partials <= 2
    assert kinds == ["partial_image"] * partials + ["completed"] * 2
    assert [event.partial_image_index for event in events[:partials]] == list(range(partials))
    assert all(pixels(event).size == (64, 64) for event in events)
    plain = ask(client, seed=seed, n=2)
    assert [event.b64_json for event in events[partials:]] == [p.b64_json for p in plain.data]


def test_a_stream_that_fails(client, quick) -> None:
    quick.fakes.pipeline.room_in_step = 0
    with pytest.raises(openai.APIError, match="not enough memory"):
        list(client.images.generate(prompt="a panda", stream=True, extra_body={"seed": 321}))


@pytest.mark.fault("memory runs out")
def test_memory_that_is_short_is_told_once_and_the_next_job_runs(quick) -> None:
    quick.fakes.pipeline.room_in_begin = 0
    calls = []
    client = connect(quick, max_retries=2)
    client._client.event_hooks["request"].append(calls.append)
    with pytest.raises(openai.InternalServerError, match="not enough memory") as error:
        ask(client, seed=55)
    assert error.value.status_code == 503
    assert error.value.response.headers["x-should-retry"] == "false"
    assert len(calls) == 1
    quick.fakes.pipeline.room_in_begin = 10_000
    assert ask(client, seed=55).data


def test_no_image_came_of_it(quick) -> None:
    quick.fakes.pipeline.broken_seeds = {70, 71}
    with pytest.raises(openai.InternalServerError, match="not finite") as error:
        ask(connect(quick, max_retries=0), seed=70, candidates=2)
    assert error.value.code == "no_picture"
    answer = ask(connect(quick), seed=71, candidates=2)
    assert answer.data[0].seed == 72
    assert answer.failed == ["seed 71: not finite"]


def test_a_fault_of_ours_shows_nothing_of_the_inside(quick) -> None:
    def break_down(draft: Any) -> None:
        raise ZeroDivisionError("secret")

    quick.fakes.pipeline.on_step = break_down
    with pytest.raises(openai.InternalServerError) as error:
        ask(connect(quick), seed=80)
    assert "secret" not in error.value.response.text
    assert "Traceback" not in error.value.response.text
    assert error.value.code == "bug"


@pytest.mark.fault("a client with very many jobs")
def test_the_queue_is_full(quick, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue, "WAITING", 0)
    with pytest.raises(openai.RateLimitError) as error:
        ask(connect(quick), seed=90)
    assert int(error.value.response.headers["retry-after"]) >= 1
    assert error.value.code == "queue_full"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.fault("a client that leaves")
def test_a_client_that_goes_away_takes_its_job_along(stream: bool, quick) -> None:
    quick.fakes.pipeline.seconds_per_step = 0.02
    steps: list[int] = []
    quick.fakes.pipeline.on_step = lambda draft: steps.append(draft.done)
    client = connect(quick, timeout=1.0)
    with pytest.raises(Exception, match=r"[Tt]imed out"):  # a stream's is not the client's own
        list(client.images.generate(prompt="a fox", stream=stream, extra_body={"steps": 250}))
    client.close()
    wait_until(lambda: not quick.service.queue.running)
    assert 0 < len(steps) < 250


@pytest.mark.fault("a client that leaves")
def test_a_waiting_job_goes_with_its_client(quick) -> None:
    began, go = threading.Event(), threading.Event()

    def hold(draft: Any) -> None:
        began.set()
        go.wait(PATIENCE)

    quick.fakes.pipeline.on_step = hold
    running = quick.service.submit(Request("a panda", seed=400))
    assert began.wait(PATIENCE)
    with connect(quick, timeout=0.5) as client, pytest.raises(openai.APITimeoutError):
        ask(client, seed=401)
    wait_until(lambda: len(quick.service.queue) == 0)
    go.set()
    running.future.result(PATIENCE)


def test_a_wrong_key(tmp_path: Path) -> None:
    with serve_fakes(tmp_path, Credentials(key="a long key")) as site:
        for key in ("wrong key", "a long ke", "a long key2", "é"):
            with pytest.raises((openai.AuthenticationError, UnicodeEncodeError)):
                ask(connect(site, api_key=key))
        assert ask(connect(site, api_key="a long key")).data
        [picture] = ask(connect(site, api_key="a long key"), response_format="url").data
        with urllib.request.urlopen(picture.url) as answer:  # the name itself is the key
            assert answer.status == 200


def test_sizes_that_are_fitted(tmp_path: Path) -> None:
    with serve_fakes(tmp_path, fit_size=True) as site:
        answer = ask(connect(site), size="1792x1024")
        assert pixels(answer.data[0]).size == (1792, 1024)
        assert answer.data[0].drawn_size == "112x64"
        assert answer.notes == ["drawn at 112x64 and enlarged"]
        assert ask(connect(site), size="128x128").data[0].size == "128x128"
        with pytest.raises(openai.BadRequestError):
            ask(connect(site), size="8192x8192")


def post(url: str, body: object) -> dict[str, Any]:
    request = urllib.request.Request(
        url, json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
        return json.load(answer)


def encoded(image: Image.Image, form: str = "png") -> str:
    out = io.BytesIO()
    image.save(out, form)
    return base64.b64encode(out.getvalue()).decode()


def test_rerank(quick) -> None:
    images = [fake_models.picture("a", seed) for seed in range(5)]
    sent = [encoded(image) for image in images]
    sent[3] = "data:image/png;base64," + sent[3]
    sent[2] = base64.encodebytes(base64.b64decode(sent[2])).decode()
    sent += [
        "https://example.org/a.png",
        base64.b64encode(b"<svg/>").decode(),
        encoded(images[0], "gif"),
    ]
    answer = post(f"{quick.url}/v1/rerank", {"prompt": "a panda", "images": sent})
    scores = [fake_models.score(image) for image in images]
    best = sorted(range(5), key=lambda index: -scores[index])
    assert [place["index"] for place in answer["results"]] == best
    assert [place["score"] for place in answer["results"]] == [scores[index] for index in best]
    assert [upload["index"] for upload in answer["failed"]] == [5, 6, 7]
    assert "nothing is fetched" in answer["failed"][0]["reason"]
    assert all(0 <= place["probability"] <= 1 for place in answer["results"])
    assert all({"claim", "holds"} == claim.keys() for claim in answer["results"][0]["claims"])
    assert answer["results"][0]["claims"]
    assert answer["model"] == "fake-jury"
    for model in ("", "fake-jury"):
        asked = {"prompt": "a panda", "images": sent, "top_k": 2, "model": model}
        assert post(f"{quick.url}/v1/rerank", asked)["results"] == answer["results"][:2]
    with pytest.raises(urllib.error.HTTPError) as error:
        post(f"{quick.url}/v1/rerank", {**asked, "model": "other"})
    assert error.value.code == 404
    assert "other does not rank here; fake-jury does" in error.value.read().decode()


def test_a_score_that_is_none(quick) -> None:
    quick.fakes.jury.nan_for = lambda value: True
    sent = [encoded(fake_models.picture("a", 1))]
    answer = post(f"{quick.url}/v1/rerank", {"prompt": "a panda", "images": sent})
    assert answer["results"] == []
    assert answer["failed"][0]["reason"] == "its score is not finite"


def test_health_and_metrics(quick) -> None:
    def numbers() -> dict[str, float]:
        with urllib.request.urlopen(f"{quick.url}/metrics") as answer:
            assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
            lines = answer.read().decode().splitlines()
        return {
            name: float(value)
            for name, value in (line.rsplit(" ", 1) for line in lines if line[0] != "#")
        }

    with urllib.request.urlopen(f"{quick.url}/healthz") as answer:
        assert json.load(answer) == {"status": "ok"}
    before = numbers()
    ask(connect(quick), seed=1000)
    after = numbers()
    change = {name: after[name] - before[name] for name in after if after[name] != before[name]}
    assert change['salon_jobs_total{end="done"}'] == 1
    assert change['salon_pictures_total{end="drawn"}'] == 4
    assert change["salon_job_seconds_count"] == change['salon_job_seconds_bucket{le="+Inf"}'] == 1
    assert after["salon_queue_waiting"] == after["salon_queue_running"] == 0
