"""What other tools' images say is read, whatever they are like, and never takes long."""

import gzip
import io
import json
import struct
import time
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from gen import metadata
from gen.errors import InputError
from gen.metadata.foreign import read_any
from gen.metadata.parameters import from_text, split_pairs
from gen.metadata.texts import TEXT_MAX, texts_of_file

CASES = Path(__file__).parent / "metadata_cases"
EXPECTED: Mapping[str, Mapping[str, Any]] = json.loads(
    (CASES / "expected.json").read_text(encoding="utf-8")
)
A1111 = (
    "a fox\nNegative prompt: snow\nSteps: 20, Sampler: Euler a, Schedule type: SGM Uniform, "
    "CFG scale: 7.5, Seed: 42, Size: 64x96, Model hash: abc, Model: foo"
)
FIELDS = {"seed": 42, "steps": 20, "guidance": 7.5, "sampler": "euler_a"}


def png(**texts: str) -> Image.Image:
    info = PngInfo()
    for key, text in texts.items():
        info.add_itxt(key.replace("_SPACE_", " "), text)
    return opened("PNG", pnginfo=info)


def opened(kind: str, **options: Any) -> Image.Image:
    out = io.BytesIO()
    Image.new("RGB", (8, 8)).save(out, kind, **options)
    return Image.open(io.BytesIO(out.getvalue()))


def exif(tag: int, value: bytes, kind: int = 7) -> bytes:
    """One tag in an EXIF directory, as other tools write it."""
    entry = struct.pack(">HHII", tag, kind, len(value), 44)
    head = b"MM\0*" + struct.pack(">IHHHIII", 8, 1, 0x8769, 4, 1, 26, 0)
    return b"Exif\0\0" + head + struct.pack(">H", 1) + entry + struct.pack(">I", 0) + value


@pytest.mark.parametrize("name", sorted(path.name for path in CASES.glob("*.*g*")))
def test_the_cases(name: str) -> None:
    fields = EXPECTED[name]
    if not fields:
        with pytest.raises(InputError, match="has no metadata"):
            metadata.read(CASES / name)
        return
    record = metadata.read(CASES / name)
    found = {**record.request.given(), "model": record.model, "model_hash": record.model_hash}
    assert {key: value for key, value in found.items() if value != ""} == fields
    with Image.open(CASES / name) as image:  # what the page and the API open
        assert read_any(image) == record
        image.load()
        assert read_any(image).request == record.request  # and from an image that was decoded


def test_what_is_not_understood_is_said_and_kept() -> None:
    text = (
        A1111.replace("Euler a", "DPM++ SDE Karras")
        + ", Face restoration: CodeFormer, Version: v1.9"
    )
    record = from_text(text)
    assert record.unread == (
        "sampler DPM++ SDE Karras: there is none here",
        "not read: Face restoration",
    )
    assert record.extra["Sampler"] == "DPM++ SDE Karras"
    assert (record.request.seed, record.request.schedule) == (42, "trailing")


def test_what_the_web_ui_says_of_edits_variations_and_two_passes_is_read() -> None:
    """As its versions since 1.6 write it; their Seed is the one that a variation stays near."""
    seeds = ", Variation seed: 99, Variation seed strength: 0.3"
    record = from_text(A1111 + seeds)
    assert (record.request.seed, record.request.base_seed) == (99, 42)
    assert (record.request.variation, record.unread) == (0.3, ())
    two = ", Denoising strength: 0.45, Hires upscale: 1.5, Hires steps: 8, Hires upscaler: Latent"
    made = from_text(A1111 + two).request
    assert (made.hires, made.hires_strength, made.hires_steps) == (1.5, 0.45, 8)
    assert made.hires_upscaler == "latent"
    record = from_text(A1111 + two.replace("Latent", "R-ESRGAN 4x+"))
    assert (record.request.hires, record.request.hires_upscaler) == (1.5, None)
    assert record.unread == ("hires_upscaler R-ESRGAN 4x+: there is none here",)
    edit = ", Denoising strength: 0.6, Mask blur: 4, Inpaint area: Only masked"
    record = from_text(A1111 + edit)
    assert record.request.given().keys() & {"strength", "hires_strength", "mask_blur"} == set()
    assert record.unread == (
        "it was made from another image: Denoising strength 0.6, Mask blur 4, "
        "Inpaint area Only masked",
    )
    assert record.extra["Mask blur"] == "4"


