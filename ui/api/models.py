"""The models that can be asked for."""

from typing import Any, Literal

from fastapi import APIRouter
from pydantic import BaseModel

from gen.models import Spec
from ui.api.answers import new_router
from ui.api.sizes import sizes
from ui.service.service import Service


class ModelInfo(BaseModel):
    """A model that can be asked for, with the settings that it takes in a request."""

    id: str
    object: Literal["model"] = "model"
    created: int = 0
    owned_by: Literal["salon"] = "salon"
    draws: str
    sizes: str
    licence: str
    settings: list[str]
    defaults: dict[str, Any]


class ModelList(BaseModel):
    """All of them."""

    object: Literal["list"] = "list"
    data: list[ModelInfo]


def routes(service: Service) -> APIRouter:
    """Return the paths under /v1/models."""
    router = new_router()

    @router.get("/v1/models")
    async def models() -> ModelList:
        """List the models that draw."""
        return ModelList(data=[_info(service, spec) for spec in service.models.values()])

    @router.get("/v1/models/{name}")
    async def model(name: str) -> ModelInfo:
        """Return one of them."""
        return _info(service, service.find(name))

    return router


def _info(service: Service, spec: Spec) -> ModelInfo:
    return ModelInfo(
        id=spec.name,
        draws=spec.draws,
        sizes=sizes(spec),
        licence=spec.licence,
        settings=service.offered([spec]),
        defaults=dict(spec.defaults),
    )
