"""The pictures of the run folder, for the page: by names that the manifest gave, nothing else."""

import io
from dataclasses import replace
from pathlib import Path

from fastapi import APIRouter, Response
from fastapi.responses import FileResponse
from PIL import Image
from starlette.exceptions import HTTPException

from gen import sheet
from gen.history import Past, Picture
from gen.result import Result
from gen.run_folder import PICTURE_NAME
from ui.pictures import FORMATS
from ui.studio import Studio

PICTURES, SHEETS = "/pictures/", "/sheets/"
MOST_ON_SHEET = 128
CACHING = {"Cache-Control": "private, no-cache"}  # ask whether it has changed


def routes(studio: Studio) -> APIRouter:
    """The paths that pictures and contact sheets have."""
    router = APIRouter(include_in_schema=False)

    @router.get(PICTURES + "{name:path}", response_class=Response)
    def picture(name: str) -> Response:
        path = studio.folder.path / name
        if not PICTURE_NAME.fullmatch(name) or path.is_symlink() or not path.is_file():
            raise HTTPException(404, "no such picture, or no longer")
        return FileResponse(path, headers=CACHING)

    @router.get(SHEETS + "{number}.png", response_class=Response)
    def contact_sheet(number: int) -> Response:
        studio.history.refresh()
        past = studio.history.find(number)
        if past is None:
            raise HTTPException(404, "no such prompt")
        results = [_result(studio, past, each) for each in past.pictures[:MOST_ON_SHEET]]
        readable = [result for result in results if result.image is not None]
        page = sheet.draw([sheet.block(past.request.prompt, f"prompt {number:04d}", readable)])
        out = io.BytesIO()
        page.save(out, "png")
        return Response(out.getvalue(), media_type="image/png", headers=CACHING)

    return router


def address(picture: Picture) -> str:
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


def _result(studio: Studio, past: Past, picture: Picture) -> Result:
    """A picture of the history as the sheet takes it."""
    return Result(
        replace(past.request, seed=picture.seed),
        image=opened(studio.history.path(picture)),
        score=picture.score,
        rank=picture.rank,
        unfinished=picture.unfinished,
    )
