"""Small copies of images, kept as files beside them, so that a long gallery opens at once."""

from dataclasses import dataclass
from pathlib import Path

from fastapi import APIRouter, Response
from fastapi.responses import FileResponse
from PIL import Image
from starlette.exceptions import HTTPException

from gen.errors import RoomError
from gen.run_folder.events import IMAGE_NAME, SavedImage
from gen.run_folder.saving import write
from ui.page.files import address, opened
from ui.page.markup import encoded
from ui.service.service import Service

FOLDER = "thumbnails"  # in the run folder
THUMBNAILS = "/thumbnails/"
FOREVER = {"Cache-Control": "private, max-age=31536000, immutable"}  # an address has a version


@dataclass(frozen=True)
class Thumbnail:
    """Where the page finds a small copy, and its size in pixels."""

    source: str
    size: tuple[int, int]


def routes(service: Service) -> APIRouter:
    """Return the path that thumbnails have."""
    router = APIRouter(include_in_schema=False)

    @router.get(THUMBNAILS + "{name:path}", response_class=Response)
    def thumbnail(name: str) -> Response:
        path = _path(service, name)
        if not IMAGE_NAME.fullmatch(name) or path.is_symlink() or not path.is_file():
            raise HTTPException(404, "no such thumbnail, or no longer")
        return FileResponse(path, headers=FOREVER)

    return router


def thumbnail_of(service: Service, image: SavedImage) -> Thumbnail | None:
    """Return the thumbnail of an image, made if there is none; None if it is unreadable."""
    path = service.history.path(image)
    if path is None:
        return None
    version = path.stat().st_mtime_ns
    small = _path(service, image.file)
    try:
        if small.stat().st_mtime_ns < version:
            raise FileNotFoundError
        with Image.open(small) as file:
            size = file.size
    except OSError:
        whole = opened(path)
        if whole is None:
            return None
        data, size = encoded(whole)
        try:
            small.parent.mkdir(exist_ok=True)
            write(small, data)
        except (OSError, RoomError):  # a full disk is no reason to show nothing
            return Thumbnail(address(image), whole.size)
    return Thumbnail(f"{THUMBNAILS}{image.file}?v={version}", size)


def _path(service: Service, name: str) -> Path:
    return service.folder.path / FOLDER / f"{name.replace('/', '-')}.webp"
