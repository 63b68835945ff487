"""Drawing as tools written for AUTOMATIC1111's API ask for it, and how far it is."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from time import perf_counter
from typing import Any

from fastapi import APIRouter, Response
from fastapi import Request as HttpRequest
from pydantic import BaseModel
from starlette.concurrency import run_in_threadpool

from gen import metadata
from gen.engine import Outcome
from gen.metadata import parameters
from ui.api.answers import finished, new_router
from ui.api.body import to_response
from ui.api.generated import images_of, noting
from ui.api.images import Form, to_base64
from ui.api.sdapi.editing import ImageToImage, read_edit
from ui.api.sdapi.options import Choices, client
from ui.api.sdapi.request import ParsedRequest, TextToImage, TheirFields, parse
from ui.service.queue import Job
from ui.service.service import Service


class Images(BaseModel):
    """Images in the order of their seeds; `info` is JSON as text."""

    images: list[str]
    parameters: dict[str, Any]
    info: str


class State(BaseModel):
    """The job in the making."""

    skipped: bool = False
    interrupted: bool
    job: str
    job_count: int
    job_no: int
    sampling_step: int
    sampling_steps: int
    job_timestamp: str = ""


class ProgressAnswer(BaseModel):
    """How far the job in the making is, whoever asked for it; `current_image` if it was here."""

    progress: float
    eta_relative: float
    state: State
    current_image: str | None = None
    textinfo: str | None = None


def routes(service: Service, choices: Choices) -> APIRouter:
    """Return the paths that have to do with jobs."""
    router = new_router()

    @router.post("/txt2img", response_model=Images)
    async def text_to_image(body: TextToImage, http: HttpRequest) -> Response:
        """Draw `batch_size` times `n_iter` images, or the best so many of `candidates`."""
        return await _draw(service, choices, body, http, lambda: ({}, {}))

    @router.post("/img2img", response_model=Images)
    async def image_to_image(body: ImageToImage, http: HttpRequest) -> Response:
        """Draw images that begin from one, all of it or what a mask shows."""
        return await _draw(service, choices, body, http, lambda: read_edit(service, body))

    @router.get("/progress")
    def progress(http: HttpRequest, skip_current_image: bool = False) -> ProgressAnswer:
        """Return how far the job in the making is."""
        own = _own(service, http)
        job = next(iter((*own, *service.queue.running)), None)
        return _progress(job, len(service.queue), with_image=bool(own) and not skip_current_image)

    @router.post("/interrupt")
    async def interrupt(http: HttpRequest) -> dict[str, Any]:
        """Finish the client's own jobs as they are."""
        for job in _own(service, http):
            job.cancel.finish_now()
        return {}

    # The images of a request are made side by side here, so there is none to go on with.
    router.post("/skip")(interrupt)
    return router


def _own(service: Service, http: HttpRequest) -> list[Job]:
    """Return the client's jobs in the making."""
    return [job for job in service.queue.running if job.client == client(http)]


async def _draw(
    service: Service,
    choices: Choices,
    body: TheirFields,
    http: HttpRequest,
    read: Callable[[], tuple[Mapping[str, Any], Mapping[str, Path]]],
) -> Response:
    """Draw what a body asks for; `read` returns settings and files of an edit."""
    asking = client(http)

    notes: list[str] = []

    def submit() -> tuple[ParsedRequest, Job]:
        edit, uploads = read()
        parsed = parse(service, body, choices.of(asking), edit)
        watch = noting(notes)
        job = service.submit(
            parsed.request, asking, watch, previews=True, explained=True, uploads=uploads
        )
        choices.keep(asking, parsed.choice)
        return parsed, job

    parsed, job = await run_in_threadpool(submit)
    outcome: Outcome = await finished(service, job, http)
    return await run_in_threadpool(_answer, body, parsed, outcome, [*parsed.notes, *notes])


def _answer(
    body: TheirFields, parsed: ParsedRequest, outcome: Outcome, notes: list[str]
) -> Response:
    results = sorted(images_of(outcome), key=lambda result: result.index)
    records = [metadata.read(result.path) for result in results if result.path is not None]
    first, request = records[0], outcome.plan.request
    image = results[0].open()
    width, height = parsed.form.size or ((0, 0) if image is None else image.size)
    own, count = [result.seed for result in results], len(results)
    is_varied = request.variation is not None  # their seed is then our base, and their subseed ours
    seeds = [request.base_seed] * count if is_varied else own
    info = {
        "prompt": request.prompt,
        "all_prompts": [request.prompt] * count,
        "negative_prompt": request.negative_prompt or "",
        "all_negative_prompts": [request.negative_prompt or ""] * count,
        "seed": seeds[0],
        "all_seeds": seeds,
        "subseed": own[0],
        "all_subseeds": own,
        "subseed_strength": request.variation if is_varied else 0,
        "width": width,
        "height": height,
        "sampler_name": request.sampler,
        "scheduler": request.schedule,
        "cfg_scale": request.guidance,
        "steps": request.steps,
        "clip_skip": request.clip_skip,
        "batch_size": body.batch_size,
        "sd_model_name": first.model,
        "sd_model_hash": first.model_hash,
        "styles": parsed.styles,
        "index_of_first_image": 0,
        "infotexts": [parameters.to_text(record) for record in records],
        "scores": [result.score for result in results],
        "probabilities": [result.match for result in results],
        "claims": [result.to_json().get("claims", []) for result in results],
        "notes": notes,
    }
    sent = [] if body.send_images is False else results
    images = [to_base64(parsed.form.encode_result(result)) for result in sent]
    return to_response(
        Images(
            images=images,
            parameters=body.model_dump(exclude={"init_images", "mask"}),
            info=json.dumps(info),
        )
    )


def _progress(job: Job | None, waiting: int, with_image: bool) -> ProgressAnswer:
    event = None if job is None else job.progress
    state = State(
        interrupted=job is not None and job.cancel.asked,
        job="" if job is None else "txt2img",
        job_count=waiting + (job is not None),
        job_no=0,
        sampling_step=0 if event is None else event.step,
        sampling_steps=0 if event is None else event.steps,
    )
    if job is None or event is None or job.began is None:
        return ProgressAnswer(progress=0, eta_relative=0, state=state)
    done = event.share
    eta = (perf_counter() - job.began) * (1 - done) / done if done > 0 else 0
    image = None
    if with_image and event.previews and event.previews[0] is not None:
        image = to_base64(Form().encode(event.previews[0]))
    return ProgressAnswer(progress=done, eta_relative=eta, state=state, current_image=image)
