"""What tools written for AUTOMATIC1111's API want to know, under /sdapi/v1."""

from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel

from gen import metadata
from gen.metadata.foreign import read_any
from gen.settings.request import SETTINGS
from ui.api.a1111 import THEIR_NAMES
from ui.api.answers import ERROR_ANSWERS
from ui.api.images import from_base64, open_image
from ui.service.service import Service, models_present


class Upload(BaseModel):
    """An image in base64, or as a data: URL."""

    image: str


class PngInfo(BaseModel):
    """What an image says about itself: as it stands there, and as `txt2img` takes it."""

    info: str
    items: dict[str, str]
    parameters: dict[str, Any]


class Checkpoint(BaseModel):
    """A model that draws."""

    title: str
    model_name: str
    hash: str | None
    sha256: str | None = None
    filename: str
    config: str | None = None


class SamplerItem(BaseModel):
    """A sampler, by the name that AUTOMATIC1111 has for it and by ours."""

    name: str
    aliases: list[str]
    options: dict[str, str] = {}


def routes(service: Service) -> APIRouter:
    """Return the paths under /sdapi/v1 that draw nothing."""
    router = APIRouter(prefix="/sdapi/v1", responses=ERROR_ANSWERS)

    @router.post("/png-info")
    def png_info(body: Upload) -> PngInfo:
        """Return what an image says about itself; nothing is no error."""
        image = open_image(from_base64(body.image))
        try:
            request = read_any(image).request
            _, text = metadata.read_texts(image)
        except Exception:  # others' files hold anything
            return PngInfo(info="", items={}, parameters={})
        values = {THEIR_NAMES.get(name, name): value for name, value in request.to_json().items()}
        info = "" if text is None else text
        return PngInfo(info=info, items={"parameters": info}, parameters=values)

    @router.get("/sd-models")
    def checkpoints() -> list[Checkpoint]:
        """List the models that draw."""
        found = []
        for spec in models_present().values():
            digest = service.engine.model_hash(spec)
            title = f"{spec.name} [{digest}]"
            found.append(
                Checkpoint(
                    title=title, model_name=spec.name, hash=digest, filename=spec.folder.name
                )
            )
        return found

    @router.get("/samplers")
    async def samplers() -> list[SamplerItem]:
        """List the samplers that models which take one know."""
        items: dict[str, SamplerItem] = {}
        names = SETTINGS["sampler"].names
        assert names is not None
        for written, name in names().items():
            if written != name:
                items[name] = SamplerItem(name=written, aliases=[name])
        return list(items.values())

    return router
