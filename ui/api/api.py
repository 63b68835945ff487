"""The HTTP API: pictures as OpenAI's clients ask for them, judging, health and metrics."""

import asyncio
import json
import re
import secrets
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, replace
from threading import Lock
from typing import TYPE_CHECKING, Annotated, Any, Literal

from fastapi import APIRouter, Response
from fastapi import Request as HttpRequest
from fastapi.responses import StreamingResponse
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, create_model
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from gen.engine import Outcome
from gen.errors import InputError
from gen.events import Event, Note, Progress, Watch
from gen.models import DEFAULT_MODEL, Spec
from gen.result import Result
from gen.settings import MAX_TEXT, Setting
from gen.settings.request import SETTINGS, Request, find_setting, seed_to_json
from ui.api.answers import (
    FAILURES,
    Failure,
    NoPictureError,
    ParameterError,
    client_of,
    explain,
    finished,
    result_of,
)
from ui.api.images import (
    MAX_SIDE,
    Form,
    can_draw,
    from_base64,
    nearest_size,
    sizes,
    takes_size,
    to_base64,
)
from ui.service.metrics import CONTENT_TYPE
from ui.service.queue import Job
from ui.service.service import LIMITS, SERVED, Studio, Verdict, models_present

MOST_PICTURES = 10
MOST_UPLOADS = 64
KEPT_SECONDS = 3600  # for which a picture can be had under its URL
KEPT_BYTES = 256_000_000
MEDIA_TYPES: Mapping[str, str] = {
    "png": "image/png",
    "jpeg": "image/jpeg",
    "webp": "image/webp",
}
# Nothing here is counted in tokens, but clients want to read of them.
USAGE = {
    "input_tokens": 0,
    "input_tokens_details": {"image_tokens": 0, "text_tokens": 0},
    "output_tokens": 0,
    "total_tokens": 0,
}


class Body(BaseModel):
    """What is sent as JSON: keys that are not known are errors, and so is "4" for 4."""

    model_config = ConfigDict(extra="forbid", strict=True)


class OpenAIFields(Body):
    """What OpenAI's clients send, of which the last four make no difference here."""

    prompt: Annotated[str, Field(min_length=1, max_length=MAX_TEXT)]
    model: str | None = None
    models: Annotated[
        list[str] | None, Field(min_length=1, description="instead of model: they draw in turn")
    ] = None
    n: Annotated[int | None, Field(ge=1, le=MOST_PICTURES, description="pictures returned")] = None
    size: Annotated[str | None, Field(description="auto, or WIDTHxHEIGHT")] = None
    response_format: Literal["b64_json", "url"] | None = None
    output_format: Literal["png", "jpeg", "webp"] | None = None
    output_compression: Annotated[int | None, Field(ge=0, le=100)] = None
    background: Literal["auto", "opaque", "transparent"] | None = None
    stream: bool | None = None
    partial_images: Annotated[int | None, Field(ge=0, le=3)] = None
    user: str | None = None
    quality: Literal["standard", "hd", "low", "medium", "high", "auto"] | None = None
    style: Literal["vivid", "natural"] | None = None
    moderation: Literal["low", "auto"] | None = None


def _field(setting: Setting) -> Any:
    """A setting of ours as an optional field."""
    kind: Any = int | str if setting.name == "seed" else setting.kind  # large seeds are text
    if kind is not int and kind is not float:
        return kind | None, Field(None, description=setting.help)
    high = LIMITS.get(setting.name, setting.high)
    return kind | None, Field(None, description=setting.help, ge=setting.low, le=high)


OWN_FIELDS = [name for name in SERVED if name not in ("prompt", "model", "width", "height")]
if TYPE_CHECKING:
    Generation = OpenAIFields
else:
    Generation = create_model(
        "Generation",
        __base__=OpenAIFields,
        **{name: _field(SETTINGS[name]) for name in OWN_FIELDS},
    )


class Picture(BaseModel):
    """One picture of an answer, best first."""

    b64_json: str | None = None
    url: str | None = None
    seed: int | str
    rank: int | None = None
    score: Annotated[float | None, Field(description="cosine with the prompt, -1 to 1")] = None
    model: str | None = None
    size: str
    drawn_size: Annotated[str | None, Field(description="before it was enlarged")] = None


class Pictures(BaseModel):
    """The answer to a Generation."""

    created: int
    data: list[Picture]
    output_format: Literal["png", "jpeg", "webp"]
    background: Literal["opaque"] = "opaque"
    notes: list[str]
    failed: Annotated[list[str], Field(description="candidates without a picture, and why")]


