"""Drawing images twice, larger the second time: what a request for it comes to."""

from functools import partial
from typing import TYPE_CHECKING

from gen import enlarging
from gen.errors import InputError
from gen.settings.request import SETTINGS, Request
from pipelines.checkpoints.specs import Spec
from pipelines.diffusion.settings import SecondPassSettings
from pipelines.settings import Value, settings_of

if TYPE_CHECKING:
    from pipelines.editing import SecondPass
    from pipelines.upscale.enlarging import Upscaler

OWN_SETTINGS = tuple(settings_of(SecondPassSettings))
STRENGTH = 0.5
REFINED = 0.6  # how much of the best of quick candidates is drawn anew
QUICK = 4  # so many times fewer steps for those, but not fewer than LEAST
LEAST = 4
SMALLEST = SETTINGS["width"].low or 1  # pixels a side


def defaults(own: Request, spec: Spec) -> dict[str, Value]:
    """Return what a second pass takes where a request does not say; nothing without one."""
    if own.hires is None:
        return {}
    steps = {} if own.steps is None else {"hires_steps": own.steps}
    there = enlarging.upscaler_of(own, spec) is not None
    return {
        "hires_strength": STRENGTH,
        "hires_upscaler": "model" if there else "latent",
        **steps,
    }


def refined(own: Request, spec: Spec) -> Request:
    """Return a request whose first pass is quick, and whose second one is what was asked for.

    Raises InputError for a model that cannot draw twice.
    """
    if "hires" not in spec.settings or own.init_image is not None:
        what = spec.name if own.init_image is None else "what begins from an image"
        raise InputError(f"refine: {what} is drawn once: leave refine out")
    quick = min(own.steps, max(LEAST, -(-own.steps // QUICK)))
    if own.hires is not None:
        return own.replace(steps=quick)
    least = max(spec.defaults["width"], spec.defaults["height"])
    usual = least / max(own.width, own.height)
    smaller = min(1.0, max(usual, SMALLEST / min(own.width, own.height)))
    multiple = spec.size_multiple
    width, height = (
        max(1, round(side * smaller / multiple)) * multiple for side in (own.width, own.height)
    )
    strength = REFINED if own.hires_strength is None else own.hires_strength
    steps = max(1, round(own.steps * strength)) if own.hires_steps is None else own.hires_steps
    made = own.replace(
        steps=quick,
        width=width,
        height=height,
        hires=own.width / width,
        hires_strength=strength,
        hires_steps=steps,
    )
    return made.with_defaults(defaults(made, spec))


def check(own: Request, spec: Spec) -> None:
    """Raise InputError unless one model can draw a request's images twice."""
    if own.hires is None:
        for name in OWN_SETTINGS:
            if getattr(own, name) is not None:
                raise InputError(f"{name}: goes with hires: say how many times larger, as 2")
        return
    if own.init_image is not None:
        raise InputError("hires and init_image: what begins from an image is drawn once")
    if own.hires_strength == 0:
        raise InputError("hires_strength 0: draws nothing anew; give more than 0, up to 1")
    if own.hires_upscaler == "model" and enlarging.upscaler_of(own, spec) is None:
        raise InputError(
            f"hires_upscaler model: {spec.name} comes with none: give a file with upscale_model"
        )
    width, height = size(own, spec)
    if max(width, height) > spec.max_size:
        raise InputError(
            f"hires {own.hires:g}: makes {width}x{height} pixels, and {spec.name} draws at most "
            f"{spec.max_size} a side: give less, or a smaller width and height"
        )


def size(own: Request, spec: Spec) -> tuple[int, int]:
    """Return the size (width, height) of the second pass, in multiples that the model draws."""
    multiple = spec.size_multiple
    width, height = (
        max(1, round(side * own.hires / multiple)) * multiple for side in (own.width, own.height)
    )
    return width, height


def second_pass(own: Request, spec: Spec, upscaler: "Upscaler | None") -> "SecondPass | None":
    """Return the second pass of a request that was checked; None without one."""
    if own.hires is None:
        return None
    from pipelines.editing import SecondPass
    from pipelines.upscale.enlarging import plain

    enlarge = None
    if own.hires_upscaler != "latent":
        named = own.hires_upscaler == "model" and upscaler is not None
        enlarge = partial(upscaler.enlarge if named and upscaler else plain, times=own.hires)
    return SecondPass(size(own, spec), own.hires_strength, own.hires_steps, enlarge)
