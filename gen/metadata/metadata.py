"""What a picture says about itself, written and read.

Two copies travel in each file: the `parameters` text that AUTOMATIC1111's web UI introduced and
many tools read, and our own JSON, which reads back as the same record. In PNG they are the text
chunks `parameters` and `salon`; in JPEG and WebP the EXIF tags UserComment and MakerNote. No clock
time is inside, so the same picture is the same file.
"""

import io
import json
import re
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, get_origin, get_type_hints

from PIL import Image
from PIL.PngImagePlugin import PngInfo, putchunk

from gen.errors import InputError
from gen.settings.request import SETTINGS, Request
from pipelines.diffusion.samplers import SAMPLERS, SCHEDULES
from pipelines.settings import UNREADABLE, Value

JSON_KEY = "salon"
TEXT_KEY = "parameters"
EXIF_IFD, USER_COMMENT, MAKER_NOTE = 0x8769, 0x9286, 0x927C
JPEG_SEGMENT_MAX = 65_533  # bytes
# The order in which AUTOMATIC1111 writes its keys; the ones that only we know come last.
TEXT_ORDER = (
    "Steps",
    "Sampler",
    "Schedule type",
    "CFG scale",
    "Seed",
    "Size",
    "Model hash",
    "Model",
    "VAE",
    "Clip skip",
    "RNG",
    "Version",
    "Temperature",
    "Token top k",
    "Token top p",
    "Keep rows",
    "Attention",
    "Candidates",
    "Rerank model",
    "Rerank score",
    "Rerank rank",
    "Log likelihood",
    "Unfinished",
    "Template",
)
TEXT_PAIR = re.compile(r'\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])*"|[^,]*)(?:,|$)')
TEXT_PAIRS_MIN = 3  # a last line with fewer is part of the prompt