def test_a_schedule_that_the_sampler_lacks_is_left_out_with_a_note() -> None:
    record = from_text(A1111.replace("SGM Uniform", "Karras"))
    assert record.request.schedule is None
    assert record.unread == ("schedule karras: euler_a has none here",)


def test_a_template_below_the_pairs_may_have_lines() -> None:
    record = from_text(A1111 + "\nTemplate: a {fox|cat}\nin __place__\nNegative Template: snow")
    assert record.request.prompt == "a fox"
    assert record.extra["Template"] == "a {fox|cat}\nin __place__"
    assert record.extra["Negative Template"] == "snow"


def test_json_and_quotes_in_pairs() -> None:
    pairs = split_pairs('Seed: 1, Hashes: {"a": "b, c", "d": [1, 2]}, X: "y: 1, z", Steps: 2, Y: [')
    assert pairs == {
        "Seed": "1",
        "Hashes": '{"a": "b, c", "d": [1, 2]}',
        "X": "y: 1, z",
        "Steps": "2",
        "Y": "[",
    }


EASY = {"prompt": "a fox", "negative_prompt": "snow", "seed": "42", "num_inference_steps": "20"}
SWARM = {"sui_image_params": {"prompt": "a fox", "negativeprompt": "snow", "seed": 42, "steps": 20}}
NOVELAI = {
    "steps": 20,
    "seed": 42,
    "scale": 7.5,
    "sampler": "k_euler_ancestral",
    "v4_prompt": {"caption": {"base_caption": "a fox"}},
    "v4_negative_prompt": {"caption": {"base_caption": "snow"}},
}
DRAW_THINGS = {"c": "a fox", "uc": "snow", "seed": 42, "steps": 20, "sampler": "Euler A"}
XMP = (
    "<x:xmpmeta><exif:UserComment><rdf:Alt><rdf:li xml:lang='x-default'>"
    + json.dumps(DRAW_THINGS).replace('"', "&quot;")
    + "</rdf:li></rdf:Alt></exif:UserComment></x:xmpmeta>"
)
RUINED = {
    "Prompt": "a fox",
    "Negative": "snow",
    "steps": 20,
    "seed": 42,
    "software": "RuinedFooocus",
}
TENSOR_ART = {
    "prompt": "a fox",
    "negativePrompt": "snow",
    "seed": "42",
    "steps": 20,
    "cfgScale": 7.5,
}
GRAPH = {
    "1": {
        "class_type": "KSampler (Efficient)",
        "inputs": {"seed": 42, "steps": 20, "positive": ["2", 1], "negative": ["2", 2]},
    },
    "2": {"class_type": "Efficient Loader", "inputs": {"positive": "a fox", "negative": "snow"}},
}
TOOLS = {
    "Easy Diffusion": lambda: png(**EASY),
    "Easy Diffusion, JPEG": lambda: opened(
        "JPEG", exif=exif(0x9286, b"UNICODE\0" + json.dumps(EASY).encode("utf-16-be"))
    ),
    "SwarmUI": lambda: png(parameters=json.dumps(SWARM)),
    "SwarmUI, JPEG": lambda: opened(
        "JPEG", exif=exif(0x9286, b"UNICODE\0" + json.dumps(SWARM).encode("utf-16-le"))
    ),
    "NovelAI 4": lambda: png(Software="NovelAI", Comment=json.dumps(NOVELAI)),
    "Draw Things": lambda: png(**{"XML:com.adobe.xmp": XMP}),
    "RuinedFooocus": lambda: png(parameters=json.dumps(RUINED)),
    "Tensor.Art": lambda: png(generation_data=json.dumps(TENSOR_ART) + "\0"),
    "Fooocus, JPEG": lambda: opened("JPEG", exif=exif(0x9286, json.dumps(RUINED).encode(), 2)),
    "ComfyUI, in one text": lambda: opened(
        "WEBP", exif=exif(0x9286, b"ASCII\0\0\0" + json.dumps({"prompt": GRAPH}).encode())
    ),
    "ComfyUI, Efficient Loader": lambda: png(prompt=json.dumps(GRAPH)),
    "AUTOMATIC1111, WebP": lambda: opened(
        "WEBP", exif=exif(0x9286, b"UNICODE\0" + A1111.encode("utf-16-be"))
    ),
    "hidden in pixels": lambda: with_hidden_text(A1111, "RGBA", b"stealth_pngcomp"),
    "hidden in colours": lambda: with_hidden_text(A1111, "RGB", b"stealth_rgbinfo"),
}


