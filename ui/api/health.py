"""Whether the server takes jobs, and what it counts."""

from typing import Literal

from fastapi import APIRouter, Response
from pydantic import BaseModel

from ui.api.answers import new_router
from ui.service.metrics import CONTENT_TYPE
from ui.service.service import Service


class Health(BaseModel):
    """Whether the server takes jobs."""

    status: Literal["ok", "stopping"]


def routes(service: Service) -> APIRouter:
    """Return the paths that look after the server."""
    router = new_router()

    @router.get("/healthz", responses={503: {"model": Health}})
    async def healthz(response: Response) -> Health:
        """Return whether the server takes jobs."""
        if service.queue.stopping:
            response.status_code = 503
            return Health(status="stopping")
        return Health(status="ok")

    @router.get(
        "/metrics",
        response_class=Response,
        responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
    )
    async def metrics() -> Response:
        """Return what the server counts, for Prometheus."""
        text = service.metrics.text(len(service.queue), len(service.queue.running))
        return Response(text, headers={"Content-Type": CONTENT_TYPE})

    return router
