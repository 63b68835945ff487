"""The API of AUTOMATIC1111's web UI, as far as tools use it, under /sdapi/v1."""

from fastapi import APIRouter

from ui.api.answers import new_router
from ui.api.sdapi import drawing, extras, facts, options
from ui.service.service import Service


def routes(service: Service) -> APIRouter:
    """Return all its paths."""
    router = new_router("/sdapi/v1")
    choices = options.Choices()
    router.include_router(drawing.routes(service, choices))
    router.include_router(options.routes(service, choices))
    router.include_router(extras.routes(service))
    router.include_router(facts.routes(service, choices))
    return router
