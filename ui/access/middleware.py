"""The access check of page and API: who may come in, from where, and with how much.

A web page anywhere can make its visitor's browser send requests to this machine. So requests from
the pages of others (Origin) and under names that are not ours (Host, for names that were made to
point here) are refused, whatever the path.
"""

import asyncio
import ipaddress
import json
import re
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ui.access.credentials import Credentials, is_loopback

# Bytes that a request's body may have, by the beginning of its path; the first that fits holds.
BODY_LIMITS: Mapping[str, int] = {
    "/v1/rerank": 64_000_000,
    "/sdapi/": 28_000_000,  # an image of 20 MB in base64
    "/v1/images/edits": 64_000_000,
    "/v1/images/variations": 32_000_000,
    "/v1/": 1_000_000,
    "/gradio_api/upload": 64_000_000,  # several at once
    "": 2_000_000,
}
# Signs that JSON is made of, which take time and memory however short it is.
MOST_SIGNS = 25_000  # two prompts of commas have 20,000
MOST_KEYS = 5_000  # each that a route does not know may be an error made on the event loop
KEY = re.compile(rb'"[\s\0]*:')  # its end, also in UTF-16
MOST_ESCAPES = 1_000_000  # base64 with line breaks has one in 76 characters
LONGEST_LENGTH = 18  # digits of Content-Length
BODY_SECONDS = 60.0  # in which a request has to be sent
FILES = "/v1/files/"  # which have names that cannot be guessed
# The page talks to nobody but us, and stands in nobody's frame.
HEADERS: Mapping[str, str] = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Content-Security-Policy": (
        "default-src 'self' data: blob: 'unsafe-inline' 'unsafe-eval'; "
        "frame-ancestors 'none'; base-uri 'self'; form-action 'self'"
    ),
}

# Where files of gradio are whose names change with what is in them.
UNCHANGING = "/assets/"
YEAR = "private, max-age=31536000, immutable"


class RefusedError(Exception):
    """Why a request goes no further."""

    def __init__(self, status: int, message: str, code: str) -> None:
        super().__init__(message)
        self.status, self.message, self.code = status, message, code


@dataclass
class AccessMiddleware:
    """ASGI middleware around the whole site.

    `names` are the host names that it is known by beside addresses; see `own_names`.
    """

    app: ASGIApp
    names: Sequence[str]
    credentials: Credentials

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":  # nothing here talks over websockets
            await send({"type": "websocket.close", "code": 1008})
            return
        try:
            self._check(scope)
        except RefusedError as refusal:
            await _answer(refusal, scope, send)
            return
        body = _Body(scope, receive)
        begun = False

        async def send_unless_refused(message: Message) -> None:
            nonlocal begun
            if body.refusal is not None and not begun:
                return  # it makes no difference what the site has to say to half a request
            begun = True
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update(HEADERS)
                if scope["path"].startswith(UNCHANGING) and message["status"] in (200, 304):
                    headers["Cache-Control"] = YEAR
            await send(message)

        try:
            await self.app(scope, body.receive, send_unless_refused)
        except asyncio.CancelledError:
            pass  # the server is ending, and a page that is still open is no error
        finally:
            if body.refusal is not None and not begun:
                await _answer(body.refusal, scope, send)

    def _check(self, scope: Scope) -> None:
        """Raise RefusedError for who may not come in, and for a body that says it is too large."""
        headers, path = Headers(scope=scope), scope["path"]
        host = headers.get("host", "")
        if not self._is_ours(host):
            raise RefusedError(403, "this server is not known by that host name", "foreign_host")
        origin = headers.get("origin")
        if origin is not None and _netloc(origin) != host.lower():
            raise RefusedError(403, "requests from other web pages are refused", "foreign_origin")
        is_open = path == "/healthz" or path.startswith(FILES)
        if self.credentials and not is_open:
            sent = headers.get("authorization", "")
            if not self.credentials.accept(sent):
                raise RefusedError(401, "a wrong key or password, or none", "invalid_api_key")
        length = headers.get("content-length", "0")
        if not length.isdecimal() or len(length) > LONGEST_LENGTH:
            raise RefusedError(400, "Content-Length is no such number", "invalid_header")
        if int(length) > _body_limit(path):
            raise _too_large(path)

    def _is_ours(self, host: str) -> bool:
        """Return whether a Host header names us: addresses do, since nobody can fake them."""
        try:
            name = (urlsplit(f"//{host}").hostname or "").rstrip(".")
        except ValueError:
            return False
        try:
            return bool(ipaddress.ip_address(name))
        except ValueError:
            return name in self.names


