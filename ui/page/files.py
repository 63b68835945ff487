"""The images of the run folder, for the page: by names that the manifest gave, nothing else."""

from pathlib import Path

from fastapi import APIRouter, Response
from fastapi.responses import FileResponse
from PIL import Image
from starlette.exceptions import HTTPException

from gen.images import opened as bounded
from gen.run_folder.events import IMAGE_NAME, SavedImage
from ui.api.images import FORMATS
from ui.service.service import Service

IMAGES = "/pictures/"
CACHING = {"Cache-Control": "private, no-cache"}  # ask whether it has changed


def routes(service: Service) -> APIRouter:
    """Return the path that images have."""
    router = APIRouter(include_in_schema=False)

    @router.get(IMAGES + "{name:path}", response_class=Response)
    def image(name: str) -> Response:
        path = service.folder.path / name
        if not IMAGE_NAME.fullmatch(name) or path.is_symlink() or not path.is_file():
            raise HTTPException(404, "no such image, or no longer")
        return FileResponse(path, headers=CACHING)

    return router


def address(image: SavedImage) -> str:
    """Return where the page finds an image."""
    return IMAGES + image.file


def opened(path: Path | None) -> Image.Image | None:
    """Return the image in a file; None if there is none that can be read."""
    if path is None:
        return None
    try:
        with bounded(path, FORMATS) as file:
            return file.convert("RGB")
    except Exception:  # parsers raise whatever they meet in a damaged file
        return None
