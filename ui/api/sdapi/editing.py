"""Images that begin from one, as tools written for AUTOMATIC1111's API ask for them."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, create_model

from gen.run_folder.originals import keep
from gen.run_folder.saving import SUFFIX_OF_FORMAT
from ui.api.answers import ParameterError
from ui.api.images import format_of, from_base64
from ui.api.sdapi.request import OWN_FIELDS, TheirFields
from ui.service.service import Service

RESIZE_MODES: Mapping[int, str] = {0: "stretch", 1: "fill", 2: "fit"}
FILLS: Mapping[int, str] = {0: "blur", 1: "original", 2: "noise"}


class TheirEdit(TheirFields):
    """An image in base64, how much of it is drawn anew, and the mask that is white there."""

    init_images: Annotated[list[str], Field(min_length=1, max_length=1)]
    mask: str | None = None
    denoising_strength: Annotated[float | None, Field(gt=0, le=1)] = 0.75
    resize_mode: Literal[0, 1, 2] = 0
    mask_blur: Annotated[int | None, Field(ge=0, le=256)] = 4
    inpainting_fill: Literal[0, 1, 2] = 0
    inpaint_full_res: bool | None = True
    inpaint_full_res_padding: Annotated[int | None, Field(ge=0, le=1024)] = 0
    inpainting_mask_invert: bool | None = False
    initial_noise_multiplier: float | None = 1
    image_cfg_scale: float | None = None
    include_init_images: bool | None = False


if TYPE_CHECKING:
    ImageToImage = TheirEdit
else:
    ImageToImage = create_model("ImageToImage", __base__=TheirEdit, **OWN_FIELDS)


def read_edit(service: Service, body: TheirEdit) -> tuple[dict[str, Any], dict[str, Path]]:
    """Return the settings of an edit, and its files, kept in the run folder. Raises InputError."""
    if body.initial_noise_multiplier not in (None, 1):
        message = "initial_noise_multiplier: not done by this server: leave it out, or send 1"
        raise ParameterError("initial_noise_multiplier", message)
    edit: dict[str, Any] = {"resize_mode": RESIZE_MODES[body.resize_mode]}
    if body.denoising_strength is not None:
        edit["strength"] = body.denoising_strength
    uploads = {"init_image": _kept(service, body.init_images[0])}
    if body.mask:
        uploads["mask"] = _kept(service, body.mask)
        edit["mask_fill"] = FILLS[body.inpainting_fill]
        edit["inpaint_area"] = "masked" if body.inpaint_full_res else "whole"
        if body.mask_blur is not None:
            edit["mask_blur"] = body.mask_blur
        if body.inpaint_full_res and body.inpaint_full_res_padding is not None:
            edit["padding"] = body.inpaint_full_res_padding
        if body.inpainting_mask_invert:
            edit["invert_mask"] = True
    return edit, uploads


def _kept(service: Service, text: str) -> Path:
    data = from_base64(text)
    suffix = SUFFIX_OF_FORMAT[format_of(data, service.reader).lower()]
    return keep(service.folder.path, data, suffix)