def _netloc(origin: str) -> str | None:
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:  # not what a browser sends
        return None


def own_names(host: str, more: Sequence[str] = ()) -> list[str]:
    """Return the names under which a server bound to `host` may be asked for."""
    names = ["localhost", host, *more]
    if not is_loopback(host):
        names += [socket.gethostname(), socket.getfqdn()]
    return [name.lower().rstrip(".") for name in names]


class _Body:
    """A request's body on its way in: cut off when it is too large or too slow.

    Too large is also JSON of too many parts, since each takes much more memory than its signs.
    """

    def __init__(self, scope: Scope, receive: Receive) -> None:
        self.refusal: RefusedError | None = None
        self._path, self._receive = scope["path"], receive
        self._is_form = Headers(scope=scope).get("content-type", "").startswith("multipart/")
        self._signs = self._keys = self._escapes = 0
        self._deadline = asyncio.get_running_loop().time() + BODY_SECONDS
        self._received, self._ended = 0, False

    async def receive(self) -> Message:
        """Return the next message; to the site, a refused request is one whose client left."""
        if self.refusal is not None:
            return {"type": "http.disconnect"}
        if self._ended:
            return await self._receive()
        try:
            async with asyncio.timeout_at(self._deadline):
                message = await self._receive()
        except TimeoutError:
            self.refusal = RefusedError(408, "the request was not sent in time", "timeout")
            return {"type": "http.disconnect"}
        self._count(message.get("body", b""))
        if self.refusal is not None:
            return {"type": "http.disconnect"}
        self._ended = not message.get("more_body", False)
        return message

    def _count(self, chunk: bytes) -> None:
        self._received += len(chunk)
        if self._received > _body_limit(self._path):
            self.refusal = _too_large(self._path)
        if self._is_form:
            return
        self._signs += sum(map(chunk.count, (b",", b"[", b"{")))
        self._keys += sum(1 for _ in KEY.finditer(chunk))
        self._escapes += chunk.count(b"\\")
        if self._signs > MOST_SIGNS or self._escapes > MOST_ESCAPES:
            self.refusal = _too_many(MOST_SIGNS, "parts")
        elif self._keys > MOST_KEYS:
            self.refusal = _too_many(MOST_KEYS, "keys")


def _body_limit(path: str) -> int:
    return next(limit for prefix, limit in BODY_LIMITS.items() if path.startswith(prefix))


def _too_large(path: str) -> RefusedError:
    return RefusedError(413, f"the request is larger than {_body_limit(path):,} bytes", "too_large")


def _too_many(most: int, what: str) -> RefusedError:
    return RefusedError(413, f"the request has more than {most:,} {what}", "too_large")


async def _answer(refusal: RefusedError, scope: Scope, send: Send) -> None:
    kind = "authentication_error" if refusal.status == 401 else "invalid_request_error"
    error = {"message": refusal.message, "type": kind, "param": None, "code": refusal.code}
    content: dict[str, Any] = {"error": error}
    if scope["path"].startswith("/sdapi/"):  # what clients of that API look at
        content["detail"] = refusal.message
    body = json.dumps(content).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"connection", b"close"),  # what is left of the body is not read
    ]
    if refusal.status == 401:
        headers.append((b"www-authenticate", b'Basic realm="Salon", charset="UTF-8"'))
    await send({"type": "http.response.start", "status": refusal.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