def with_hidden_text(text: str, mode: str, signature: bytes) -> Image.Image:
    data = gzip.compress(text.encode()) if signature.endswith(b"comp") else text.encode()
    data = signature + struct.pack(">I", 8 * len(data)) + data
    bits = np.unpackbits(np.frombuffer(data, np.uint8))
    channels = 1 if mode == "RGBA" else 3
    values = np.full(64 * 64 * channels, 254, np.uint8)
    values[: len(bits)] |= bits
    pixels = np.full((64, 64, len(mode)), 254, np.uint8)  # (W, H, C): column by column
    pixels[:, :, -channels:] = values.reshape(64, 64, channels)
    out = io.BytesIO()
    Image.fromarray(pixels.transpose(1, 0, 2), mode).save(out, "PNG")
    return Image.open(io.BytesIO(out.getvalue()))


@pytest.mark.parametrize("tool", TOOLS)
def test_every_tool(tool: str) -> None:
    request = read_any(TOOLS[tool]()).request
    assert (request.prompt, request.negative_prompt) == ("a fox", "snow")
    assert (request.seed, request.steps) == (42, 20)


def test_the_first_pass_is_read_though_a_later_one_is_listed_first() -> None:
    sampler = {"cfg": 7, "sampler_name": "euler", "scheduler": "karras", "denoise": 1.0}
    text = {"class_type": "CLIPTextEncode", "inputs": {"text": "a fox"}}
    graph = {
        "9": {
            "class_type": "FaceDetailer",
            "inputs": {**sampler, "seed": 9, "steps": 30, "positive": ["2", 0], "image": ["8", 0]},
        },
        "8": {"class_type": "VAEDecode", "inputs": {"samples": ["7", 0]}},
        "7": {
            "class_type": "KSampler",
            "inputs": {**sampler, "seed": 7, "steps": 8, "positive": ["2", 0], "latent": ["1", 0]},
        },
        "1": {
            "class_type": "KSampler",
            "inputs": {**sampler, "seed": 1, "steps": 20, "positive": ["2", 0], "latent": ["3", 0]},
        },
        "3": {"class_type": "EmptyLatentImage", "inputs": {"width": 64, "height": ["4", 0]}},
        "4": {"class_type": "Reroute", "inputs": {"": ["5", 0]}},
        "5": {"class_type": "PrimitiveInt", "inputs": {"value": 96}},
        "2": text,
        "10": {"class_type": "SaveImage", "inputs": {"images": ["9", 0]}},
    }
    record = read_any(png(prompt=json.dumps(graph)))
    assert (record.request.seed, record.request.steps) == (1, 20)
    assert (record.request.width, record.request.height) == (64, 96)
    assert record.unread == ("3 passes of sampling, read as one",)


def test_texts_that_are_joined_and_prompts_that_are_styled() -> None:
    graph = {
        "1": {
            "class_type": "KSampler",
            "inputs": {"seed": 1, "steps": 20, "positive": ["2", 0], "negative": ["3", 0]},
        },
        "2": {"class_type": "CLIPTextEncode", "inputs": {"text": ["4", 0]}},
        "3": {"class_type": "CLIPTextEncode", "inputs": {"text": ["5", 1]}},
        "4": {
            "class_type": "StringConcatenate",
            "inputs": {"string_a": "a fox", "string_b": ["6", 0], "delimiter": ", "},
        },
        "5": {
            "class_type": "SDXLPromptStyler",
            "inputs": {"text_positive": "a fox", "text_negative": "snow", "style": "base"},
        },
        "6": {"class_type": "PrimitiveString", "inputs": {"value": "in a wood"}},
    }
    request = read_any(png(prompt=json.dumps(graph))).request
    assert (request.prompt, request.negative_prompt) == ("a fox, in a wood", "snow")


