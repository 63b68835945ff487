"""The HTTP API: all its paths. A route is a schema and a function in the module of its topic."""

from fastapi import APIRouter

from ui.api import a1111, choices, generations, health, models, reranking
from ui.service.service import Service

TOPICS = (generations, models, reranking, choices, health, a1111)


def routes(service: Service) -> APIRouter:
    """Return the paths under /v1 and /sdapi/v1, and those that look after the server."""
    router = APIRouter()
    for topic in TOPICS:
        router.include_router(topic.routes(service))
    return router
