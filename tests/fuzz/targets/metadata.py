"""What image files say of themselves: their pieces, and the texts of every tool."""

import io
import json

from fuzzing import Parser, files_below

from gen.errors import InputError
from gen.metadata import foreign
from gen.metadata.parameters import from_text
from gen.metadata.texts import Texts, texts_of_file

PNG = bytes.fromhex("89504e470d0a1a0a0000000d49484452000000010000000108000000003a7e9b55")
TEXT = PNG + b"\0\0\0\x16tEXtparameters\0Steps: 1, \0\0\0\0"
EXIF = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x87\x69\0\x04\0\0\0\x01\0\0\0\x1a\0\0\0\0"
JPEG = b"\xff\xd8\xff\xe1" + (len(EXIF) + 2).to_bytes(2, "big") + EXIF
GRAPH = {
    "1": {"class_type": "KSampler", "inputs": {"seed": 1, "steps": 2, "positive": ["2", 0]}},
    "2": {"class_type": "CLIPTextEncode", "inputs": {"text": "a fox"}},
}
SWARM = {"sui_image_params": {"prompt": "a fox", "seed": 4, "cfgscale": 7.5}}
REAL = files_below("tests/gen/metadata_cases", "")
IMAGES = [each for each in REAL if not each.startswith(b"{")]
TEXTS = [text for each in IMAGES for text in texts_of_file(io.BytesIO(each)).by_key.values()]
A1111 = [text for text in TEXTS if "Steps: " in text]
JSONS = [text for text in TEXTS if text.startswith("{")]


def _read_json(text: str) -> object:
    return foreign.from_texts(Texts({"prompt": text, "UserComment": text}))


PARSERS = [
    Parser(
        name="the pieces of an image file",
        read=lambda data: texts_of_file(io.BytesIO(data)),
        refuses=(),
        signs=(PNG, JPEG, b"RIFF", b"WEBPEXIF", b"tEXt", b"zTXt", b"iTXt", b"eXIf", b"II*\0"),
        examples=(*IMAGES, TEXT, JPEG, b"RIFF\x40\0\0\0WEBPEXIF\x20\0\0\0" + EXIF[6:]),
    ),
    Parser(
        name="the text of AUTOMATIC1111",
        read=from_text,
        refuses=(InputError,),
        signs=("Steps: ", "\nNegative prompt:", "Template:", ",", ":", '"', "[", "{", "\\", "\n"),
        examples=(
            "a fox\nNegative prompt: x\nSteps: 20, Sampler: Euler a, Size: 64x64, Seed: 1",
            *A1111,
        ),
    ),
    Parser(
        name="the JSON of other tools",
        read=_read_json,
        refuses=(InputError,),
        signs=("{", "}", "[", "]", '"', ":", ",", "1e999", '"inputs"', "NaN", "\\u"),
        examples=(json.dumps(GRAPH), json.dumps(SWARM), *JSONS),
    ),
]
