"""Other people's readers find all that our images say, in every format."""

import io
from dataclasses import replace

import pytest
from PIL import Image
from sd_parsers import ParserManager

from gen import metadata
from gen.metadata import Metadata
from gen.settings.request import Request

WHOLE = Metadata(
    Request(
        "a red panda, 熊\nin the snow",
        negative_prompt="blue, 50 %",
        model="stickers",
        seed=2**40,
        width=64,
        height=96,
        steps=20,
        guidance=3.5,
        sampler="dpmpp_2m",
        schedule="karras",
    ),
    model="stickers",
    model_hash="0123456789",
    versions={"salon": "0.1.0"},
    score=0.25,
    scores={"clip": 0.5, "aesthetic": 5.25},
    rank=2,
)
TOKENS = Metadata(
    Request("a red panda", negative_prompt="blue", seed=7, guidance=3.0, temperature=0.9),
    model="stickers-dalle",
    model_hash="0123456789",
)
STOCK = replace(TOKENS, request=Request("a red panda", negative_prompt="blue", seed=7, steps=4))
RECORDS = {"latent diffusion": WHOLE, "tokens": TOKENS, "stock": STOCK}
SIZE = (64, 96)
each = pytest.mark.parametrize("kind", ["png", "jpeg", "webp"])
of_each = pytest.mark.parametrize("record", RECORDS.values(), ids=list(RECORDS))


def file_of(kind: str, record: Metadata) -> io.BytesIO:
    out = io.BytesIO()
    Image.radial_gradient("L").resize(SIZE).convert("RGB").save(out, kind)
    return io.BytesIO(metadata.embed(out.getvalue(), record))


def said(record: Metadata) -> dict[str, str]:
    """What readers should find, in their words for it."""
    request = record.request
    own = "Autoregressive" if request.steps is None else "Default"
    found = {
        "model": record.model,
        "sampler": "DPM++ 2M" if request.sampler is not None else own,
        "seed": str(request.seed),
        "cfg": None if request.guidance is None else f"{request.guidance:g}",
        "steps": "0" if request.steps is None else str(request.steps),
        "size": "64x96",
    }
    return {key: value for key, value in found.items() if value is not None}


@each
@of_each
def test_sd_parsers(kind: str, record: Metadata) -> None:
    found = ParserManager().parse(file_of(kind, record))
    assert found is not None
    [sampler] = found.samplers
    parameters = sampler.parameters
    names = {"seed": "seed", "cfg": "cfg_scale", "steps": "steps"}
    values = {key: parameters[name] for key, name in names.items() if name in parameters}
    values |= {"sampler": sampler.name, "model": sampler.model.name, "size": found.metadata["Size"]}
    assert values == said(record)
    assert sampler.model.hash == record.model_hash
    assert found.full_prompt == record.request.prompt
    assert found.full_negative_prompt == record.request.negative_prompt
    if record.request.schedule is not None:
        assert parameters["scheduler"] == "Karras"


@each
@of_each
def test_sd_prompt_reader(kind: str, record: Metadata) -> None:
    reader = pytest.importorskip(
        "sd_prompt_reader.image_data_reader",
        reason="sd-prompt-reader is not installed; `make test` does it",
    )
    found = reader.ImageDataReader(file_of(kind, record))
    assert found.status.name == "READ_SUCCESS"
    values = {key: value for key, value in found.parameter.items() if value is not None}
    assert values == said(record)
    assert (found.positive, found.negative) == (
        record.request.prompt,
        record.request.negative_prompt,
    )
    assert (found.width, found.height) == ("64", "96")


@each
@of_each
def test_we_read_the_text_of_ours_as_they_do(kind: str, record: Metadata) -> None:
    with Image.open(file_of(kind, record)) as image:
        _, text = metadata.read_texts(image)
    assert text is not None
    found = metadata.parameters.from_text(text)
    given = record.request.given()
    sizes = {"width": 64, "height": 96}
    assert found.request.given() == {**{k: v for k, v in given.items() if k != "model"}, **sizes}
    assert (found.model, found.model_hash) == (record.model, record.model_hash)
    assert found.unread == ()


@pytest.mark.parametrize("kind", ["jpeg", "webp"])
def test_the_block_is_as_the_standards_have_it(kind: str) -> None:
    data = file_of(kind, WHOLE).getvalue()
    tag = bytes.fromhex("9286 0007")  # UserComment, UNDEFINED
    assert data.count(tag) == 1
    if kind == "webp":  # RFC 9649: the chunk is the TIFF block itself
        assert data[data.index(b"EXIF") + 8 :].startswith(b"MM\0*")
