"""Images that clients send, up to where their pixels would be decoded."""

import base64

from fuzzing import Parser, files_below

from gen.errors import InputError
from ui.api.images import from_base64, open_image

IMAGES = files_below("tests/gen/metadata_cases", ".png") + files_below(
    "tests/gen/metadata_cases", ".jpg"
)
PARSERS = [
    Parser(
        name="an upload",
        read=lambda data: open_image(data).size,
        refuses=(InputError,),
        signs=(b"\x89PNG\r\n\x1a\n", b"\xff\xd8", b"\xff\xda", b"RIFF", b"WEBP", b"VP8L", b"IHDR"),
        examples=tuple(IMAGES),
    ),
    Parser(
        name="base64",
        read=from_base64,
        refuses=(InputError,),
        signs=("A", "=", "==", "data:", ",", "data:image/png;base64,", "\n", "http://", "-", "_"),
        examples=(base64.b64encode(IMAGES[0]).decode(),),
    ),
]
