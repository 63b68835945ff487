"""Drawing as tools written for AUTOMATIC1111's API ask for it, under /sdapi/v1."""

import json
from time import perf_counter
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter
from fastapi import Request as HttpRequest
from pydantic import BaseModel, ConfigDict, Field, create_model
from starlette.concurrency import run_in_threadpool

from gen import metadata
from gen.engine import Outcome
from gen.errors import InputError
from gen.metadata import parameters
from gen.settings.request import MODEL_SETTINGS, Request, find_setting
from ui.api.answers import ERROR_ANSWERS, ParameterError, client_of, finished
from ui.api.body import setting_fields
from ui.api.generated import images_of
from ui.api.images import Form, to_base64
from ui.api.sizes import chosen_specs, fitted_size, size_settings
from ui.service.queue import Job
from ui.service.service import Service
from ui.service.settings import LIMITS, offered

CLIENT = "sdapi"  # who is asking, beside the address


class TheirSettings(BaseModel):
    """Our settings that such tools send, by their names for them (aliases of ours)."""

    prompt: str = ""
    negative_prompt: str | None = None
    seed: int | None = -1
    steps: Annotated[int | None, Field(ge=1, le=LIMITS["steps"])] = None
    cfg_scale: Annotated[float | None, Field(ge=0, le=100)] = None
    sampler_name: str | None = None
    scheduler: str | None = None


THEIR_NAMES = {find_setting(name).name: name for name in TheirSettings.model_fields}
OWN_FIELDS = setting_fields(
    without={*THEIR_NAMES, "model", "width", "height", "candidates", "top_k"}
)


class TheirFields(TheirSettings):
    """What such tools send; the many other keys that they may send make no difference here."""

    model_config = ConfigDict(extra="allow")

    width: Annotated[int | None, Field(ge=1)] = None
    height: Annotated[int | None, Field(ge=1)] = None
    batch_size: Annotated[int, Field(ge=1, le=LIMITS["candidates"])] = 1
    n_iter: Annotated[int, Field(ge=1, le=LIMITS["candidates"])] = 1
    candidates: Annotated[
        int | None,
        Field(ge=1, le=LIMITS["candidates"], description="of these the best are returned"),
    ] = None
    override_settings: Annotated[
        dict[str, Any] | None, Field(description="sd_model_checkpoint: which model draws")
    ] = None
    send_images: bool = True


if TYPE_CHECKING:
    TextToImage = TheirFields
else:
    TextToImage = create_model("TextToImage", __base__=TheirFields, **OWN_FIELDS)


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


def routes(service: Service) -> APIRouter:
    """Return the paths under /sdapi/v1 that have to do with jobs."""
    router = APIRouter(prefix="/sdapi/v1", responses=ERROR_ANSWERS)

    @router.post("/txt2img")
    async def text_to_image(body: TextToImage, http: HttpRequest) -> Images:
        """Draw `batch_size` times `n_iter` images, or the best so many of `candidates`."""
        request, form = parse(service, body)
        job = service.submit(request, client_of(http, CLIENT), previews=True)
        outcome: Outcome = await finished(service, job, http)
        return await run_in_threadpool(_answer, body, form, outcome)

    @router.get("/progress")
    async def progress(http: HttpRequest, skip_current_image: bool = False) -> ProgressAnswer:
        """Return how far the job in the making is."""
        job = service.queue.running
        own = job is not None and job.client == client_of(http, CLIENT)
        return _progress(job, len(service.queue), with_image=own and not skip_current_image)

    @router.post("/interrupt")
    async def interrupt(http: HttpRequest) -> dict[str, Any]:
        """Finish the client's own job as it is."""
        job = service.queue.running
        if job is not None and job.client == client_of(http, CLIENT):
            job.cancel.finish_now()
        return {}

    return router


def parse(service: Service, body: TheirFields) -> tuple[Request, Form]:
    """Return what is to be drawn, and how it goes out. Raises InputError."""
    count = body.batch_size * body.n_iter
    if count > LIMITS["candidates"]:
        most = LIMITS["candidates"]
        raise ParameterError("n_iter", f"batch_size x n_iter is {count}: at most {most} are drawn")
    candidates = count if body.candidates is None else body.candidates
    values: dict[str, Any] = {"candidates": candidates, "top_k": count}
    for name, field in {**THEIR_NAMES, **{name: name for name in OWN_FIELDS}}.items():
        if getattr(body, field) not in (None, ""):
            values[name] = getattr(body, field)
    if "schedule" in values:
        values["schedule"] = values["schedule"].replace("_", " ")  # "sgm_uniform"
    settings = {} if body.override_settings is None else body.override_settings
    checkpoint = settings.get("sd_model_checkpoint")
    if checkpoint is not None:
        values["model"] = str(checkpoint).partition(" [")[0]

    specs = chosen_specs(service, values.get("model"))
    # Such tools send the same whatever the model is; one that does not take it goes without.
    for name in values.keys() & set(MODEL_SETTINGS) - set(offered(specs)):
        del values[name]

    form = Form()
    if body.width is not None and body.height is not None:
        size = (body.width, body.height)
        drawn_size = fitted_size(service, values.get("model"), *size)
        values |= size_settings(service, values.get("model"), drawn_size)
        if drawn_size != size:
            form = Form(size=size)
    elif body.width is not None or body.height is not None:
        raise InputError("width and height: give both or none")
    return Request.from_json(values), form


def _answer(body: TheirFields, form: Form, outcome: Outcome) -> Images:
    results = sorted(images_of(outcome), key=lambda result: result.index)
    records = [metadata.read(result.path) for result in results if result.path is not None]
    first = records[0]
    request = outcome.plan.request
    info = {
        "prompt": request.prompt,
        "all_prompts": [request.prompt] * len(results),
        "negative_prompt": request.negative_prompt or "",
        "all_negative_prompts": [request.negative_prompt or ""] * len(results),
        "seed": results[0].seed,
        "all_seeds": [result.seed for result in results],
        "width": request.width,
        "height": request.height,
        "sampler_name": request.sampler,
        "cfg_scale": request.guidance,
        "steps": request.steps,
        "batch_size": body.batch_size,
        "sd_model_name": first.model,
        "sd_model_hash": first.model_hash,
        "infotexts": [parameters.to_text(record) for record in records],
        "scores": [result.score for result in results],
    }
    images = [to_base64(form.encode_result(r)) for r in results] if body.send_images else []
    return Images(images=images, parameters=body.model_dump(), info=json.dumps(info))


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
