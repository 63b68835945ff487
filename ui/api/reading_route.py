"""Routes that read the JSON of a body off the event loop."""

from codecs import BOM_UTF8
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute
from pydantic_core import from_json
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from gen.errors import InputError
from ui.service.reading import Reader

LARGE = 1_000_000  # bytes that another process reads: all threads of this one would wait


class ReadingRoute(APIRoute):
    """A route whose JSON is read in a thread; if it is large, in another process."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return what FastAPI calls, given such a request."""
        handle = super().get_route_handler()

        async def handle_reading(request: Request) -> Response:
            return await handle(_ReadingRequest(request.scope, request.receive))

        return handle_reading


class _ReadingRequest(Request):
    async def json(self) -> Any:
        """Return the JSON of the body. Raises HTTPException if it is none."""
        if not hasattr(self, "_json"):
            body = (await self.body()).removeprefix(BOM_UTF8)  # which PowerShell sends
            reader: Reader = self.app.state.reader
            try:
                if len(body) > LARGE:
                    self._json = await run_in_threadpool(reader.read, from_json, body)
                else:
                    self._json = await run_in_threadpool(from_json, body)
            except InputError:
                raise
            except ValueError as error:
                raise HTTPException(400, f"the body is not JSON: {error}") from error
        return self._json
