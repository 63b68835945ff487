"""Edits: what a request that begins from an image comes to, checked before anything loads."""

import hashlib
import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image, ImageOps

from gen import enlarging, finding, metadata
from gen.errors import InputError
from gen.run_folder import originals
from gen.settings.request import SETTINGS, Request
from pipelines.checkpoints.specs import Spec
from pipelines.dalle.settings import ImagePromptSettings
from pipelines.diffusion.settings import LatentEditingSettings
from pipelines.images import MAX_PIXELS, BadImageError, open_image
from pipelines.settings import Value, settings_of

if TYPE_CHECKING:
    from gen.plan import Candidate
    from pipelines.editing import Edit, Start
    from pipelines.outpainting import Outpainting

EDITING_SETTINGS = tuple(settings_of(LatentEditingSettings))
OF_TOKENS = tuple(settings_of(ImagePromptSettings))  # the beginning of an image as tokens
FILES = {name: f"{name}_hash" for name in (*originals.NAMES, "upscale_model")}
HARDER = {"mask_resampling": 1, "mask_guidance": 0}  # how what is new finds its place: the least
OF_MASK = ("invert_mask", "mask_blur", "mask_fill", "inpaint_area", *HARDER)
STRENGTH, STRENGTH_OF_MASKED = 0.75, 1.0
DEFAULTS_OF_MASK: dict[str, Value] = {
    "mask_blur": 0,
    "mask_fill": "original",
    "inpaint_area": "whole",
}
PADDING = 32
_ANEW = [0] * 128 + [255] * 128  # of every grey, whether it is drawn anew
SAME_RATIO = 0.01  # by how much a mask's ratio may differ from the image's
SURROUNDINGS = 0.25  # of the masked part on each side, seen when it is scored
SCORED_AT_LEAST = 16  # pixels a side


def varied(request: Request) -> Request:
    """Return the request with the settings of the image that it is to stay near.

    Raises InputError for a file that does not say how it was made.
    """
    if request.variations_of is None:
        return request
    path = Path(request.variations_of).expanduser()
    if not path.is_file():
        raise InputError(f"variations_of {request.variations_of}: no such file")
    try:
        made = metadata.read(path).request
    except InputError as error:
        raise InputError(
            f"variations_of {error}: -m stickers-unclip, and other models that draw from image "
            "embeddings, vary any image"
        ) from error
    if made.seed is None:
        raise InputError(f"{path} does not say its seed")
    own = ("prompt", "template", "seed", "candidates", "top_k", "base_seed")
    settings = {name: value for name, value in made.given().items() if name not in own}
    base = made.seed if request.base_seed is None else request.base_seed
    return request.replace(variations_of=None, base_seed=base).with_defaults(settings)


def located(request: Request) -> Request:
    """Return the request with its files found from any folder, and told by their SHA-256.

    Raises InputError, in one line, for a file that is not there or another than was recorded, and
    for settings of an edit without an image or without a mask.
    """
    _check_together(request)
    changes: dict[str, Any] = {}
    for name, hash_name in FILES.items():
        given, recorded = getattr(request, name), getattr(request, hash_name)
        if given is None:
            changes |= {} if recorded is None else {hash_name: None}
            continue
        path = Path(given).expanduser().resolve()
        if not path.is_file():
            known = "" if recorded is None else f": give the file whose SHA-256 is {recorded}"
            raise InputError(f"{name} {given}: no such file{known}")
        found = _hash(path, *_state(path))
        if recorded not in (None, found):
            raise InputError(f"{name} {given}: has changed: give the file of SHA-256 {recorded}")
        changes |= {name: str(path), hash_name: found}
    if request.mask is not None and changes["mask_hash"] == changes["init_image_hash"]:
        raise InputError(f"mask {request.mask}: is the image itself; white is drawn anew")
    return request.replace(**changes) if changes else request


