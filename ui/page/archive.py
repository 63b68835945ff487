"""Many images of the run folder as one zip file, written while it is sent."""

import zipfile
from collections.abc import Iterator
from pathlib import Path

from fastapi import APIRouter, Response
from fastapi.responses import StreamingResponse
from starlette.exceptions import HTTPException

from ui.service.service import Service

ARCHIVE = "/archive.zip"
MOST_PROMPTS = 1000
CHUNK = 1 << 20


class _Pipe:
    """What a zip file is written to: its bytes are taken out again at once."""

    def __init__(self) -> None:
        self._data = bytearray()

    def write(self, data: bytes) -> int:
        self._data += data
        return len(data)

    def flush(self) -> None:
        """Do nothing: nothing is held back."""

    def take(self) -> bytes:
        data = bytes(self._data)
        self._data.clear()
        return data


def routes(service: Service) -> APIRouter:
    """Return the path that gives the best images of prompts as a zip file."""
    router = APIRouter(include_in_schema=False)

    @router.get(ARCHIVE, response_class=Response)
    def archive(prompts: str) -> Response:
        numbers = [int(part) for part in prompts.split(",") if part.isdecimal()]
        if not 0 < len(numbers) <= MOST_PROMPTS:
            raise HTTPException(400, f"prompts: 1 to {MOST_PROMPTS} numbers, with commas between")
        service.history.refresh()
        paths = list(_paths(service, numbers))
        headers = {"Content-Disposition": 'attachment; filename="salon.zip"'}
        return StreamingResponse(_zipped(paths), media_type="application/zip", headers=headers)

    return router


def _paths(service: Service, numbers: list[int]) -> Iterator[Path]:
    for number in dict.fromkeys(numbers):
        history = service.history.find(number)
        for image in [] if history is None else history.best or history.images:
            path = service.history.path(image)
            if path is not None:
                yield path


def _zipped(paths: list[Path]) -> Iterator[bytes]:
    pipe = _Pipe()
    with zipfile.ZipFile(pipe, "w", zipfile.ZIP_STORED) as file:  # type: ignore[call-overload]
        for path in paths:
            file.write(path, path.name)
            yield pipe.take()
    yield pipe.take()
