"""Enlarging a client's own images, as tools written for AUTOMATIC1111's API ask for it."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import APIRouter
from fastapi import Request as HttpRequest
from PIL import Image, ImageOps
from pydantic import BaseModel, Field
from starlette.concurrency import run_in_threadpool

from ui.api.answers import ParameterError, finished, new_router
from ui.api.images import Form, from_base64, open_image, to_base64
from ui.api.sdapi.options import client
from ui.api.sizes import MAX_SIDE
from ui.service.service import Service

UPSCALERS: Mapping[str, Image.Resampling | None] = {
    "None": None,
    "Lanczos": Image.Resampling.LANCZOS,
    "Nearest": Image.Resampling.NEAREST,
}
MOST_IMAGES = 16
MOST_TIMES = 8.0
Share = Annotated[float, Field(ge=0, le=1)]


class Extras(BaseModel):
    """How images are to be enlarged: by so many times, or to a width and height."""

    resize_mode: Literal[0, 1] = 0
    upscaling_resize: Annotated[float, Field(gt=0, le=MOST_TIMES)] = 2
    upscaling_resize_w: Annotated[int, Field(ge=1, le=MAX_SIDE)] = 512
    upscaling_resize_h: Annotated[int, Field(ge=1, le=MAX_SIDE)] = 512
    upscaling_crop: bool = True
    upscaler_1: str = "None"
    upscaler_2: str = "None"
    extras_upscaler_2_visibility: Share = 0
    gfpgan_visibility: Share = 0
    codeformer_visibility: Share = 0


class ExtrasOfOne(Extras):
    """One image, in base64."""

    image: str


class NamedImage(BaseModel):
    """An image in base64; its name makes no difference."""

    data: str
    name: str = ""


class ExtrasOfMany(Extras):
    """Several images."""

    imageList: Annotated[list[NamedImage], Field(max_length=MOST_IMAGES)]  # noqa: N815


class EnlargedImage(BaseModel):
    """The answer to ExtrasOfOne."""

    html_info: str
    image: str


class EnlargedImages(BaseModel):
    """The answer to ExtrasOfMany."""

    html_info: str
    images: list[str]


def routes(service: Service) -> APIRouter:
    """Return the paths that enlarge images."""
    router = new_router()

    async def enlarge(text: str, extras: Extras, http: HttpRequest) -> str:
        data, values = await run_in_threadpool(from_base64, text), extras.model_dump()
        network = networks(service).get(extras.upscaler_1)
        if network is not None:
            size, times = await run_in_threadpool(service.reader.read, _wanted, data, values)
            image = await finished(
                service, service.enlarge(data, network, times, client(http)), http
            )
            data = await run_in_threadpool(Form().encode, image)
            values |= {"upscaler_1": "Lanczos", "resize_mode": 1}
            values |= {"upscaling_resize_w": size[0], "upscaling_resize_h": size[1]}
        return to_base64(await run_in_threadpool(service.reader.read, _enlarged, data, values))

    @router.post("/extra-single-image")
    async def one(body: ExtrasOfOne, http: HttpRequest) -> EnlargedImage:
        """Enlarge an image."""
        info = _info(body, service)
        return EnlargedImage(html_info=info, image=await enlarge(body.image, body, http))

    @router.post("/extra-batch-images")
    async def many(body: ExtrasOfMany, http: HttpRequest) -> EnlargedImages:
        """Enlarge several images."""
        info = _info(body, service)
        images = [await enlarge(image.data, body, http) for image in body.imageList]
        return EnlargedImages(html_info=info, images=images)

    return router


def networks(service: Service) -> dict[str, Path]:
    """Return the upscalers that models come with, by name."""
    own = {spec.upsampler: spec.name for spec in service.models.values() if spec.upsampler}
    return {f"{name} upsampler": path for path, name in own.items()}


def _info(extras: Extras, service: Service) -> str:
    """Return what is done. Raises ParameterError for what is not."""
    for name in ("extras_upscaler_2_visibility", "gfpgan_visibility", "codeformer_visibility"):
        if getattr(extras, name):
            raise ParameterError(name, f"{name}: not done by this server: send 0")
    known = (*UPSCALERS, *networks(service))
    if extras.upscaler_1 not in known:
        raise ParameterError(
            "upscaler_1", f"upscaler_1 {extras.upscaler_1[:40]}: one of {', '.join(known)}"
        )
    return f"<p>Upscaler: {extras.upscaler_1}</p>"


def _wanted(data: bytes, extras: Mapping[str, Any]) -> tuple[tuple[int, int], float]:
    """Return the size (width, height) that is asked for, and how many times the image's it is.

    Raises ParameterError for one that is too large, and InputError for what is no image.
    """
    image = ImageOps.exif_transpose(open_image(data))
    size = (extras["upscaling_resize_w"], extras["upscaling_resize_h"])
    if extras["resize_mode"] == 0:
        times = extras["upscaling_resize"]
        size = (max(1, round(image.width * times)), max(1, round(image.height * times)))
    if max(size) > MAX_SIDE:
        raise ParameterError(
            "upscaling_resize", f"upscaling_resize: at most {MAX_SIDE} pixels a side are made"
        )
    return size, max(size[0] / image.width, size[1] / image.height)


def _enlarged(data: bytes, extras: Mapping[str, Any]) -> bytes:
    """Return an upload enlarged, as a PNG. Raises InputError."""
    image = ImageOps.exif_transpose(open_image(data)).convert("RGBA")
    how = UPSCALERS[extras["upscaler_1"]]
    if how is not None:
        size, _ = _wanted(data, extras)
        fits = extras["resize_mode"] == 1 and extras["upscaling_crop"]
        image = ImageOps.fit(image, size, how) if fits else image.resize(size, how)
    if image.getchannel("A").getextrema() == (255, 255):
        image = image.convert("RGB")
    out = io.BytesIO()
    image.save(out, "png")
    return out.getvalue()