@dataclass(frozen=True)
class Metadata:
    """One picture's record: the request for exactly this picture, how it was made and judged."""

    request: Request
    model: str = ""  # the model's name; request.model says where it was found
    model_hash: str = ""
    attention: str = ""  # the implementation that really ran
    versions: Mapping[str, str] = field(default_factory=dict)
    candidates: int | None = None  # how many were made with it
    rerank_model: str | None = None
    score: float | None = None  # cosine between prompt and picture, in [-1, 1]
    rank: int | None = None  # 1 is the best
    log_likelihood: float | None = None  # of its tokens, in nats, if it is made of them
    unfinished: str | None = None  # "step 14 of 30"
    upscale: int = 1  # the file is so many times larger than what the model drew
    extra: Mapping[str, Any] = field(default_factory=dict)  # what other writers say beside this

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; `from_json` gives the same record back."""
        own = {f.name: getattr(self, f.name) for f in fields(self)}
        own |= {"request": self.request.to_json(), "versions": dict(self.versions)}
        return {**own.pop("extra"), **{k: value for k, value in own.items() if value is not None}}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Metadata":
        """The record of a JSON object. Raises InputError if it holds no sound request."""
        values = _clean(values)
        if not isinstance(values.get("request"), dict):
            raise InputError("the metadata holds no request")
        own, extra = {}, {}
        for key, value in values.items():
            kind = _FIELD_KINDS.get(key)
            if kind is None:
                extra[key] = value
            elif not isinstance(value, kind):
                raise InputError(f"{key} {value!r}: of the wrong kind")
            else:
                own[key] = value
        return cls(**{**own, "request": Request.from_json(values["request"]), "extra": extra})

    def to_text(self) -> str:
        """The `parameters` text: prompt, negative prompt, one line of keys and values."""
        lines = [self.request.prompt]
        if self.request.negative_prompt:
            lines.append(f"Negative prompt: {self.request.negative_prompt}")
        pairs = self._text_pairs()
        shown = {key: pairs[key] for key in TEXT_ORDER if pairs.get(key) is not None}
        lines.append(", ".join(f"{key}: {_quoted(str(value))}" for key, value in shown.items()))
        return "\n".join(lines)

    def _text_pairs(self) -> dict[str, object]:
        request = self.request
        pairs: dict[str, object] = {
            SETTINGS[name].label: f"{value:g}" if isinstance(value, float) else value
            for name, value in request.given().items()
        }
        if request.sampler is not None:
            pairs["Sampler"] = SAMPLERS[request.sampler].a1111
        if request.schedule is not None:
            pairs["Schedule type"] = SCHEDULES[request.schedule].a1111
        if request.width is not None and request.height is not None:
            pairs["Size"] = f"{request.width}x{request.height}"
        return pairs | {
            "Model hash": self.model_hash or None,
            "Model": self.model or None,
            "RNG": "CPU",  # a seed's noise is always drawn on the CPU
            "Version": f"salon {self.versions['salon']}" if "salon" in self.versions else None,
            "Attention": self.attention or None,
            "Candidates": self.candidates,
            "Rerank model": self.rerank_model,
            "Rerank score": None if self.score is None else f"{self.score:.4f}",
            "Rerank rank": self.rank,
            "Log likelihood": (
                None if self.log_likelihood is None else f"{self.log_likelihood:.2f}"
            ),
            "Unfinished": self.unfinished,
        }

    @classmethod
    def from_text(cls, text: str) -> "Metadata":
        """What a `parameters` text tells, of any tool that writes them; keys that we do not know,
        and values that we cannot use, survive in `extra`.
        """
        prompt, negative, pairs = _split_text(_clean(text))
        values: dict[str, Value] = {"prompt": prompt}
        if negative:
            values["negative_prompt"] = negative
        rest = dict(pairs)
        if size := re.fullmatch(r"(\d+)x(\d+)", rest.get("Size", "")):
            values |= {"width": int(size[1]), "height": int(size[2])}
            del rest["Size"]
        rest |= _old_sampler(rest.get("Sampler", ""))
        for name in ("steps", "sampler", "schedule", "guidance", "seed", "clip_skip"):
            setting = SETTINGS[name]
            try:
                values[name] = setting.read(rest[setting.label])
                del rest[setting.label]
            except (KeyError, InputError):
                continue
        model, model_hash = rest.pop("Model", ""), rest.pop("Model hash", "")
        return cls(Request.from_json(values), model, model_hash, extra=rest)


_FIELD_KINDS: dict[str, Any] = {
    name: get_origin(hint) if get_origin(hint) is Mapping else hint
    for name, hint in get_type_hints(Metadata).items()
    if name != "extra"
} | {"request": Mapping}


@cache
def versions() -> Mapping[str, str]:
    """The versions that decide how a picture comes out."""
    found = {}
    for package in ("salon", "torch", "diffusers"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # run from a source tree that is not installed
            found[package] = "unknown"
    return found


def read(path: Path) -> Metadata:
    """The record inside a PNG, JPEG or WebP file, without decoding its pixels.

    Raises InputError if there is no such picture or it says nothing about itself.
    """
    try:
        with Image.open(path, formats=["PNG", "JPEG", "WEBP"]) as image:
            return read_image(image)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    except OSError as error:
        reason = error.strerror or "not a PNG, JPEG or WebP picture, or a damaged one"
        raise InputError(f"{path}: {reason}") from error
    except (ValueError, SyntaxError) as error:
        raise InputError(f"{path}: damaged: {error}") from error


def read_image(image: Image.Image) -> Metadata:
    """The record inside an opened picture. Raises InputError if it says nothing about itself."""
    ours, text = read_texts(image)
    try:
        if ours:
            return Metadata.from_json(json.loads(ours))
        if text:
            return Metadata.from_text(text)
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"its metadata cannot be read: {error}") from error
    raise InputError("has no metadata, so nobody knows how it was made")


def read_texts(image: Image.Image) -> tuple[Any, str | None]:
    """Our JSON and the `parameters` text inside an opened picture, as they are; None for none."""
    if image.format == "PNG":
        return image.info.get(JSON_KEY), image.info.get(TEXT_KEY)
    tags = image.getexif().get_ifd(EXIF_IFD)
    return tags.get(MAKER_NOTE), _user_comment(tags.get(USER_COMMENT, b""))


def embed(data: bytes, metadata: Metadata) -> bytes:
    """A picture file's bytes with this record in place of the one that it may hold.

    The pixels stay as they are encoded. `data` is a PNG, JPEG or WebP file that we encoded.
    Raises InputError if a JPEG has no room for it.
    """
    if data.startswith(b"\x89PNG"):
        return _png_with(data, metadata)
    tags = Image.Exif()
    tags.get_ifd(EXIF_IFD).update(
        {
            USER_COMMENT: b"UNICODE\0" + metadata.to_text().encode("utf-16-be"),
            MAKER_NOTE: _json(metadata).encode(),
        }
    )
    exif = tags.tobytes()
    return _jpeg_with(data, exif) if data.startswith(b"\xff\xd8") else _webp_with(data, exif)


def _json(metadata: Metadata) -> str:
    return json.dumps(metadata.to_json(), ensure_ascii=True, allow_nan=False)


def _png_with(data: bytes, metadata: Metadata) -> bytes:
    texts = PngInfo()
    texts.add_text(TEXT_KEY, metadata.to_text())
    texts.add_text(JSON_KEY, _json(metadata))
    keys = (TEXT_KEY.encode() + b"\0", JSON_KEY.encode() + b"\0")
    out = io.BytesIO()
    out.write(data[:8])
    for kind, body in _png_chunks(data):
        if kind not in (b"tEXt", b"iTXt") or not body.startswith(keys):
            putchunk(out, kind, body)
        if kind == b"IHDR":
            for text_kind, text_body, *_ in texts.chunks:
                putchunk(out, text_kind, text_body)
    return out.getvalue()


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    place = 8
    while place < len(data):
        (length,) = struct.unpack_from(">I", data, place)
        yield data[place + 4 : place + 8], data[place + 8 : place + 8 + length]
        place += length + 12  # length, kind and checksum, 4 bytes each


def _jpeg_with(data: bytes, exif: bytes) -> bytes:
    if len(exif) > JPEG_SEGMENT_MAX:
        raise InputError(
            "the prompt is too long for the metadata of a JPEG (64 kB): "
            "save as PNG, or strip the metadata"
        )
    place = 2
    if data[place : place + 2] == b"\xff\xe0":  # JFIF's header comes first
        place += 2 + struct.unpack_from(">H", data, place + 2)[0]
    rest = data[place:]
    if rest[:2] == b"\xff\xe1" and rest[4:10] == b"Exif\0\0":
        rest = rest[2 + struct.unpack_from(">H", rest, 2)[0] :]
    return data[:place] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + rest


def _webp_with(data: bytes, exif: bytes) -> bytes:
    chunks = {kind: body for kind, body in _riff_chunks(data) if kind != b"EXIF"}
    if b"VP8X" not in chunks:  # the extended header, which a file needs to hold anything else
        with Image.open(io.BytesIO(data)) as image:
            sides = b"".join(struct.pack("<I", side - 1)[:3] for side in image.size)
        chunks = {b"VP8X": b"\x08\0\0\0" + sides, **chunks}  # 8: there is EXIF
    chunks[b"EXIF"] = exif
    body = b"".join(
        kind + struct.pack("<I", len(body)) + body + b"\0" * (len(body) % 2)
        for kind, body in chunks.items()
    )
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body


def _riff_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    place = 12
    while place < len(data):
        (length,) = struct.unpack_from("<I", data, place + 4)
        yield data[place : place + 4], data[place + 8 : place + 8 + length]
        place += 8 + length + length % 2


def _user_comment(value: bytes | str) -> str:
    if isinstance(value, str):
        return value
    if value.startswith(b"UNICODE\0"):
        return value[8:].decode("utf-16-be", errors="replace")
    return value.removeprefix(b"ASCII\0\0\0").decode("utf-8", errors="replace")


def _clean(value: Any) -> Any:
    """The value without control characters in any of its texts."""
    if isinstance(value, str):
        return UNREADABLE.sub("", value)
    if isinstance(value, Mapping):
        return {_clean(key): _clean(item) for key, item in value.items()}
    return value


def _quoted(value: str) -> str:
    needs_quotes = any(character in value for character in ',:\n"')
    return json.dumps(value, ensure_ascii=False) if needs_quotes else value


def _unquoted(value: str) -> str:
    try:
        return str(json.loads(value)) if value.startswith('"') else value.strip()
    except ValueError:
        return value


def _split_text(text: str) -> tuple[str, str, dict[str, str]]:
    """Prompt, negative prompt and pairs of a `parameters` text."""
    *lines, last = text.strip().split("\n")
    pairs = {key: _unquoted(value) for key, value in TEXT_PAIR.findall(last)}
    if len(pairs) < TEXT_PAIRS_MIN:
        lines, pairs = [*lines, last], {}
    prompt, *negative = re.split(r"(?m)^Negative prompt:", "\n".join(lines), maxsplit=1)
    return prompt.strip(), "".join(negative).strip(), pairs


def _old_sampler(sampler: str) -> dict[str, str]:
    """Older pictures say "DPM++ 2M Karras" where newer ones have a key for the schedule."""
    for schedule in SCHEDULES.values():
        if sampler.endswith(f" {schedule.a1111}"):
            name = sampler.removesuffix(f" {schedule.a1111}")
            return {"Sampler": name, "Schedule type": schedule.a1111}
    return {}