class Judging(Body):
    """Pictures to be ranked for a prompt."""

    prompt: Annotated[str, Field(min_length=1, max_length=MAX_TEXT)]
    images: Annotated[
        list[str],
        Field(min_length=1, max_length=MOST_UPLOADS, description="base64 or data: URLs"),
    ]
    top_k: Annotated[int | None, Field(ge=1, description="how many are returned")] = None
    user: str | None = None


class Place(BaseModel):
    """A picture that was judged, by its index in the request."""

    index: int
    score: float


class Unjudged(BaseModel):
    """A picture that could not be judged."""

    index: int
    reason: str


class Ranking(BaseModel):
    """The answer to a Judging, best first."""

    model: str
    results: list[Place]
    failed: list[Unjudged]


class ModelCard(BaseModel):
    """A model that can be asked for."""

    id: str
    object: Literal["model"] = "model"
    created: int = 0
    owned_by: Literal["salon"] = "salon"
    draws: str
    sizes: str
    licence: str
    settings: list[str]
    defaults: dict[str, Any]


class ModelCards(BaseModel):
    """All of them."""

    object: Literal["list"] = "list"
    data: list[ModelCard]


class Health(BaseModel):
    """Whether the server takes jobs."""

    status: Literal["ok", "stopping"]


@dataclass(frozen=True)
class Kept:
    """A picture that can be had under its URL for a while."""

    data: bytes
    media_type: str
    until: float  # on the monotonic clock


class Shelf:
    """Pictures by names that nobody can guess; the oldest leave first."""

    def __init__(self) -> None:
        self._kept: dict[str, Kept] = {}
        self._lock = Lock()

    def put(self, data: bytes, form: Form) -> str:
        """Keep a picture's file; its name."""
        name = f"{secrets.token_hex(16)}.{form.format}"
        with self._lock:
            until = time.monotonic() + KEPT_SECONDS
            self._kept[name] = Kept(data, MEDIA_TYPES[form.format], until)
            self._tidy()
        return name

    def get(self, name: str) -> Kept | None:
        """The picture of that name, while it is there."""
        with self._lock:
            self._tidy()
            return self._kept.get(name)

    def _tidy(self) -> None:
        total = sum(len(kept.data) for kept in self._kept.values())
        for name, kept in list(self._kept.items()):
            if total <= KEPT_BYTES and kept.until > time.monotonic():
                return
            total -= len(kept.data)
            del self._kept[name]


@dataclass(frozen=True)
class Order:
    """A Generation that was understood."""

    request: Request
    form: Form
    drawn_size: tuple[int, int] | None  # unless it is that of the form
    as_url: bool


def routes(studio: Studio) -> APIRouter:
    """The paths under /v1, and those that look after the server."""
    router = APIRouter(responses=FAILURES)
    shelf = Shelf()

    @router.post(
        "/v1/images/generations",
        response_model=Pictures,
        responses={200: {"content": {"text/event-stream": {}}}},
    )
    async def generate(body: Generation, http: HttpRequest) -> Response:
        """Draw `candidates` pictures of a prompt and return the `n` best, best first."""
        order = understood(studio, body)
        client = client_of(http, body.user)
        address = f"{http.url.scheme}://{http.url.netloc}/v1/files/" if order.as_url else None
        if body.stream:
            partials = 0 if body.partial_images is None else body.partial_images
            watch = _Partials(partials)
            job = studio.submit(order.request, client, watch, previews=partials > 0)
            return StreamingResponse(
                _events(studio, job, order, watch), media_type="text/event-stream"
            )
        notes: list[str] = []
        job = studio.submit(order.request, client, _noting(notes))
        outcome = await finished(studio, job, http)
        answer = await run_in_threadpool(_answer, order, outcome, notes, shelf, address)
        return _json(answer)

    @router.get("/v1/files/{name}", response_class=Response, include_in_schema=False)
    async def file(name: str) -> Response:
        kept = shelf.get(name)
        if kept is None:
            raise HTTPException(404, "no such picture, or no longer")
        return Response(kept.data, media_type=kept.media_type)

    @router.get("/v1/models")
    async def models() -> ModelCards:
        """The models that draw."""
        return ModelCards(data=[_card(spec) for spec in models_present().values()])

    @router.get("/v1/models/{name}")
    async def model(name: str) -> ModelCard:
        """One of them."""
        return _card(studio.find(name))

    @router.post("/v1/rerank", response_model=Ranking)
    async def rerank(body: Judging, http: HttpRequest) -> Response:
        """Rank pictures by how well they fit a prompt."""
        prompt = _checked("prompt", body.prompt)
        files, failed = await run_in_threadpool(_files, body.images)
        job = studio.judge(prompt, list(files.values()), client_of(http, body.user))
        verdicts: list[Verdict] = await finished(studio, job, http)
        return _json(_ranking(studio, body, list(files), verdicts, failed))

    @router.get("/healthz", responses={503: {"model": Health}})
    async def healthz(response: Response) -> Health:
        """Whether the server takes jobs."""
        if studio.queue.stopping:
            response.status_code = 503
            return Health(status="stopping")
        return Health(status="ok")

    @router.get(
        "/metrics",
        response_class=Response,
        responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
    )
    async def metrics() -> Response:
        """What the server counts, for Prometheus."""
        running = int(studio.queue.running is not None)
        text = studio.metrics.text(len(studio.queue), running)
        return Response(text, headers={"Content-Type": CONTENT_TYPE})

    return router


