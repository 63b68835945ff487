"""The page's scripts in its HTML, where they run before gradio, which would add them last."""

import gzip
from dataclasses import dataclass

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

END = b"</head>"
LEVEL = 4  # of gzip: half the time of its default, and hardly larger


@dataclass
class WithHead:
    """ASGI middleware that puts `html` at the end of the head of the page at /."""

    app: ASGIApp
    html: str

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] != "/":
            await self.app(scope, receive, send)
            return
        takes_gzip = "gzip" in Headers(scope=scope).get("accept-encoding", "")
        # Gradio is to leave the page as it is; it is compressed here.
        headers = [(name, v) for name, v in scope["headers"] if name != b"accept-encoding"]
        begun: list[Message] = []
        body = bytearray()

        async def insert(message: Message) -> None:
            if message["type"] == "http.response.start":
                begun.append(message)
                return
            body.extend(message.get("body", b""))
            if message.get("more_body", False):
                return
            whole = bytes(body).replace(END, self.html.encode() + END, 1)
            answer = MutableHeaders(scope=begun[0])
            if takes_gzip:
                whole = gzip.compress(whole, LEVEL)
                answer["Content-Encoding"] = "gzip"
            answer.add_vary_header("Accept-Encoding")
            answer["Content-Length"] = str(len(whole))
            await send(begun[0])
            await send({"type": "http.response.body", "body": whole})

        await self.app({**scope, "headers": headers}, receive, insert)
