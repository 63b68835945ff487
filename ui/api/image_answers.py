"""Answering OpenAI's clients with images: all at once, or as a stream of events."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Literal

from fastapi import Request as HttpRequest
from fastapi import Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, Field
from starlette.concurrency import run_in_threadpool

from gen.engine import Outcome
from ui.api.answers import finished
from ui.api.body import to_response
from ui.api.generated import facts_of, images_of, noting
from ui.api.images import to_base64
from ui.api.openai_request import ParsedRequest
from ui.api.streaming import Partials, events
from ui.api.url_store import UrlStore
from ui.service.service import Service


class DrawnClaim(BaseModel):
    """One fact of the prompt, and whether an image shows it."""

    kind: str
    claim: str
    holds: bool


class GeneratedImage(BaseModel):
    """One image of an answer, best first."""

    b64_json: str | None = None
    url: str | None = None
    seed: int | str
    rank: int | None = None
    score: Annotated[
        float | None,
        Field(description="of one reranker: cosine with the prompt, -1 to 1"),
    ] = None
    scores: Annotated[
        dict[str, float] | None, Field(description="its parts, where several scorers are combined")
    ] = None
    probability: Annotated[
        float | None, Field(description="that it matches, of a calibrated reranker")
    ] = None
    percentile: Annotated[
        float | None, Field(description="share of unrelated captions that score lower, to 100")
    ] = None
    claims: Annotated[
        list[DrawnClaim] | None, Field(description="of the prompt, as far as it is understood")
    ] = None
    fits_best: Annotated[
        str | None, Field(description="the prompt, corrected until it fits the image best")
    ] = None
    model: str | None = None
    size: str
    drawn_size: Annotated[str | None, Field(description="before it was enlarged")] = None


class ImagesAnswer(BaseModel):
    """The answer to a Generation."""

    created: int
    data: list[GeneratedImage]
    output_format: Literal["png", "jpeg", "webp"]
    background: Literal["opaque"] = "opaque"
    notes: list[str]
    failed: Annotated[list[str], Field(description="candidates without an image, and why")]


@dataclass
class ImageAnswers:
    """Draws what was asked for, and answers with it."""

    service: Service
    url_store: UrlStore = field(default_factory=UrlStore)

    async def answer(
        self,
        parsed: ParsedRequest,
        http: HttpRequest,
        client: str,
        kind: str,
        uploads: Mapping[str, Path] = MappingProxyType({}),
    ) -> Response:
        """Answer when it is drawn, or with a stream whose events are of that kind.

        `uploads` are the files that an edit begins from, by the names of their settings.
        """
        submit = partial(
            self.service.submit, parsed.request, client, explained=True, uploads=uploads
        )
        if parsed.stream:
            watch = Partials(parsed.partials)
            job = await run_in_threadpool(submit, watch, previews=parsed.partials > 0)
            stream = events(self.service, job, parsed.form, watch, kind)
            return StreamingResponse(stream, media_type="text/event-stream")
        notes = [*parsed.notes]
        job = await run_in_threadpool(submit, noting(notes))
        outcome = await finished(self.service, job, http)
        address = f"{http.url.scheme}://{http.url.netloc}/v1/files/"
        return await run_in_threadpool(_images, parsed, outcome, notes, self.url_store, address)


def _images(
    parsed: ParsedRequest,
    outcome: Outcome,
    notes: list[str],
    url_store: UrlStore,
    address: str,
) -> Response:
    """Answer with the images of an outcome; their URLs begin with `address`."""
    data = []
    for result in images_of(outcome):
        file = parsed.form.encode_result(result)
        image = GeneratedImage(
            b64_json=to_base64(file) if parsed.as_base64 else None,
            url=address + url_store.put(file, parsed.form) if parsed.as_url else None,
            **facts_of(result, parsed.form),
        )
        data.append(image)
    answer = ImagesAnswer(
        created=int(time.time()),
        data=data,
        output_format=parsed.form.format,  # type: ignore[arg-type]
        notes=notes,
        failed=[f"seed {result.seed}: {result.failed}" for result in outcome.failed],
    )
    return to_response(answer)
