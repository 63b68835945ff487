"""The pictures of the run folder, for the page: by names that the manifest gave, nothing else."""

from pathlib import Path

from fastapi import APIRouter, Response
from fastapi.responses import FileResponse
from PIL import Image
from starlette.exceptions import HTTPException

from gen.run_folder.events import IMAGE_NAME, SavedImage
from ui.api.images import FORMATS
from ui.service.service import Studio

PICTURES = "/pictures/"
CACHING = {"Cache-Control": "private, no-cache"}  # ask whether it has changed


def routes(studio: Studio) -> APIRouter:
    """The path that pictures have."""
    router = APIRouter(include_in_schema=False)

    @router.get(PICTURES + "{name:path}", response_class=Response)
    def picture(name: str) -> Response:
        path = studio.folder.path / name
        if not IMAGE_NAME.fullmatch(name) or path.is_symlink() or not path.is_file():
            raise HTTPException(404, "no such picture, or no longer")
        return FileResponse(path, headers=CACHING)

    return router


def address(picture: SavedImage) -> str:
    """Where the page finds a picture."""
    return PICTURES + picture.file


def opened(path: Path | None) -> Image.Image | None:
    """The picture in a file; None if there is none that can be read."""
    if path is None:
        return None
    try:
        with Image.open(path, formats=FORMATS) as file:
            return file.convert("RGB")
    except Exception:  # parsers raise whatever they meet in a damaged file
        return None
