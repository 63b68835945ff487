"""Ranking the client's own images for a prompt."""

from typing import Annotated

from fastapi import APIRouter, Response
from fastapi import Request as HttpRequest
from pydantic import BaseModel, Field
from starlette.concurrency import run_in_threadpool

from gen.errors import InputError
from ui.api.answers import client_of, finished, new_router
from ui.api.body import Body, Prompt, checked, to_response
from ui.api.images import from_base64
from ui.service.catalog import UnknownModelError
from ui.service.service import Service, UploadScore

MAX_UPLOADS = 64


class RerankRequest(Body):
    """Images to be ranked for a prompt."""

    prompt: Prompt
    images: Annotated[
        list[str],
        Field(min_length=1, max_length=MAX_UPLOADS, description="base64 or data: URLs"),
    ]
    model: Annotated[
        str | None, Field(description="the server's reranker, which ranks if nothing is named")
    ] = None
    top_k: Annotated[int | None, Field(ge=1, description="how many are returned")] = None
    user: str | None = None


class ClaimResult(BaseModel):
    """One fact of the prompt, and whether an image shows it."""

    claim: str
    holds: bool


class RankedImage(BaseModel):
    """An image that was scored, by its index in the request."""

    index: int
    score: float
    probability: Annotated[
        float | None, Field(description="that it matches, of a calibrated reranker")
    ] = None
    claims: list[ClaimResult] = []


class UnscoredImage(BaseModel):
    """An image that could not be scored."""

    index: int
    reason: str


class RerankAnswer(BaseModel):
    """The answer to a RerankRequest, best first."""

    model: str
    results: list[RankedImage]
    failed: list[UnscoredImage]


def routes(service: Service) -> APIRouter:
    """Return the path that ranks images."""
    router = new_router()

    @router.post("/v1/rerank", response_model=RerankAnswer)
    async def rerank(body: RerankRequest, http: HttpRequest) -> Response:
        """Rank images by how well they fit a prompt."""
        prompt = checked("prompt", body.prompt)
        if body.model and (ranks := service.usual_rerankers) and body.model not in ranks:
            raise UnknownModelError(f"model: {body.model} does not rank here; {ranks[0]} does")
        files, failed = await run_in_threadpool(_files, body.images)
        client = client_of(http, body.user)
        job = service.rerank(prompt, list(files.values()), client, closely=True)
        scores: list[UploadScore] = await finished(service, job, http)
        return to_response(_ranked(service, body, list(files), scores, failed))

    return router


def _files(images: list[str]) -> tuple[dict[int, bytes], list[UnscoredImage]]:
    """Return the uploads by index, and those that are none."""
    files, failed = {}, []
    for index, text in enumerate(images):
        try:
            files[index] = from_base64(text)
        except InputError as error:
            failed.append(UnscoredImage(index=index, reason=str(error)))
    return files, failed


def _ranked(
    service: Service,
    body: RerankRequest,
    indices: list[int],
    scores: list[UploadScore],
    failed: list[UnscoredImage],
) -> RerankAnswer:
    ranked = []
    for index, each in zip(indices, scores, strict=True):
        if each.score is None:
            failed = [*failed, UnscoredImage(index=index, reason=each.failed or "")]
        else:
            claims = [ClaimResult(claim=claim, holds=holds) for claim, holds in each.claims]
            ranked.append(
                RankedImage(index=index, score=each.score, probability=each.match, claims=claims)
            )
    ranked.sort(key=lambda image: (-image.score, image.index))
    return RerankAnswer(
        model=service.usual_rerankers[0],
        results=ranked[: body.top_k],
        failed=sorted(failed, key=lambda upload: upload.index),
    )
