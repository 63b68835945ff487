"""By how much results are enlarged, and by what. Loads no torch but to do it."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from gen.settings.request import SETTINGS, Request
from pipelines.checkpoints.specs import Spec
from pipelines.settings import Value
from pipelines.upscale import files

if TYPE_CHECKING:
    from pipelines.drafts import Enlarge
    from pipelines.upscale.enlarging import Upscaler


def defaults(own: Request, spec: Spec, edited: tuple[int, int] | None) -> dict[str, Value]:
    """Return how many times larger a model's images come out; nothing where they do not.

    `edited` is the size of the image that is changed, if there is one: the model's own upsampler
    makes the result as large as that, where it is large enough. Raises WeightsError for a damaged
    upscaler.
    """
    if own.upscale is not None:
        return {}
    if own.upscale_model is not None and own.hires is None:  # else it is for the second pass
        return {"upscale": files.scale_of(Path(own.upscale_model))}
    if spec.upsampler is None:
        return {}
    usual = usual_times(spec)
    if edited is None:
        return {"upscale": usual}
    if "width" not in spec.settings:
        return {"upscale": usual if max(edited) > spec.defaults["width"] else 1}
    low = SETTINGS["width"].low
    return {"upscale": usual if min(edited) >= usual * (1 if low is None else low) else 1}


def usual_times(spec: Spec) -> int:
    """Return how many times larger a model's images come out where nobody says so."""
    if spec.upsampler is None:
        return 1
    usual = spec.defaults.get("upscale")
    return files.scale_of(spec.upsampler) if usual is None else int(usual)


def drawn_size(size: tuple[int, int], own: Request, spec: Spec) -> tuple[int, int]:
    """Return the size (width, height) to draw an image at that is changed: with an upsampler of the
    model's own it comes out as large as it was, else it is enlarged."""
    scale = 1 if own.upscale is None or spec.upsampler is None else own.upscale
    return -(-size[0] // scale), -(-size[1] // scale)


def upscaler_of(own: Request, spec: Spec) -> Path | None:
    """Return the file or folder of what enlarges a request's images; None for Lanczos."""
    return spec.upsampler if own.upscale_model is None else Path(own.upscale_model)


def needed(own: Request, spec: Spec) -> Path | None:
    """Return the file or folder of the network that a request's images need; None for none."""
    if own.upscale in (None, 1) and own.hires_upscaler != "model":
        return None
    return upscaler_of(own, spec)


def enlarger(own: Request, upscaler: "Upscaler | None") -> "Enlarge | None":
    """Return what a request's finished images go through; None where they stay as drawn."""
    if own.upscale in (None, 1):
        return None
    if upscaler is None:
        from pipelines.upscale.enlarging import plain

        return partial(plain, times=own.upscale)
    return partial(upscaler.enlarge, times=own.upscale)
