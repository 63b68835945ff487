"""What a stranger may send to keep the server busy, as requests."""

import base64
import http.client
import io
import json
import struct
import sys
import time
import zlib
from dataclasses import dataclass

from PIL import Image


@dataclass(frozen=True)
class Attack:
    """A request: JSON for a path."""

    path: str
    body: bytes


def all_attacks() -> dict[str, Attack]:
    """Return the attacks by name."""
    texts = {
        "nested choices": _nested(440),
        "open brackets": "(a" * 3333,
        "spaces": "a" + " " * 9_998 + "b",
        "open braces": "{" * 10_000,
        "closed braces": "{" * 4_999 + "a" + "}" * 5_000,
        "commas": "a" + "," * 9_998,
        "a weight of 400 digits": f"(a:{'9' * 400})",
        "dollars": "{2$$" * 2_000,
        "bars": "{" + "a|" * 4_990 + "}",
        "underscores": "__" * 5_000,
        "alternations": "[a|b:c:" * 1_400,
        "breaks": "BREAK " * 1_600,
        "AND": "a AND " * 1_600,
    }
    drawn = {
        name: Attack("/v1/images/generations", _json(prompt=text, steps=1, candidates=1))
        for name, text in texts.items()
    }
    numbers = b"[" + b"1," * 490_000 + b"1]"
    return {
        **drawn,
        "a description of 30 kB": _described(30_000),
        "a description of 900 kB": _described(900_000),
        "eight images of 3000 scans": _ranked([_scans(3_000)] * 8),
        "bombs": _ranked([_bomb(30_000)] * 64),
        "large bombs": _ranked([_bomb(5_600)] * 20),
        "numbers": Attack("/v1/images/generations", b'{"prompt": "a", "seed": ' + numbers + b"}"),
        "brackets": Attack("/v1/images/generations", b"[" * 900_000),
        "keys": Attack("/sdapi/v1/txt2img", _json(**{f"k{i}": i for i in range(40_000)})),
        "options": Attack("/sdapi/v1/options", _json(**{f"k{i}": i for i in range(40_000)})),
        "keys that are read": Attack("/v1/rerank", _json(**{f"k{i}": i for i in range(24_000)})),
        "keys of the page": Attack(
            "/gradio_api/queue/join", _json(**{f"k{i}": i for i in range(24_000)})
        ),
        "models": Attack("/v1/images/generations", _json(prompt="a", models=[1] * 24_000)),
        "60 MB of numbers": Attack("/v1/rerank", b'{"images": [' + b"1," * 30_000_000 + b"1]}"),
        "60 MB of text": Attack("/v1/rerank", _json(prompt="a", images=["A" * 15_000_000] * 4)),
        "60 MB of escapes": Attack("/v1/rerank", b'{"prompt": "' + b"\\n" * 30_000_000 + b'"}'),
    }


def _nested(length: int) -> str:
    """Choices in choices, each of them twice."""
    text = "a"
    while len(text) < length:
        text = f"{{2$${text}|{text}}}" if len(text) * 2 + 8 < length else text + "{a|b}"
    return text[:length]


def _json(**values: object) -> bytes:
    return json.dumps(values).encode()


def _described(size: int) -> Attack:
    """An image that says much of itself."""
    said = b"parameters\0a fox\nSteps: 20, " + b"Size: 64x64, a: b, " * (size // 19)
    plain = io.BytesIO()
    Image.new("RGB", (64, 64)).save(plain, "png")
    data = plain.getvalue()
    image = data[:33] + _chunk(b"tEXt", said) + data[33:]
    return Attack("/sdapi/v1/png-info", _json(image=base64.b64encode(image).decode()))


def _ranked(images: list[bytes]) -> Attack:
    texts = [base64.b64encode(image).decode() for image in images]
    return Attack("/v1/rerank", _json(prompt="a fox", images=texts))


def _scans(count: int) -> bytes:
    """A progressive JPEG of 3000x3000 whose last scan is repeated."""
    out = io.BytesIO()
    Image.new("RGB", (3000, 3000), (200, 30, 30)).save(out, "jpeg", progressive=True)
    data = out.getvalue()
    start = data.rindex(b"\xff\xda")
    return data[:start] + data[start:-2] * count + b"\xff\xd9"


def _bomb(side: int) -> bytes:
    """A small PNG of so many pixels a side."""
    head = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    packed = zlib.compressobj(9)
    row = bytes(1 + 3 * side)
    rows = b"".join(packed.compress(row) for _ in range(min(side, 6_000))) + packed.flush()
    chunks = _chunk(b"IHDR", head) + _chunk(b"IDAT", rows) + _chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def send(attack: Attack, port: int, seconds: float) -> list[int]:
    """Send an attack again and again; the statuses of the answers, 0 where there was none."""
    statuses, ends = [], time.monotonic() + seconds
    while time.monotonic() < ends:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        try:
            connection.request(
                "POST", attack.path, attack.body, {"Content-Type": "application/json"}
            )
            statuses.append(connection.getresponse().status)
        except (OSError, http.client.HTTPException):
            statuses.append(0)
        finally:
            connection.close()
    return statuses


if __name__ == "__main__":
    attack = all_attacks()[sys.argv[1]]
    print("ready", flush=True)
    print(json.dumps(send(attack, int(sys.argv[2]), float(sys.argv[3]))))