def understood(studio: Studio, body: OpenAIFields) -> Order:
    """What is to be drawn, and how it goes out. Raises ParameterError and what `submit` raises."""
    if not body.prompt.strip():
        raise ParameterError("prompt", "prompt: empty: say what to draw")
    if body.background == "transparent":
        raise ParameterError("background", "background transparent: pictures are opaque here")
    asked = body.model_dump(include={*OWN_FIELDS, "prompt"}, exclude_none=True)
    if body.models is not None and body.model is not None:
        raise ParameterError("models", "model and models: give one of them")
    asked["model"] = body.model if body.models is None else ",".join(body.models)
    top_k, n = asked.pop("top_k", None), body.n
    if top_k is not None and n is not None and top_k != n:
        raise ParameterError("top_k", f"top_k {top_k} and n {n} say the same: give one of them")
    asked["top_k"] = n if n is not None else 1 if top_k is None else top_k
    values = {name: _checked(name, value) for name, value in asked.items() if value is not None}

    file_format = "png" if body.output_format is None else body.output_format
    form = Form(file_format, body.output_compression)
    drawn_size = None
    if body.size is not None and body.size != "auto":
        size = _read_size(body.size)
        drawn_size = fitted_size(studio, values.get("model"), *size)
        values |= size_settings(studio, values.get("model"), drawn_size)
        if drawn_size == size:
            drawn_size = None
        else:
            form = replace(form, size=size)
    return Order(Request.from_json(values), form, drawn_size, body.response_format == "url")


def fitted_size(studio: Studio, model: str | None, width: int, height: int) -> tuple[int, int]:
    """The size to draw at for a size that is asked for, which is another only with `fit_size`.

    Raises ParameterError with what the models can draw, and UnknownModelError.
    """
    specs = chosen_specs(studio, model)
    size = (width, height)
    if studio.fit_size and max(size) <= MAX_SIDE and not _all_draw(specs, size):
        size = nearest_size(specs[0], width, height)
    if not _all_draw(specs, size):
        known = "; ".join(sizes(spec) for spec in specs)
        raise ParameterError("size", f"size {width}x{height}: {known}", "invalid_size")
    return size


def size_settings(studio: Studio, model: str | None, size: tuple[int, int]) -> dict[str, int]:
    """The settings that have `fitted_size`'s answer drawn: none, if no model takes another size."""
    if not any(takes_size(spec) for spec in chosen_specs(studio, model)):
        return {}
    return {"width": size[0], "height": size[1]}


def chosen_specs(studio: Studio, model: str | None) -> list[Spec]:
    """The models of a request, by the names that it gives. Raises UnknownModelError."""
    names = DEFAULT_MODEL if model is None else model
    return [studio.find(name.strip()) for name in names.split(",")]


def _all_draw(specs: list[Spec], size: tuple[int, int]) -> bool:
    return all(can_draw(spec, *size) for spec in specs)


def _read_size(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"([0-9]{1,9})x([0-9]{1,9})", text)
    if match is None:
        raise ParameterError("size", "size: must be auto, or WIDTHxHEIGHT as in 64x64")
    return int(match[1]), int(match[2])


def _checked(name: str, value: Any) -> Any:
    """A setting's value, or a ParameterError that says which one it is that cannot be."""
    setting = find_setting(name)
    try:
        if name == "seed" and isinstance(value, str):
            return setting.read(value)
        return setting.check(value)
    except InputError as error:
        raise ParameterError(name, str(error)) from error


def _noting(notes: list[str]) -> Watch:
    def watch(event: Event) -> None:
        if isinstance(event, Note):
            notes.append(event.text)

    return watch


def _answer(
    order: Order, outcome: Outcome, notes: list[str], shelf: Shelf, address: str | None
) -> Pictures:
    """The pictures of an outcome; under URLs that begin with `address`, unless that is None."""
    data = []
    for result in shown(outcome):
        file = order.form.encode_result(result)
        facts = _facts(order, result)
        if address is None:
            data.append(Picture(b64_json=to_base64(file), **facts))
        else:
            data.append(Picture(url=address + shelf.put(file, order.form), **facts))
    if order.drawn_size is not None:
        notes = [*notes, "drawn at {}x{} and enlarged".format(*order.drawn_size)]
    return Pictures(
        created=int(time.time()),
        data=data,
        output_format=order.form.format,  # type: ignore[arg-type]
        notes=notes,
        failed=[f"seed {result.seed}: {result.failed}" for result in outcome.failed],
    )


