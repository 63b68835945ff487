"""Edits through the HTTP API, as OpenAI's client and webuiapi ask for them, on tiny networks."""

import base64
import io
import urllib.error
import urllib.request
from typing import Any

import fake_models
import httpx
import numpy as np
import pytest
from PIL import Image

from gen import metadata
from gen.run_folder import originals
from gen.settings.request import Request

openai = pytest.importorskip("openai", reason="openai is not installed")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def client(site: Any) -> Any:
    with openai.OpenAI(base_url=f"{site.url}/v1", api_key="any", max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def webui(site: Any) -> Any:
    webuiapi = pytest.importorskip("webuiapi", reason="webuiapi is not installed")
    return webuiapi.WebUIApi(baseurl=f"{site.url}/sdapi/v1", sampler="Euler", steps=4)


PHOTO = fake_models.picture("a photo", 1)
HALF = Image.new("L", (64, 64), 0)
HALF.paste(255, (32, 0, 64, 64))  # the right half
MORE = {"seed": 3, "steps": 4, "candidates": 2}


def png(image: Image.Image) -> tuple[str, bytes]:
    out = io.BytesIO()
    image.save(out, "png")
    return "image.png", out.getvalue()


def see_through(where: Image.Image) -> Image.Image:
    """The photo, transparent where a mask is white."""
    image = PHOTO.convert("RGBA")
    image.putalpha(where.point(lambda value: 255 - value))
    return image


def opened(picture: Any) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(picture.b64_json)))


def left(image: Image.Image) -> bytes:
    return image.convert("RGB").crop((0, 0, 32, 64)).tobytes()


def right(image: Image.Image) -> bytes:
    return image.convert("RGB").crop((32, 0, 64, 64)).tobytes()


def test_an_image_is_changed(client: Any) -> None:
    answer = client.images.edit(
        image=png(PHOTO), prompt="a red star", n=2, extra_body={**MORE, "strength": 0.5}
    )
    assert [picture.rank for picture in answer.data] == [1, 2]
    request = metadata.read_image(opened(answer.data[0])).request
    assert (request.strength, request.steps, request.mask) == (0.5, 4, None)
    assert opened(answer.data[0]).size == (64, 64)


def test_an_original_is_kept_once_by_the_hash_that_images_record(client: Any, site: Any) -> None:
    photo = png(Image.new("RGB", (64, 64), (31, 41, 59)))
    before = len(list((site.folder / "originals").glob("*")))
    answers = [
        client.images.edit(image=photo, prompt=prompt, extra_body={**MORE, "strength": 0.5})
        for prompt in ("a red star", "a blue star")
    ]
    digest = metadata.read_image(opened(answers[0].data[0])).request.init_image_hash
    copy = originals.find(site.folder, digest)
    assert copy is not None
    assert copy.read_bytes() == photo[1]
    assert len(list((site.folder / "originals").iterdir())) == before + 1


@pytest.mark.parametrize("own", [True, False], ids=["its own transparency", "a mask"])
def test_what_is_not_transparent_stays(own: bool, client: Any) -> None:
    files = (
        {"image": png(see_through(HALF))}
        if own
        else {"image": png(PHOTO), "mask": png(see_through(HALF))}
    )
    answer = client.images.edit(prompt="a red star", **files, extra_body=MORE)
    image = opened(answer.data[0])
    assert left(image) == left(PHOTO)
    assert right(image) != right(PHOTO)


def test_an_edit_as_a_stream(client: Any) -> None:
    events = list(
        client.images.edit(
            image=png(PHOTO), prompt="a red star", stream=True, partial_images=1, extra_body=MORE
        )
    )
    assert {event.type for event in events} <= {"image_edit.partial_image", "image_edit.completed"}
    assert events[-1].type == "image_edit.completed"
    assert opened(events[-1]).size == (64, 64)


def test_variations(client: Any) -> None:
    drawn = client.images.generate(prompt="a blue fish", extra_body=MORE).data[0]
    answer = client.images.create_variation(image=png_of(drawn), extra_body=MORE)
    request = metadata.read_image(opened(answer.data[0])).request
    assert request.prompt == "a blue fish"
    assert request.strength == 0.6
    with pytest.raises(openai.BadRequestError, match="prompt"):
        client.images.create_variation(image=png(PHOTO))


OF_EMBEDDINGS = {
    "model": "stickers-unclip",
    "prompt": "two fish",
    "seed": "3",
    "steps": "2",
    "candidates": "2",
    "response_format": "b64_json",
}


def varied(site: Any, other: Image.Image | None = None, **fields: str) -> httpx.Response:
    """What a form with one image or two comes to."""
    files = {"image": png(PHOTO)} | ({} if other is None else {"mix_with": png(other)})
    data = {**OF_EMBEDDINGS, **fields}
    return httpx.post(f"{site.url}/v1/images/variations", files=files, data=data, timeout=120)


def request_of(answer: httpx.Response) -> Request:
    [picture] = answer.json()["data"]
    image = Image.open(io.BytesIO(base64.b64decode(picture["b64_json"])))
    return metadata.read_image(image).request


