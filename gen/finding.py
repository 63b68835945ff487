"""Masks that are asked for in words, by points and by boxes: checked early, found when drawn."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gen.errors import InputError
from gen.run_folder import originals
from gen.settings.request import Request
from pipelines.checkpoints.specs import split_names
from pipelines.images import open_image
from pipelines.segmentation import asked, models
from pipelines.segmentation.models import SHIPPED

if TYPE_CHECKING:
    from PIL import Image

    from gen.models import Models
    from gen.plan import Plan
    from pipelines.segmentation.models import Kind

SETTINGS = ("mask_text", "mask_point", "mask_box")
NEEDED: "Mapping[str, Kind]" = {"mask_text": "named", "mask_point": "clicked"}  # a box needs none
LACKING: "Mapping[Kind, str]" = {"named": "a CLIPSeg model", "clicked": "a SAM model"}


def is_asked(request: Request) -> bool:
    """Return whether a mask is to be found."""
    return any(getattr(request, name) is not None for name in SETTINGS)


def lacking(folders: Sequence[str | Path]) -> dict[str, str]:
    """Return which model each setting needs that cannot be used with networks in these folders.

    Raises WeightsError for a folder that is no network for it.
    """
    found = models.find([str(folder) for folder in folders])
    return {name: LACKING[kind] for name, kind in NEEDED.items() if kind not in found}


def check(request: Request) -> None:
    """Raise InputError for what cannot be understood or found, WeightsError for a folder that is no
    network for it; loads none."""
    if not is_asked(request):
        if request.mask_model is not None:
            raise InputError("mask_model: goes with mask_text, mask_point or mask_box")
        return
    if request.mask is not None and request.mask_hash is None:
        given = next(name for name in SETTINGS if getattr(request, name) is not None)
        raise InputError(f"mask and {given}: each says what is drawn anew: give one of them")
    wanted, folders = _read(request), _folders(request)
    needed = {"mask_text": bool(wanted.words), "mask_point": bool(wanted.points)}
    for name, kind in NEEDED.items():
        if needed[name] and kind not in folders:
            raise InputError(f"{name}: needs {LACKING[kind]}: name its folder with mask_model")


def with_mask(plan: "Plan", engine: "Models", folder: Path | None) -> "Plan":
    """Return a plan with the mask that is asked for, as a file among the originals of a folder.

    Raises InputError where nothing of it is in the image.
    """
    request = plan.request
    if not is_asked(request) or request.mask is not None:
        return plan
    image = open_image(request.init_image)
    folders = _folders(request)
    mask = engine.finder(folders).find(image, _read(request))
    if mask.getbbox() is None:
        said = ", ".join(str(getattr(request, n)) for n in SETTINGS if getattr(request, n))
        more = ""
        if request.mask_text is not None and folders.get("named") == SHIPPED:
            more = "; what ships knows what stickers draws: name a CLIPSeg model with mask_model"
        raise InputError(f"mask: nothing of {said} is found in {request.init_image}{more}")
    where = engine.scratch() if folder is None else folder
    path = originals.keep(where, _as_png(mask), ".png")
    changes: dict[str, Any] = {"mask": str(path), "mask_hash": path.stem}
    models = tuple((spec, own.replace(**changes)) for spec, own in plan.models)
    return replace(plan, request=request.replace(**changes), models=models)


def _read(request: Request) -> asked.Asked:
    return asked.read(request.mask_text, request.mask_point, request.mask_box)


def _folders(request: Request) -> "dict[Kind, Path]":
    names = "" if request.mask_model is None else request.mask_model
    return models.find(split_names(names))


def _as_png(mask: "Image.Image") -> bytes:
    out = io.BytesIO()
    mask.save(out, "png")
    return out.getvalue()