def with_copies(request: Request, folders: Sequence[Path]) -> Request:
    """Return the request with copies in run folders in place of files that are gone or changed."""
    changes: dict[str, Any] = {}
    for name, hash_name in FILES.items():
        given, recorded = getattr(request, name), getattr(request, hash_name)
        if given is None or recorded is None:
            continue
        path = Path(given).expanduser()
        copies = [copy for folder in folders if (copy := originals.find(folder, recorded))]
        if copies and not (path.is_file() and _hash(path, *_state(path)) == recorded):
            changes[name] = str(copies[0])
    return request.replace(**changes) if changes else request


def _check_together(request: Request) -> None:
    """Raise InputError for settings that say nothing without others."""
    for name in EDITING_SETTINGS:
        if request.init_image is None and getattr(request, name) is not None:
            raise InputError(f"{name}: goes with init_image: say which image is changed")
    finding.check(request)
    for name in (*OF_MASK, "padding"):
        if not (_masked(request) or request.extend) and getattr(request, name) is not None:
            raise InputError(f"{name}: goes with mask: say which part is drawn anew")
    if request.padding is not None and request.inpaint_area != "masked":
        raise InputError("padding: goes with inpaint_area masked")
    if request.strength == 0:
        raise InputError("strength 0: draws nothing anew; give more than 0, up to 1")
    if request.keep_rows is not None:
        if request.init_image is None:
            raise InputError("keep_rows: goes with init_image: say which image's rows are kept")
        for name in ("strength", "mask", *finding.SETTINGS, "extend"):
            if getattr(request, name) is not None:
                raise InputError(f"keep_rows and {name} each say what is kept: give one of them")


def result_size(own: Request) -> tuple[int, int]:
    """Return the size of the image that is changed, with what is added to it."""
    return _extended_size(own, _image(own.init_image).size)


def defaults(own: Request, spec: Spec) -> dict[str, Value]:
    """Return what one model takes where an edit does not say; nothing without an image."""
    if own.init_image is None:
        return {}
    values: dict[str, Value] = {}
    if own.keep_rows is None:
        masked = _masked(own) or own.extend is not None
        values["strength"] = STRENGTH_OF_MASKED if masked else STRENGTH
        values |= DEFAULTS_OF_MASK if masked else {}
        values |= spec.mask_defaults if masked else {}
        if own.extend is not None:
            values["mask_fill"] = "blur"  # nothing is there yet
            values.pop("mask_guidance", None)  # what was cut off goes on there, and ends no sooner
    if own.inpaint_area == "masked":
        return values | {"padding": PADDING}  # and the model's own size
    if "width" in spec.settings and not _grows_in_steps(own, spec):
        width, height = result_size(own)
        if own.width is not None and own.height is None:
            values["height"] = _within(own.width * height / width, spec)
        elif own.height is not None and own.width is None:
            values["width"] = _within(own.height * width / height, spec)
        else:
            width, height = enlarging.drawn_size((width, height), own, spec)
            scale = min(1, spec.max_size / max(width, height))
            scale = max(scale, _smallest("width") / min(width, height))
            values["width"], values["height"] = (_within(s * scale, spec) for s in (width, height))
    if "resize_mode" in spec.settings:
        values["resize_mode"] = "fill"
    return values


def _grows_in_steps(own: Request, spec: Spec) -> bool:
    """Return whether an image is extended beyond the size that is drawn: its own, or the model's
    where the request does not say, which it then does not."""
    if own.extend is None or _masked(own) or own.inpaint_area == "masked":
        return False
    times = 1 if own.upscale is None else own.upscale
    size = _drawn_size(own, spec)
    return any(whole > side * times for whole, side in zip(result_size(own), size, strict=True))


def _drawn_size(own: Request, spec: Spec) -> tuple[int, int]:
    """Return the size that is drawn (width, height), the model's own where none is asked for."""
    asked = {"width": own.width, "height": own.height}
    width, height = (spec.defaults[k] if side is None else side for k, side in asked.items())
    return width, height


def _masked(request: Request) -> bool:
    """Return whether a part of the image is to be drawn anew, known by now or not."""
    return request.mask is not None or finding.is_asked(request)


def _within(side: float, spec: Spec) -> int:
    return min(max(round(side), _smallest("width")), spec.max_size)


def _smallest(name: str) -> int:
    low = SETTINGS[name].low
    return 1 if low is None else int(low)