def test_a_mix_and_a_change_by_words(site: Any) -> None:
    other = fake_models.picture("another", 2)
    mixed = request_of(varied(site, other, mix_at="0.3"))
    assert (mixed.model, mixed.prompt, mixed.mix_at) == ("stickers-unclip", "two fish", 0.3)
    assert mixed.mix_with_hash is not None
    assert mixed.mix_with_hash != mixed.image_prompt_hash
    assert request_of(varied(site, prompt="")).prompt == "a variation"
    assert request_of(varied(site, prompt="", toward="a cat")).prompt == "a cat"
    changed = request_of(varied(site, toward="a cat", away_from="a panda"))
    assert (changed.toward, changed.away_from, changed.mix_with) == ("a cat", "a panda", None)

    for refused, named in (
        (varied(site, other, model="stickers-dalle"), "mix_with"),
        (varied(site, other, toward="a cat"), "mix and toward"),
        (varied(site, mix_at="0.3"), "mix_at"),
    ):
        assert refused.status_code == 400
        assert named in refused.json()["error"]["message"]


def png_of(picture: Any) -> tuple[str, bytes]:
    return "image.png", base64.b64decode(picture.b64_json)


@pytest.mark.parametrize(
    ("files", "more", "named"),
    [
        ({"image": ("x.png", b"nothing")}, {}, "not a PNG"),
        ({"image": [png(PHOTO), png(PHOTO)]}, {}, "one image"),
        ({"image": png(PHOTO), "mask": png(PHOTO)}, {}, "mask"),
        ({"image": png(PHOTO), "mask": png(see_through(HALF).resize((32, 32)))}, {}, "mask"),
        ({"image": png(PHOTO)}, {"strength": 2}, "strength"),
        ({"image": png(PHOTO)}, {"steps": "many"}, "steps"),
    ],
    ids=["no image", "two", "opaque", "small", "strength", "steps"],
)
def test_what_cannot_be(
    files: dict[str, Any], more: dict[str, Any], named: str, client: Any
) -> None:
    with pytest.raises(openai.BadRequestError, match=named):
        client.images.edit(prompt="a red star", **files, extra_body={**MORE, **more})


def test_no_file_of_the_disk_is_changed(client: Any) -> None:
    more = {**MORE, "init_image": "/etc/passwd"}
    answer = client.images.edit(image=png(PHOTO), prompt="a red star", extra_body=more)
    assert "init_image" in answer.notes[0]


def test_an_address_is_not_fetched(site: Any) -> None:
    form = b"prompt=a+star&image=https%3A%2F%2Fexample.org%2Fa.png"
    with pytest.raises(urllib.error.HTTPError) as error:
        urllib.request.urlopen(f"{site.url}/v1/images/edits", form, timeout=60)
    assert b"image: an address: nothing is fetched, so send a file" in error.value.read()


def test_a_form_without_an_image(site: Any) -> None:
    request = urllib.request.Request(f"{site.url}/v1/images/edits", b"{}", method="POST")
    with pytest.raises(urllib.error.HTTPError) as error:
        urllib.request.urlopen(request, timeout=60)
    assert error.value.code == 400


def test_webuiapi_changes_an_image(webui: Any) -> None:
    result = webui.img2img(
        images=[PHOTO], prompt="a red star", seed=3, denoising_strength=0.5, width=64, height=64
    )
    assert result.image.size == (64, 64)
    assert metadata.read_image(result.image).request.strength == 0.5
    near = webui.img2img(images=[PHOTO], prompt="a red star", seed=3, denoising_strength=0.26)
    far = webui.img2img(images=[PHOTO], prompt="a red star", seed=3, denoising_strength=1)
    assert distance(near.image) <= distance(far.image)


@pytest.mark.parametrize("whole", [True, False])
def test_webuiapi_paints_under_a_mask(whole: bool, webui: Any) -> None:
    result = webui.img2img(
        images=[PHOTO],
        mask_image=HALF,
        mask_blur=0,
        inpainting_fill=1,
        inpaint_full_res=not whole,
        prompt="a red star",
        seed=3,
        width=64,
        height=64,
    )
    assert left(result.image) == left(PHOTO)
    assert right(result.image) != right(PHOTO)
    turned = webui.img2img(
        images=[PHOTO],
        mask_image=HALF,
        mask_blur=0,
        inpainting_mask_invert=1,
        prompt="a red star",
        seed=3,
        width=64,
        height=64,
    )
    assert right(turned.image) == right(PHOTO)


def distance(image: Image.Image) -> float:
    return float(np.abs(np.asarray(image, float) - np.asarray(PHOTO, float)).mean())


def test_a_second_pass_enlarges(client: Any) -> None:
    more = {**MORE, "candidates": 1, "hires": 2, "hires_strength": 0.5, "hires_steps": 2}
    answer = client.images.generate(prompt="a red star", extra_body=more)
    image = opened(answer.data[0])
    request = metadata.read_image(image).request
    assert image.size == (512, 512)  # drawn at 64 and 128 pixels, then enlarged as ever
    assert (request.hires, request.hires_strength, request.hires_steps) == (2, 0.5, 2)
