"""What both HTTP APIs share: errors in one shape, waiting for a job, and who is asking."""

import asyncio
import json
from collections.abc import Iterable, Mapping
from http import HTTPStatus
from typing import Any

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from gen.errors import InputError, RoomError
from gen.models import WeightsError
from ui.api.reading_route import ReadingRoute
from ui.service.catalog import UnknownModelError
from ui.service.queue import FatalJobError, Job, QueueFullError, StoppingError
from ui.service.service import Service

CLIENT_GONE = 499  # nobody reads it; the number that nginx notes for it
RESTART_SECONDS = 10
SHOWN = 300  # characters of a message
NO_OBJECT = ("missing", "model_attributes_type", "model_type", "dict_type")  # pydantic's words
NEVER_AGAIN = {"x-should-retry": "false"}


class ErrorInfo(BaseModel):
    """What went wrong."""

    message: str
    type: str
    param: str | None
    code: str


class ErrorAnswer(BaseModel):
    """The body of every answer that is an error, as OpenAI's clients read it."""

    error: ErrorInfo


ERROR_ANSWERS: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": ErrorAnswer},
    "5XX": {"model": ErrorAnswer},
}


class ParameterError(InputError):
    """A value of a request's body that cannot be; `param` is its name."""

    def __init__(self, param: str, message: str, code: str = "invalid_value") -> None:
        super().__init__(message)
        self.param, self.code = param, code

    def __reduce__(self) -> tuple[Any, ...]:
        return ParameterError, (self.param, str(self), self.code)  # from a process to another


class NoImageError(Exception):
    """All candidates of a job have failed, for these reasons."""

    def __init__(self, reasons: Iterable[str]) -> None:
        super().__init__("no image came of it: " + "; ".join(dict.fromkeys(reasons)))


def register(app: FastAPI) -> None:
    """Have every error of the app answered in the one shape."""
    for kind in (InputError, RoomError, WeightsError, Exception):
        app.add_exception_handler(kind, _explain)
    app.add_exception_handler(RequestValidationError, _explain_validation)
    app.add_exception_handler(HTTPException, _explain_http)


def new_router(prefix: str = "") -> APIRouter:
    """Return a router for the routes of a topic, which reads bodies off the event loop."""
    return APIRouter(prefix=prefix, responses=ERROR_ANSWERS, route_class=ReadingRoute)


def client_of(request: Request, user: str | None = None) -> str:
    """Return who is asking, for the queue to be fair: an address, and who the client says it is."""
    address = request.client.host if request.client is not None else ""
    return address if user is None else f"{address} {user[:200]}"


async def finished(service: Service, job: Job, request: Request) -> Any:
    """Wait for a job and return its result; when its client goes away, the job is dropped.

    Raises what the job raised, StoppingError if it was cut short by the end of the server, and
    HTTPException for a client that is not there to see it.
    """
    loop, ended = asyncio.get_running_loop(), asyncio.Event()
    job.future.add_done_callback(lambda _: loop.call_soon_threadsafe(ended.set))
    waits = {asyncio.create_task(ended.wait()), asyncio.create_task(_disconnect(request))}
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
        if not job.future.done():
            service.queue.drop(job)
    if not ended.is_set():
        raise HTTPException(CLIENT_GONE, "the client has gone")
    return result_of(service, job)


def result_of(service: Service, job: Job) -> Any:
    """Return what an ended job came to; raises StoppingError if the server's end cut it short."""
    result = job.future.result()
    if service.queue.stopping and job.cancel.asked:
        raise StoppingError
    return result


def explain(error: Exception) -> tuple[int, ErrorInfo, Mapping[str, str]]:
    """Return status, body and headers for an error; a client is told not to repeat in vain."""
    message = str(error)
    match error:
        case UnknownModelError():
            return 404, _bad(message, "model_not_found", "model"), {}
        case ParameterError():
            return 400, _bad(message, error.code, error.param), {}
        case QueueFullError():
            info = ErrorInfo(
                message=message, type="rate_limit_error", param=None, code="queue_full"
            )
            return 429, info, {"Retry-After": str(error.retry_after)}
        case StoppingError():
            return 503, _failed(message, "stopping"), {"Retry-After": str(RESTART_SECONDS)}
        case FatalJobError():
            return 500, _failed(message, "job_failed"), NEVER_AGAIN
        case InputError():
            return 400, _bad(message, "invalid_value"), {}
        case NoImageError():
            return 500, _failed(message, "no_picture"), NEVER_AGAIN
        case RoomError():
            return 503, _failed(message, "no_room"), NEVER_AGAIN
        case WeightsError():
            return 503, _failed(message, "weights"), NEVER_AGAIN
    return 500, _failed("a bug in Salon: the server's own output says more", "bug"), NEVER_AGAIN


def _bad(message: str, code: str, param: str | None = None) -> ErrorInfo:
    return ErrorInfo(message=message, type="invalid_request_error", param=param, code=code)


def _failed(message: str, code: str) -> ErrorInfo:
    return ErrorInfo(message=message, type="server_error", param=None, code=code)


async def _disconnect(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _explain(request: Request, error: Exception) -> Response:
    return _answer(request, *explain(error))


async def _explain_validation(request: Request, error: Exception) -> Response:
    """Answer with the first complaint that pydantic has against a body."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    path = [part for part in first["loc"] if part != "body"]
    # Behind the name only places in lists say something: pydantic adds the types that it tried.
    names = [str(part) for part in path[:1]] + [str(n) for n in path[1:] if isinstance(n, int)]
    param = names[0] if names and first["type"] != "json_invalid" else None
    sent = request.headers.get("content-type", "")
    if param is None and "json" not in sent:
        message = "the body is not read: send it with the header Content-Type: application/json"
        return _answer(request, 415, _bad(message, "unsupported_media_type"), {})
    codes = {"missing": "missing_required_parameter", "extra_forbidden": "unknown_parameter"}
    code = codes.get(first["type"], "invalid_value")
    message = first["msg"] if param is None else f"{'.'.join(names)}: {first['msg']}"
    if param is None and first["type"] in NO_OBJECT:
        message = "the body must be a JSON object with the settings"
    return _answer(request, 400, _bad(message, code, param), {})


async def _explain_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    code = "invalid_request"
    if error.status_code in (HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED):
        code = HTTPStatus(error.status_code).name.lower()
    return _answer(request, error.status_code, _bad(error.detail, code), error.headers or {})


def _answer(request: Request, status: int, info: ErrorInfo, headers: Mapping[str, str]) -> Response:
    shown = info.message if len(info.message) <= SHOWN else info.message[:SHOWN] + "…"
    body: dict[str, Any] = {"error": {**info.model_dump(), "message": shown}}
    if not request.url.path.startswith("/v1/"):  # what clients of AUTOMATIC1111's API look at
        body["detail"] = shown
    content = json.dumps(body)  # in ASCII: half a surrogate pair in a name cannot break it
    return Response(content, status, {"Content-Type": "application/json", **headers})
