import io
import json

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from gen.errors import InputError
from gen.metadata.foreign import read_any
from gen.settings.request import WithoutPrompt

GRAPH = {
    "3": {
        "class_type": "KSampler",
        "inputs": {
            "seed": 156680208700286,
            "steps": 20,
            "cfg": 8.0,
            "sampler_name": "euler_ancestral",
            "scheduler": "normal",
            "denoise": 1,
            "model": ["4", 0],
            "positive": ["10", 0],
            "negative": ["7", 0],
            "latent_image": ["5", 0],
        },
    },
    "4": {
        "class_type": "CheckpointLoaderSimple",
        "inputs": {"ckpt_name": "v1-5-pruned.safetensors"},
    },
    "5": {"class_type": "EmptyLatentImage", "inputs": {"width": 512, "height": 768}},
    "6": {"class_type": "CLIPTextEncode", "inputs": {"text": "a glass bottle", "clip": ["4", 1]}},
    "7": {"class_type": "CLIPTextEncode", "inputs": {"text": "text", "clip": ["4", 1]}},
    "10": {"class_type": "ConditioningSetArea", "inputs": {"conditioning": ["6", 0]}},
}
RECORD = {
    "positive_prompt": "a red fox",
    "negative_prompt": "blurry",
    "width": 640,
    "height": 512,
    "seed": 0,
    "cfg_scale": 7.5,
    "steps": 30,
    "scheduler": "dpmpp_2m_k",
    "model": {"name": "dreamshaper", "base": "sd-1"},
    "app_version": "5.0.0",
}


def picture(**texts: str) -> Image.Image:
    chunks = PngInfo()
    for key, text in texts.items():
        chunks.add_text(key, text)
    out = io.BytesIO()
    Image.new("RGB", (8, 8)).save(out, "png", pnginfo=chunks)
    return Image.open(out)


def test_comfyui() -> None:
    record = read_any(picture(prompt=json.dumps(GRAPH), workflow="{}"))
    assert record.request.to_json() == {
        "prompt": "a glass bottle",
        "negative_prompt": "text",
        "seed": 156680208700286,
        "steps": 20,
        "guidance": 8.0,
        "sampler": "euler_a",
        "schedule": "default",
        "width": 512,
        "height": 768,
    }
    assert record.model == "v1-5-pruned.safetensors"


def test_invokeai() -> None:
    record = read_any(picture(invokeai_metadata=json.dumps(RECORD)))
    assert record.request.to_json() == {
        "prompt": "a red fox",
        "negative_prompt": "blurry",
        "seed": 0,
        "steps": 30,
        "guidance": 7.5,
        "sampler": "dpmpp_2m",
        "schedule": "karras",
        "width": 640,
        "height": 512,
    }
    assert record.model == "dreamshaper"


def test_automatic1111() -> None:
    text = "a cat\nSteps: 20, Sampler: Euler a, CFG scale: 7, Seed: 5, Size: 512x512"
    request = read_any(picture(parameters=text, prompt="{}")).request
    assert (request.prompt, request.seed, request.sampler) == ("a cat", 5, "euler_a")


def test_values_that_we_cannot_use_are_left_out() -> None:
    odd = {**RECORD, "scheduler": "unheard_of", "steps": 10**9, "seed": "x", "cfg_scale": None}
    given = read_any(picture(invokeai_metadata=json.dumps(odd))).request.given()
    assert given.keys() == {"prompt", "negative_prompt", "width", "height"}


def test_a_prompt_that_is_not_found_loses_nothing_else() -> None:
    graph = {**GRAPH, "10": {"inputs": {"conditioning": ["10", 0]}}}  # it leads to itself
    record = read_any(picture(prompt=json.dumps(graph)))
    assert isinstance(record.request, WithoutPrompt)
    assert (record.request.seed, record.request.steps) == (156680208700286, 20)
    assert record.unread == ("it does not say its prompt",)


@pytest.mark.parametrize(
    "texts",
    [
        {},
        {"prompt": "a panda"},
        {"prompt": "[1, 2]"},
        {"prompt": "{}"},
        {"prompt": "[" * 100_000},
        {"prompt": json.dumps({"1": {"inputs": {"sampler_name": 1, "steps": 1, "positive": []}}})},
        {"invokeai_metadata": '{"positive_prompt": ["a"]}'},
    ],
)
def test_what_cannot_be_understood_is_one_error(texts: dict[str, str]) -> None:
    with pytest.raises(InputError):
        read_any(picture(**texts))
