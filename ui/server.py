"""The site: page and HTTP API behind one access check, served from a thread of its own."""

import resource
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import uvicorn
from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException
from starlette.routing import Match, compile_path
from starlette.types import ASGIApp, Receive, Scope, Send

from gen.errors import InputError
from ui.access.middleware import AccessMiddleware, Credentials, own_names
from ui.api import api
from ui.api.answers import register
from ui.page import archive, files, originals, page, sheets, thumbnails
from ui.service.service import Service

METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
V1 = "/v1"  # ends the base URL of OpenAI's clients
# Where nothing is the page's.
OURS = (V1, "/sdapi", "/pictures", "/originals", "/sheets", "/thumbnails")
# Where extensions of AUTOMATIC1111's web UI are, which its clients ask for.
EXTENSIONS = (
    *("/controlnet", "/instruct-pix2pix", "/model_keyword", "/promptgen", "/rembg", "/sam"),
    *("/adetailer", "/reactor", "/tagger"),
)
GRACE = 2  # seconds that open connections have at the end
OPEN_FILES = 8192  # connections are files, too


def site(
    service: Service, host: str, credentials: Credentials, names: Sequence[str] = ()
) -> ASGIApp:
    """Return the page at /, the API at /v1 and /sdapi/v1, and nobody in who may not."""
    app = FastAPI(title="Salon", docs_url=None, redoc_url=None)  # those load from elsewhere
    register(app)
    app.include_router(api.routes(service))
    app.include_router(files.routes(service))
    app.include_router(originals.routes(service))
    app.include_router(sheets.routes(service))
    app.include_router(thumbnails.routes(service))
    app.include_router(archive.routes(service))
    _refuse_the_rest(app)
    page.mount(app, service)
    app.state.reader = service.reader
    return AccessMiddleware(_with_head(app), own_names(host, names), credentials)


def _refuse_the_rest(app: FastAPI) -> None:
    """Answer what would else be the page's: paths that do not exist, and other methods."""
    own = list(app.router.routes)
    methods = {path: {m.upper() for m in row} for path, row in app.openapi()["paths"].items()}
    patterns = {path: compile_path(path)[0] for path in methods}

    async def nothing(request: Request) -> Response:
        path = request.url.path
        takes = {m for known, row in methods.items() if patterns[known].match(path) for m in row}
        if not takes and any(r.matches(request.scope)[0] == Match.PARTIAL for r in own):
            takes = {"GET"}  # of files, which no schema needs
        if takes:
            allowed = ", ".join(sorted(takes))
            message = f"{path} takes {allowed}, not {request.method}"
            raise HTTPException(405, message, {"Allow": allowed})
        hint = "" if path.startswith(OURS) else f": the base URL of this API ends in {V1}"
        if path.startswith(EXTENSIONS):
            hint = ": extensions of AUTOMATIC1111's web UI are not served here"
        raise HTTPException(404, f"there is no {path}{hint}")

    without_v1 = {path.removeprefix(V1) for path in methods if path.startswith(V1)}
    beneath = (f"{prefix}/{{rest:path}}" for prefix in (*OURS, *EXTENSIONS))
    for path in (*beneath, *EXTENSIONS, *methods, *without_v1):
        app.add_api_route(path, nothing, methods=METHODS, include_in_schema=False)


def _with_head(app: ASGIApp) -> ASGIApp:
    """Have HEAD answered as GET is; uvicorn leaves the body out."""

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == "HEAD":
            scope = {**scope, "method": "GET"}
        await app(scope, receive, send)

    return answer


@contextmanager
def served(
    service: Service,
    host: str,
    port: int,
    credentials: Credentials | None = None,
    names: Sequence[str] = (),
) -> Iterator[str]:
    """Serve the site for as long as the context lasts, and yield its address.

    Raises InputError if the port is in use, or the address is not this machine's.
    """
    listener = _bound(host, port)
    app = site(service, host, Credentials() if credentials is None else credentials, names)
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,  # anybody could claim to be anybody
        timeout_graceful_shutdown=GRACE,
        ws="none",
    )
    _allow_open_files()
    server = uvicorn.Server(config)
    sockets = {"sockets": [listener]}
    thread = threading.Thread(target=server.run, kwargs=sockets, name="server", daemon=True)
    thread.start()
    try:
        while not server.started:
            if not thread.is_alive():
                raise RuntimeError("the server did not start")
            thread.join(0.01)
        name = f"[{host}]" if ":" in host else host
        yield f"http://{name}:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(2 * GRACE)
        listener.close()


def _bound(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(1024)
    except OSError as error:
        listener.close()
        raise InputError(
            f"port {port} of {host} cannot be served ({error.strerror}): choose another with --port"
        ) from error
    return listener


def _allow_open_files() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, OPEN_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
