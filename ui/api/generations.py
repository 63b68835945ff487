"""Drawing, as OpenAI's clients ask for it."""

from fastapi import APIRouter, Response
from fastapi import Request as HttpRequest
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from ui.api import edits
from ui.api.answers import client_of, new_router
from ui.api.image_answers import ImageAnswers, ImagesAnswer
from ui.api.openai_request import Generation, parse
from ui.service.service import Service


def routes(service: Service) -> APIRouter:
    """Return the paths that draw, and that of images which were asked for as URLs."""
    router = new_router()
    answers = ImageAnswers(service)

    @router.post(
        "/v1/images/generations",
        response_model=ImagesAnswer,
        responses={200: {"content": {"text/event-stream": {}}}},
    )
    async def generate(body: Generation, http: HttpRequest) -> Response:
        """Draw `candidates` images of a prompt and return the `n` best, best first."""
        parsed = await run_in_threadpool(parse, service, body)
        return await answers.answer(parsed, http, client_of(http, body.user), "image_generation")

    @router.get("/v1/files/{name}", response_class=Response, include_in_schema=False)
    async def file(name: str) -> Response:
        stored = answers.url_store.get(name)
        if stored is None:
            raise HTTPException(404, "no such image, or no longer")
        return Response(stored.data, media_type=stored.media_type)

    router.include_router(edits.routes(service, answers))
    return router
