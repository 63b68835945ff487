"""The site: page and HTTP API behind one access check, served from a thread of its own."""

import resource
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import uvicorn
from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException
from starlette.routing import Match
from starlette.types import ASGIApp

from gen.errors import InputError
from ui.access.middleware import AccessMiddleware, Credentials, own_names
from ui.api import api
from ui.api.answers import register
from ui.page import files, page, sheets, thumbnails
from ui.service.service import Service

METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
GRACE = 5  # seconds that open connections have at the end
OPEN_FILES = 8192  # connections are files, too


def site(
    service: Service, host: str, credentials: Credentials, names: Sequence[str] = ()
) -> ASGIApp:
    """Return the page at /, the API at /v1 and /sdapi/v1, and nobody in who may not."""
    app = FastAPI(title="Salon", docs_url=None, redoc_url=None)  # those load from elsewhere
    register(app)
    app.include_router(api.routes(service))
    app.include_router(files.routes(service))
    app.include_router(sheets.routes(service))
    app.include_router(thumbnails.routes(service))
    own = list(app.router.routes)

    async def nothing(request: Request) -> Response:
        """Answer paths of the API that do not exist, which the page would take."""
        if any(route.matches(request.scope)[0] == Match.PARTIAL for route in own):
            raise HTTPException(405, "this path takes another method")
        raise HTTPException(404, f"there is no {request.url.path}")

    for prefix in ("/v1", "/sdapi", "/pictures", "/sheets", "/thumbnails"):
        app.add_api_route(
            prefix + "/{rest:path}", nothing, methods=METHODS, include_in_schema=False
        )
    page.mount(app, service)
    return AccessMiddleware(app, own_names(host, names), credentials)


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
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, name="server")
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
        thread.join()
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