def check(own: Request, spec: Spec) -> None:
    """Raise InputError unless one model can make the edit; opens its files, loads no weights."""
    if own.init_image is None:
        return
    if own.keep_rows is not None:
        rows = spec.defaults["height"] // spec.size_multiple
        if own.keep_rows >= rows:
            raise InputError(
                f"keep_rows {own.keep_rows}: must be from 1 to {rows - 1} for {spec.name}, "
                f"whose images have {rows} rows of tokens"
            )
    if own.steps is not None and own.strength is not None and int(own.steps * own.strength) < 1:
        raise InputError(
            f"strength {own.strength:g} of {own.steps} steps is none: give at least "
            f"{1 / own.steps:.2g}, or more steps"
        )
    for name, least in HARDER.items():
        if spec.inpaints and getattr(own, name) not in (None, least):
            raise InputError(f"{name}: {spec.name} sees what is around a mask: leave it out")
    image = _image(own.init_image)
    _extended_size(own, image.size)
    if own.search is not None and _grows_in_steps(own, spec):
        raise InputError(
            "search: an image that grows in steps is not searched: leave it out, or give width and "
            "height of the whole, so that it is drawn in one piece"
        )
    if own.mask is None:
        return
    mask = _image(own.mask, "mask")
    ratio = mask.width / mask.height * image.height / image.width
    if mask.size != image.size and abs(ratio - 1) > SAME_RATIO:
        raise InputError(
            f"mask {own.mask}: is {mask.width}x{mask.height}, the image is "
            f"{image.width}x{image.height}: make it of the same shape"
        )
    if _mask(own, image.size).point(_ANEW).getbbox() is None:
        what = "black" if own.invert_mask else "white"
        raise InputError(f"mask {own.mask}: nothing in it is {what}, so nothing would be drawn")


def notes(own: Request) -> list[str]:
    """Return what happens to the files of an edit that people may not expect."""
    if own.init_image is None:
        return []
    told = []
    for name in originals.NAMES:
        if (file := getattr(own, name)) is None:
            continue
        with Image.open(file) as opened:  # which was read before
            frames = getattr(opened, "n_frames", 1)
        if frames > 1:
            told.append(f"{name} {file}: of its {frames} frames the first is taken")
    if own.mask is not None and (mask := _image(own.mask, "mask")).size != (
        size := _image(own.init_image).size
    ):
        told.append(
            f"mask {own.mask}: is {mask.width}x{mask.height}, and resized to the image's "
            f"{size[0]}x{size[1]}"
        )
    return told


def start(own: Request, spec: Spec) -> "Start | None":
    """Return what the candidates of one model begin from, of a request that was checked."""
    if own.init_image is None:
        return None
    files = [_state(Path(file)) for file in (own.init_image, own.mask) if file is not None]
    alone = own.replace(seed=0, candidates=1, top_k=1)  # whichever candidate it is
    return _start(alone, _drawn_size(own, spec), spec.size_multiple, *files)


def outpainting(own: Request, spec: Spec) -> "Outpainting | None":
    """Return how an image grows in steps, of a request that was checked; None if it is drawn in one
    piece."""
    if own.init_image is None or not _grows_in_steps(own, spec):
        return None
    from pipelines import outpainting

    image, times = _image(own.init_image), 1 if own.upscale is None else own.upscale
    margins = _margins(str(own.extend), image.size)
    return outpainting.outpainting(image, margins, _edit(own), _drawn_size(own, spec), times)


def _edit(own: Request) -> "Edit":
    from pipelines.editing import Edit

    names = ("resize_mode", *OF_MASK[1:], "padding")
    chosen = {name: getattr(own, name) for name in names if getattr(own, name) is not None}
    strength = 1.0 if own.strength is None else own.strength
    return Edit(strength, level=own.extend is not None, **chosen)


@lru_cache(2)
def _start(own: Request, size: tuple[int, int], multiple: int, *files: tuple[int, int]) -> "Start":
    from pipelines.editing import extended, prepare

    edit = _edit(own)
    image = _image(own.init_image)
    mask = None if own.mask is None else _mask(own, image.size)
    if own.extend is not None:
        image, mask = extended(image, mask, _margins(own.extend, image.size))
    times = 1 if own.upscale is None else own.upscale
    return prepare(image, mask, edit, size, multiple, times)