def shown(outcome: Outcome) -> list[Result]:
    """The best pictures of an outcome; raises NoPictureError if there is none."""
    if not outcome.best:
        raise NoPictureError(result.failed or "" for result in outcome.failed)
    return outcome.best


def _facts(order: Order, result: Result) -> dict[str, Any]:
    """What is said beside a picture."""
    drawn = (result.request.width, result.request.height)
    size = drawn if order.form.size is None else order.form.size
    facts = {
        "seed": seed_to_json(result.seed),
        "rank": result.rank,
        "score": result.score,
        "model": result.request.model,
        "size": "{}x{}".format(*size),
    }
    return facts if size == drawn else {**facts, "drawn_size": "{}x{}".format(*drawn)}


class _Partials:
    """Watches a job from the queue's thread, and passes previews on to the loop of its making."""

    def __init__(self, wanted: int) -> None:
        self.queue: asyncio.Queue[Image.Image | None] = asyncio.Queue()
        self._loop = asyncio.get_running_loop()
        self._wanted, self._sent = wanted, 0

    def __call__(self, event: Event) -> None:
        """Pass on the first candidate's preview when as much is done as the next one is to show."""
        if not isinstance(event, Progress) or not event.previews or self._sent == self._wanted:
            return
        if event.share >= self._sent / self._wanted and event.previews[0] is not None:
            self._sent += 1
            self.put(event.previews[0])

    def put(self, preview: Image.Image | None) -> None:
        """From any thread; None is the end."""
        self._loop.call_soon_threadsafe(self.queue.put_nowait, preview)


async def _events(
    studio: Studio, job: Job, order: Order, partials: _Partials
) -> AsyncIterator[str]:
    """Server-sent events: previews, then the pictures. Closed early, it drops the job."""
    job.future.add_done_callback(lambda _: partials.put(None))
    common = {
        "background": "opaque",
        "output_format": order.form.format,
        "quality": "auto",
        "size": "auto",
    }
    index = 0
    try:
        while (preview := await partials.queue.get()) is not None:
            file = await run_in_threadpool(order.form.encode, preview)
            yield _event(
                "image_generation.partial_image",
                b64_json=to_base64(file),
                partial_image_index=index,
                created_at=int(time.time()),
                **common,
            )
            index += 1
        for result in shown(result_of(studio, job)):
            file = await run_in_threadpool(order.form.encode_result, result)
            yield _event(
                "image_generation.completed",
                b64_json=to_base64(file),
                created_at=int(time.time()),
                usage=USAGE,
                **{**common, **_facts(order, result)},
            )
    except Exception as error:
        status, fault, _ = explain(error)
        yield f"data: {Failure(error=fault).model_dump_json()}\n\n"
        if status == 500:
            raise  # for the server's own output
    finally:
        studio.queue.drop(job)
    yield "data: [DONE]\n\n"


def _event(kind: str, **facts: Any) -> str:
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **facts})}\n\n"


def _files(images: list[str]) -> tuple[dict[int, bytes], list[Unjudged]]:
    """The uploads by index, and those that are none."""
    files, failed = {}, []
    for index, text in enumerate(images):
        try:
            files[index] = from_base64(text)
        except InputError as error:
            failed.append(Unjudged(index=index, reason=str(error)))
    return files, failed


def _ranking(
    studio: Studio,
    body: Judging,
    indices: list[int],
    verdicts: list[Verdict],
    failed: list[Unjudged],
) -> Ranking:
    places = []
    for index, verdict in zip(indices, verdicts, strict=True):
        if verdict.score is None:
            failed = [*failed, Unjudged(index=index, reason=verdict.failed or "")]
        else:
            places.append(Place(index=index, score=verdict.score))
    places.sort(key=lambda place: (-place.score, place.index))
    jury = studio.engine.reranker_spec()
    assert jury is not None
    return Ranking(
        model=jury.name,
        results=places[: body.top_k],
        failed=sorted(failed, key=lambda upload: upload.index),
    )


def _card(spec: Spec) -> ModelCard:
    return ModelCard(
        id=spec.name,
        draws=spec.draws,
        sizes=sizes(spec),
        licence=spec.licence,
        settings=list(spec.settings),
        defaults=dict(spec.defaults),
    )


def _json(answer: BaseModel) -> Response:
    return Response(answer.model_dump_json(exclude_none=True), media_type="application/json")
