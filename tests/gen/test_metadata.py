"""What is written into a picture is what is read out of it."""

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from gen import metadata
from gen.errors import InputError
from gen.metadata import Metadata
from gen.metadata.parameters import from_text, to_text
from gen.settings.request import Request

RECORD = Metadata(
    Request(
        'a "red": panda, 熊貓 🐼\nwith a hat',
        negative_prompt="blue, 50 %",
        model="stickers",
        seed=2**53 + 1,
        width=64,
        height=96,
        steps=20,
        guidance=3.0,
        sampler="dpmpp_2m",
        schedule="karras",
        candidates=1,
        top_k=1,
    ),
    model="stickers",
    model_hash="0123456789",
    attention="sdpa",
    versions={"salon": "0.1.0", "torch": "2.13.0"},
    candidates=16,
    rerank_model="stickers-clip",
    score=0.3125,
    rank=2,
    unfinished="step 14 of 30",
    upscale=4,
    extra={"Lora hashes": "x: 1"},
)
BARE = Metadata(Request("a panda", seed=0))
COMBINED = replace(RECORD, scores={"clip": 0.3125, "aesthetic": 5.25})


def image_bytes(kind: str) -> bytes:
    out = io.BytesIO()
    Image.radial_gradient("L").resize((33, 31)).convert("RGB").save(out, kind)
    return out.getvalue()


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp"])
@pytest.mark.parametrize("record", [RECORD, BARE, COMBINED], ids=["full", "bare", "combined"])
def test_reading_gives_back_what_was_written(kind: str, record: Metadata, tmp_path: Path) -> None:
    path = tmp_path / "image"
    path.write_bytes(metadata.embed(image_bytes(kind), record))
    assert metadata.read(path) == record


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp"])
def test_a_new_record_replaces_the_old_and_leaves_the_pixels(kind: str, tmp_path: Path) -> None:
    data = image_bytes(kind)
    better = replace(RECORD, rank=1, unfinished=None)
    twice = metadata.embed(metadata.embed(data, RECORD), better)
    assert twice == metadata.embed(data, better)
    with Image.open(io.BytesIO(twice)) as after, Image.open(io.BytesIO(data)) as before:
        assert after.convert("RGB").tobytes() == before.convert("RGB").tobytes()


def test_the_text_is_as_other_tools_expect() -> None:
    assert to_text(RECORD) == (
        'a "red": panda, 熊貓 🐼\nwith a hat\n'
        "Negative prompt: blue, 50 %\n"
        "Steps: 20, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 3, "
        "Seed: 9007199254740993, Size: 64x96, Model hash: 0123456789, Model: stickers, RNG: CPU, "
        "Version: salon 0.1.0, Attention: sdpa, Candidates: 16, Rerank model: stickers-clip, "
        "Rerank score: 0.3125, Rerank rank: 2, Unfinished: step 14 of 30"
    )


def test_the_parts_of_a_combined_score_are_there_and_else_no_word_of_them() -> None:
    assert COMBINED.to_json()["scores"] == {"clip": 0.3125, "aesthetic": 5.25}
    assert 'Rerank score: 0.3125, Rerank scores: "clip 0.3125, aesthetic 5.2500", ' in to_text(
        COMBINED
    )
    assert "scores" not in RECORD.to_json()


def test_values_with_commas_are_quoted() -> None:
    text = to_text(replace(RECORD, model='big, "bad": model'))
    assert r'Model: "big, \"bad\": model", RNG' in text
    assert from_text(text).model == 'big, "bad": model'


def test_another_tools_text() -> None:
    record = from_text(
        "an old lighthouse\nNegative prompt: people\n"
        "Steps: 28, Sampler: DPM++ 2M Karras, CFG scale: 6.5, Seed: 123, Size: 512x768, "
        'Model hash: 6ce0161689, Model: v1-5, Lora hashes: "a: 1, b: 2", Clip skip: 2'
    )
    assert record.request == Request(
        "an old lighthouse",
        negative_prompt="people",
        seed=123,
        width=512,
        height=768,
        steps=28,
        guidance=6.5,
        sampler="dpmpp_2m",
        schedule="karras",
        clip_skip=2,
    )
    assert (record.model, record.model_hash) == ("v1-5", "6ce0161689")
    assert record.extra == {"Lora hashes": "a: 1, b: 2"}


def test_what_cannot_be_used_of_another_tools_text_survives() -> None:
    record = from_text("a cat\nSteps: 9999, Sampler: Magic, Seed: -7, Size: huge")
    assert record.request == Request("a cat")
    assert record.extra == {"Steps": "9999", "Sampler": "Magic", "Seed": "-7", "Size": "huge"}


def test_a_last_line_with_few_pairs_belongs_to_the_prompt() -> None:
    assert from_text("a sign\nthat says: hello").request.prompt == "a sign\nthat says: hello"


def test_unknown_keys_of_our_json_survive() -> None:
    values = RECORD.to_json() | {"mood": "calm"}
    assert Metadata.from_json(values).extra == {"Lora hashes": "x: 1", "mood": "calm"}
    assert Metadata.from_json(values).to_json() == values


def test_control_characters_are_stripped_in_reading() -> None:
    values = RECORD.to_json() | {"model": "a\x1b[31m\0b"}
    assert Metadata.from_json(values).model == "a[31mb"
    assert from_text("a\x1b cat").request.prompt == "a cat"


@pytest.mark.parametrize(
    "change",
    [
        {"rank": "<script>"},
        {"score": "1"},
        {"request": 3},
        {"upscale": 1.5},
        {"scores": {"a": "1"}},
    ],
)
def test_a_value_of_the_wrong_kind_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        Metadata.from_json(RECORD.to_json() | change)


def test_no_clock_time_is_inside() -> None:
    assert metadata.embed(image_bytes("png"), BARE) == metadata.embed(image_bytes("png"), BARE)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "not a PNG"),
        (b"<svg/>", "not a PNG"),
        (image_bytes("png")[:40], "."),
        (image_bytes("png"), "no metadata"),
    ],
)
def test_a_file_that_says_nothing(data: bytes, said: str, tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    path.write_bytes(data)
    with pytest.raises(InputError, match=said) as caught:
        metadata.read(path)
    assert "x.png" in str(caught.value)


@pytest.mark.parametrize("text", ["[" * 5000, '{"request": {"prompt": ""}}', "{}", "3", '"'])
def test_a_chunk_that_makes_no_sense(text: str, tmp_path: Path) -> None:
    info = PngInfo()
    info.add_text("salon", text)
    Image.new("RGB", (8, 8)).save(tmp_path / "x.png", pnginfo=info)
    with pytest.raises(InputError, match="cannot be read"):
        metadata.read(tmp_path / "x.png")


def test_a_prompt_that_is_too_long_for_a_jpeg_is_refused_in_words() -> None:
    record = Metadata(Request("熊" * 10_000, negative_prompt="貓" * 10_000))
    with pytest.raises(InputError, match="PNG"):
        metadata.embed(image_bytes("jpeg"), record)