NESTED = json.dumps({"1": {"class_type": "A", "inputs": {}}})[:-1] + ', "2": ' + "[" * 100_000
DOUBLING = {
    "0": {
        "class_type": "KSampler",
        "inputs": {"seed": 1, "steps": 20, "positive": ["1", 0]},
    },
    **{
        str(n): {
            "class_type": "StringConcatenate",
            "inputs": {"string_a": [str(n + 1), 0], "string_b": [str(n + 1), 0]},
        }
        for n in range(1, 80)
    },
    "80": {"class_type": "PrimitiveString", "inputs": {"value": "fox " * 100}},
}
CHAIN = {
    "0": {"class_type": "KSampler", "inputs": {"seed": 1, "steps": 20, "positive": ["1", 0]}},
    **{
        str(n): {"class_type": "ConditioningCombine", "inputs": {"conditioning_1": [str(n + 1), 0]}}
        for n in range(1, 4999)
    },
}
HOSTILE = {
    "30 kB of words": {"parameters": "word " * 6000},
    "900 kB of words": {"parameters": "word " * 180_000},
    "900 kB of pairs": {"parameters": "a fox\nSteps: 20, " + "Key: value, " * 75_000},
    "900 kB of quotes": {"parameters": 'a fox\nSteps: 20, A: "' * 40_000},
    "900 kB of brackets": {"parameters": "a fox\nSteps: 20, Seed: 1, " + "A: [, " * 150_000},
    "900 kB of lines": {"parameters": "Negative prompt:\n" * 55_000},
    "900 kB of steps": {"parameters": "Steps: 1\n" * 100_000},
    "900 kB of spaces": {"parameters": " " * 900_000 + ":"},
    "a dream of spaces": {"Dream": '"' + " " * 900_000 + '" -s 1' + " " * 900_000},
    "deep JSON": {"prompt": NESTED, "parameters": "{" * 100_000},
    "texts that double": {"prompt": json.dumps(DOUBLING)},
    "a long chain": {"prompt": json.dumps(CHAIN)},
    "many nodes": {"prompt": json.dumps({str(n): CHAIN["0"] for n in range(10_000)})},
    "many samplers": {"prompt": json.dumps({str(n): CHAIN["0"] for n in range(4999)})},
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_texts_take_no_time(name: str) -> None:
    image = png(**HOSTILE[name])
    said = ""
    begun = time.process_time()
    try:
        said = read_any(image).request.prompt
    except InputError as error:
        said = str(error)
    assert time.process_time() - begun < 20  # what is quadratic takes many minutes
    assert len(said) <= 10_000


@pytest.mark.fault("texts inside images")
def test_a_text_that_unpacks_to_much_more_is_named_and_not_read() -> None:
    bomb = zlib.compress(b"a" * 60_000_000, 9)
    chunk = b"zTXt" + b"parameters\0\0" + bomb
    body = struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
    data = png_bytes()
    image = data[:33] + body + data[33:]
    texts = texts_of_file(io.BytesIO(image))
    assert (texts.by_key, texts.too_long) == ({}, ["parameters"])
    assert len(bomb) < TEXT_MAX


def test_exif_that_asks_for_much_memory_gets_none() -> None:
    value = b"x" * 60_000
    entries = b"".join(struct.pack(">HHII", tag, 7, len(value), 8) for tag in range(1, 4000))
    data = b"MM\0*" + struct.pack(">IH", 60_100, 3999)
    block = data[:8] + value + b"\0" * (60_100 - 8 - len(value)) + data[8:] + entries
    texts = texts_of_file(io.BytesIO(webp_with_exif(block)))
    assert sum(map(len, texts.by_key.values())) < 10 * len(value)


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp"])
def test_pixels_are_not_decoded(kind: str, tmp_path: Path) -> None:
    out = io.BytesIO()
    Image.effect_noise((200, 200), 60).convert("RGB").save(out, kind, quality=95)
    whole = metadata.embed(out.getvalue(), from_text(A1111))
    path = tmp_path / "cut"
    path.write_bytes(whole if kind == "webp" else whole[: len(whole) * 3 // 4])
    assert metadata.read(path).request.seed == 42


def png_bytes() -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (8, 8)).save(out, "PNG")
    return out.getvalue()


def webp_with_exif(block: bytes) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (8, 8)).save(out, "WEBP", lossless=True)
    data = out.getvalue()
    chunk = b"EXIF" + struct.pack("<I", len(block)) + block + b"\0" * (len(block) % 2)
    return data[:4] + struct.pack("<I", len(data) + len(chunk) - 8) + data[8:] + chunk