def masked_box(candidate: "Candidate") -> tuple[int, int, int, int] | None:
    """Return the part of the result (left, top, right, bottom) that is masked, with some of what is
    around it; None without a mask, and where that is all."""
    own = candidate.request
    if (steps := outpainting(own, candidate.spec)) is not None:
        return _with_surroundings(steps.unknown)
    begun = start(own, candidate.spec)
    if begun is None or not begun.canvases or begun.canvases[0].mask is None:
        return None
    return _with_surroundings(begun.canvases[0].mask)


def _with_surroundings(mask: Image.Image) -> tuple[int, int, int, int] | None:
    found = mask.getbbox()
    assert found is not None, "an empty mask is refused before"
    longer = max(found[2] - found[0], found[3] - found[1])
    more = round(SURROUNDINGS * longer)
    spare = [max(more, (max(SCORED_AT_LEAST, longer // 2) - n) // 2) for n in _sides(found)]
    left, top = max(0, found[0] - spare[0]), max(0, found[1] - spare[1])
    right, bottom = min(mask.width, found[2] + spare[0]), min(mask.height, found[3] + spare[1])
    box = (left, top, right, bottom)
    return None if box == (0, 0, *mask.size) else box


def _margins(extend: str, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Return by how many pixels an image grows (left, top, right, bottom). Raises InputError."""
    if whole := re.fullmatch(r"(\d{1,5})[xX](\d{1,5})", extend.strip()):
        more = [int(side) - old for side, old in zip(whole.groups(), size, strict=True)]
        if min(more) < 0 or max(more) == 0:
            raise InputError(f"extend {extend}: the image is {size[0]}x{size[1]} already")
        left, top = more[0] // 2, more[1] // 2
        return left, top, more[0] - left, more[1] - top
    given: dict[str, int] = {}
    for part in extend.split(","):
        match = re.fullmatch(r"(left|right|top|bottom)=(\d{1,5})", part.strip())
        if match is None or match[1] in given:
            raise InputError(
                f"extend {extend}: must be a size as 768x512, or pixels as left=64,right=64"
            )
        given[match[1]] = int(match[2])
    if not any(given.values()):
        raise InputError(f"extend {extend}: adds nothing")
    left, top, right, bottom = (given.get(k, 0) for k in ("left", "top", "right", "bottom"))
    return left, top, right, bottom


def _extended_size(own: Request, size: tuple[int, int]) -> tuple[int, int]:
    """Return the size of the image with what is added. Raises InputError."""
    if own.extend is None:
        return size
    left, top, right, bottom = _margins(own.extend, size)
    width, height = size[0] + left + right, size[1] + top + bottom
    if width * height > MAX_PIXELS or max(width, height) > 100 * min(width, height):
        raise InputError(f"extend {own.extend}: {width}x{height} pixels are too many or too narrow")
    return width, height


def _sides(box: tuple[int, int, int, int]) -> tuple[int, int]:
    return box[2] - box[0], box[3] - box[1]


def _mask(own: Request, size: tuple[int, int]) -> Image.Image:
    """Return the mask (L) at the size of the image, white where it is drawn anew."""
    mask = _image(own.mask, "mask").convert("L")
    if own.invert_mask:
        mask = ImageOps.invert(mask)
    return mask if mask.size == size else mask.resize(size, Image.Resampling.BILINEAR)


def _image(file: str, name: str = "init_image") -> Image.Image:
    try:
        return _opened(file, *_state(Path(file)))
    except (BadImageError, OSError) as error:
        raise InputError(f"{name} {error}") from error


def _state(path: Path) -> tuple[int, int]:
    """Return what changes when a file is written."""
    status = path.stat()
    return status.st_mtime_ns, status.st_size


@lru_cache(4)
def _opened(file: str, *state: int) -> Image.Image:
    return open_image(file)


@lru_cache(64)
def _hash(path: Path, *state: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
