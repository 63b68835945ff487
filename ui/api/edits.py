"""Changing images, as OpenAI's clients ask for it: edits with and without a mask, variations."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Response
from fastapi import Request as HttpRequest
from PIL import ImageChops, ImageOps
from pydantic import ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData, UploadFile

from gen.errors import InputError
from gen.metadata.foreign import read_any
from gen.models import DEFAULT_MODEL
from gen.run_folder.originals import keep
from gen.run_folder.saving import SUFFIX_OF_FORMAT
from gen.settings.request import SETTINGS
from ui.api.answers import ParameterError, client_of, new_router
from ui.api.image_answers import ImageAnswers, ImagesAnswer
from ui.api.images import ADDRESS, MAX_BYTES, decoded, format_of, open_image
from ui.api.openai_request import Edit, ParsedRequest, parse
from ui.service.service import Service

MOST_FIELDS = 100
STRENGTH_OF_VARIATIONS = 0.6
TRUTHS = {"true": True, "false": False}
FILES = ("image", "image[]", "mask", "mix_with")
FORM = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["image"],
                    "properties": {
                        "image": {"type": "string", "format": "binary"},
                        "mask": {"type": "string", "format": "binary"},
                        "mix_with": {"type": "string", "format": "binary"},
                        "prompt": {"type": "string"},
                    },
                }
            }
        },
    }
}


def routes(service: Service, answers: ImageAnswers) -> APIRouter:
    """Return the paths that change images."""
    router = new_router()

    async def answer(http: HttpRequest, kind: str, strength: float | None) -> Response:
        files, fields = await _read_form(http)
        parsed, paths = await run_in_threadpool(_parse, service, files, fields, strength)
        client = client_of(http, fields.get("user"))
        return await answers.answer(parsed, http, client, kind, paths)

    @router.post("/v1/images/edits", response_model=ImagesAnswer, openapi_extra=FORM)
    async def edit(http: HttpRequest) -> Response:
        """Change an image: where its mask, or itself, is transparent, or else all of it."""
        return await answer(http, "image_edit", None)

    @router.post("/v1/images/variations", response_model=ImagesAnswer, openapi_extra=FORM)
    async def vary(http: HttpRequest) -> Response:
        """Draw images like an image; its prompt is the one that it says of itself."""
        return await answer(http, "image_generation", STRENGTH_OF_VARIATIONS)

    return router


async def _read_form(http: HttpRequest) -> tuple[dict[str, bytes], dict[str, str]]:
    """Return the files and the other fields of a form. Raises ParameterError."""
    form: FormData
    async with http.form(max_files=8, max_fields=MOST_FIELDS) as form:
        files, fields = {}, {}
        for name, value in form.multi_items():
            if not isinstance(value, UploadFile):
                fields[name] = value
                continue
            place = name.removesuffix("[]")
            if name not in FILES:
                raise ParameterError(name[:40], f"{name[:40]}: not a file that is read here")
            if place in files:
                raise ParameterError("image", "image: one image is changed at a time")
            files[place] = await value.read(MAX_BYTES + 1)
    for name in FILES:
        if ADDRESS.match(fields.get(name, "")):
            raise ParameterError(name, f"{name}: an address: nothing is fetched, so send a file")
    if "image" not in files:
        message = "image: missing: send a file, as multipart/form-data"
        raise ParameterError("image", message, "missing_required_parameter")
    return files, fields


def _parse(
    service: Service, files: Mapping[str, bytes], fields: dict[str, str], strength: float | None
) -> tuple[ParsedRequest, dict[str, Path]]:
    """Return what is to be drawn, and where the images are kept that it begins from."""
    image, mask = (
        service.reader.read(_prepared, files["image"], files.get("mask"))
        if "mask" in files or strength is None
        else (files["image"], None)
    )
    values: dict[str, Any] = {name: _value(name, text) for name, text in fields.items()}
    varied = strength is not None and _draws_from_images(service, values.get("model"))
    if strength is not None:
        if not varied:
            values.setdefault("strength", strength)
        if not fields.get("prompt", "").strip():
            shown = [image, files["mix_with"]] if "mix_with" in files else [image]
            said = [service.reader.read(_prompt_of, each, varied) for each in shown]
            values["prompt"] = fields.get("toward") or " and ".join(dict.fromkeys(said))
    try:
        body = Edit.model_validate(values, strict=False)
    except ValidationError as error:
        first = error.errors()[0]
        param = str(first["loc"][0]) if first["loc"] else "body"
        raise ParameterError(param, f"{param}: {first['msg']}") from error
    taken = {"image_prompt" if varied else "init_image": image}
    if "mix_with" in files:
        if not varied:
            raise ParameterError(
                "mix_with",
                "mix_with: for variations, by a model that has image_prompt among its settings",
            )
        taken["mix_with"] = files["mix_with"]
    paths = {name: _kept(service, data) for name, data in taken.items()}
    if mask is not None:
        paths["mask"] = keep(service.folder.path, mask, SUFFIX_OF_FORMAT["png"])
    return parse(service, body), paths


def _kept(service: Service, image: bytes) -> Path:
    """Return where an image is kept, by its hash."""
    suffix = SUFFIX_OF_FORMAT[format_of(image, service.reader).lower()]
    return keep(service.folder.path, image, suffix)


def _draws_from_images(service: Service, model: str | None) -> bool:
    """Tell whether a model varies an image by its embedding, instead of drawing over it."""
    names = (DEFAULT_MODEL if model is None else model).split(",")
    return all("image_prompt" in service.find(name).settings for name in names)


def _value(name: str, text: str) -> Any:
    """Return the value of a form's field, which is text, as it would stand in JSON."""
    if text.lower() in TRUTHS:
        return TRUTHS[text.lower()]
    setting = SETTINGS.get(name)
    return text if setting is None or setting.kind is str else setting.read(text)


def _prepared(data: bytes, mask: bytes | None) -> tuple[bytes, bytes | None]:
    """Return an image, and where it is to be changed: white, which is where theirs is transparent.

    Without a mask the image's own transparency says so, if it has any.
    """
    image = decoded(data)
    source = image if mask is None else decoded(mask)
    if not source.has_transparency_data:
        if mask is not None:
            raise InputError("mask: has no transparent part: that is the part that is changed")
        return data, None
    if mask is not None and source.size != image.size:
        raise InputError(f"mask: is {source.size}, the image is {image.size}: send one of its size")
    alpha = ImageOps.exif_transpose(source).convert("RGBA").getchannel("A")
    if alpha.getextrema()[0] == 255:
        return data, None
    out = io.BytesIO()
    ImageChops.invert(alpha).save(out, "png")
    return data, out.getvalue()


def _prompt_of(data: bytes, varied: bool) -> str:
    """Return the prompt that an image was made with.

    Where it says none, its embedding is `varied` by another name. Raises InputError if it is not.
    """
    try:
        return read_any(open_image(data)).request.prompt
    except InputError as error:
        if varied:
            return "a variation"
        raise InputError(f"prompt: the image does not say its own ({error}): send one") from error
