"""Images that edits begin from, and their masks: kept in the run folder by SHA-256, and shown by
that name."""

import re
from dataclasses import dataclass
from pathlib import Path

from fastapi import APIRouter, Response
from fastapi.responses import FileResponse
from PIL import Image, ImageChops
from starlette.exceptions import HTTPException

from gen.errors import InputError
from gen.run_folder.originals import FOLDER, keep
from gen.run_folder.saving import SUFFIX_OF_FORMAT
from ui.api.images import as_mask, as_png, from_base64, looked_at
from ui.page.thumbnails import FOREVER
from ui.service.service import Service

ORIGINALS = "/originals/"
NAME = re.compile(r"[0-9a-f]{64}\.(png|jpg|webp)")


@dataclass(frozen=True)
class Original:
    """An image to begin from: the name of its file, and its size upright, in pixels."""

    name: str
    size: tuple[int, int]

    @property
    def address(self) -> str:
        """Where the page finds it."""
        return ORIGINALS + self.name


def routes(service: Service) -> APIRouter:
    """Return the path that originals have."""
    router = APIRouter(include_in_schema=False)

    @router.get(ORIGINALS + "{name}", response_class=Response)
    def original(name: str) -> Response:
        path = path_of(service, name)
        if path is None:
            raise HTTPException(404, "no such original, or no longer")
        return FileResponse(path, headers=FOREVER)

    return router


def path_of(service: Service, name: str) -> Path | None:
    """Return the file of an original that is there; None for any other name."""
    path = service.folder.path / FOLDER / name
    return path if NAME.fullmatch(name) and path.is_file() and not path.is_symlink() else None


def kept(service: Service, data: bytes) -> Original:
    """Keep an image file in the run folder. Raises InputError for what is none, and RoomError."""
    file_format, size = service.reader.read(looked_at, data)
    path = keep(service.folder.path, data, SUFFIX_OF_FORMAT[file_format])
    return Original(path.name, size)


def find(service: Service, name: object) -> Original | None:
    """Return the original of that name, if it is there and can be read."""
    path = path_of(service, str(name))
    try:
        return None if path is None else kept(service, path.read_bytes())
    except (InputError, OSError):
        return None


def kept_mask(service: Service, drawn: str) -> Path:
    """Keep a mask as edit.js draws it, a data: URL. Raises InputError for what is no image."""
    return keep(service.folder.path, service.reader.read(as_mask, from_base64(drawn)), ".png")


def joined(service: Service, first: Path, second: Path) -> Path:
    """Keep the mask that is white where one of two is."""
    one, other = (Image.open(path).convert("L") for path in (first, second))
    both = ImageChops.lighter(one.resize(other.size, Image.Resampling.NEAREST), other)
    return keep(service.folder.path, as_png(both), ".png")
