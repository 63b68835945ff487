"""Drawing twice as tools written for AUTOMATIC1111's API ask for it, which they call hires fix."""

from collections.abc import Mapping
from typing import Any

from gen.models import Spec
from gen.settings.request import SETTINGS
from ui.api.answers import ParameterError
from ui.api.body import checked
from ui.api.sdapi.extras import networks
from ui.service.service import Service
from ui.service.settings import offered

TIMES = 2.0  # larger, where they do not say
LATENT = "latent"
# What the second pass may have of its own there and not here, with the values that ask for nothing.
SAME: Mapping[str, tuple[Any, ...]] = {
    "hr_checkpoint_name": ("", "None", "Use same checkpoint"),
    "hr_sampler_name": ("", "None", "Use same sampler"),
    "hr_scheduler": ("", "None", "Use same scheduler"),
    "hr_prompt": ("",),
    "hr_negative_prompt": ("",),
    "hr_cfg": (0,),
    "firstphase_width": (0,),
    "firstphase_height": (0,),
}
FIRST = {  # what it may repeat of the first pass
    "hr_sampler_name": "sampler_name",
    "hr_scheduler": "scheduler",
    "hr_prompt": "prompt",
    "hr_negative_prompt": "negative_prompt",
    "hr_cfg": "cfg_scale",
}


def read_second_pass(
    service: Service,
    asked: Mapping[str, Any],
    size: tuple[int, int] | None,
    specs: list[Spec],
    edit: Mapping[str, Any],
) -> tuple[dict[str, Any], list[str]]:
    """Return the settings of a second pass, by our names, and notes; none unless it is enabled.

    `asked` are all keys of a body by their names, `size` is what the first pass draws, None where
    the body leaves it to the model, `edit` is what goes with an image that it begins from. Raises
    ParameterError for what is not done.
    """
    if asked.get("enable_hr") in (None, False):
        return {}, []
    if edit:
        message = "enable_hr: what begins from an image is drawn once: send it to txt2img"
        raise ParameterError("enable_hr", message)
    takers = ", ".join(spec.name for spec in specs)
    if "hires" not in offered(specs):
        raise ParameterError("enable_hr", f"enable_hr: {takers} draws once: send false")
    for key, nothing in SAME.items():
        value = asked.get(key)
        if value is not None and value not in nothing and value != asked.get(FIRST.get(key, "")):
            message = f"{key}: not done by this server: leave it out, or send {nothing[0]!r}"
            raise ParameterError(key, message)
    values = {"hires": _times(asked, size or _usual(specs[0]))}
    for key, name in {
        "denoising_strength": "hires_strength",
        "hr_second_pass_steps": "hires_steps",
    }.items():
        if asked.get(key) not in (None, 0):
            values[name] = _checked(name, key, asked[key])
    if asked.get("denoising_strength") == 0:
        message = "denoising_strength 0: draws nothing anew: give more than 0, up to 1"
        raise ParameterError("denoising_strength", message)
    upscaler, notes = _upscaler(service, asked.get("hr_upscaler"), specs)
    return values | upscaler, notes


def _times(asked: Mapping[str, Any], size: tuple[int, int]) -> float:
    """Return how many times larger the second pass draws, by its own size or `hr_scale`."""
    sides = [_side(asked, key) for key in ("hr_resize_x", "hr_resize_y")]
    times = [side / own for side, own in zip(sides, size, strict=True) if side]
    if not times:
        scale = asked.get("hr_scale")
        return float(_checked("hires", "hr_scale", TIMES if scale is None else scale))
    if max(times) > 1.1 * min(times):
        raise ParameterError(
            "hr_resize_y",
            f"hr_resize_x {sides[0]} and hr_resize_y {sides[1]}: other proportions than those of "
            f"{size[0]}x{size[1]}: send one of them, and 0 for the other",
        )
    return float(_checked("hires", "hr_resize_x" if sides[0] else "hr_resize_y", max(times)))


def _side(asked: Mapping[str, Any], key: str) -> int:
    value = asked.get(key)
    return 0 if value in (None, 0) else int(_checked("width", key, value))


def _usual(spec: Spec) -> tuple[int, int]:
    return spec.defaults["width"], spec.defaults["height"]


def _upscaler(service: Service, name: Any, specs: list[Spec]) -> tuple[dict[str, Any], list[str]]:
    """Return what enlarges between the passes, and a note where it is not quite what was asked."""
    if name in (None, ""):
        return {}, []
    own = {
        known for known, path in networks(service).items() if path in {s.upsampler for s in specs}
    }
    if name in own:
        return {"hires_upscaler": "model"}, []
    known = SETTINGS["hires_upscaler"].names
    found = {} if known is None else known()
    upscaler = found.get(str(name).strip().lower())
    if upscaler is None:
        names = ", ".join(["Latent", "Lanczos", "None", *sorted(own)])
        message = f"hr_upscaler {str(name)[:40]}: not served here; there are {names}"
        raise ParameterError("hr_upscaler", message)
    exact = upscaler != LATENT or str(name).lower() == LATENT
    notes = [] if exact else [f"hr_upscaler {name}: latents are enlarged as by Latent"]
    return {"hires_upscaler": upscaler}, notes


def _checked(name: str, key: str, value: Any) -> Any:
    """Return a value as that of our setting; raises ParameterError that names their key."""
    try:
        return checked(name, value)
    except ParameterError as error:
        raise ParameterError(key, str(error).replace(f"{error.param} ", f"{key} ", 1)) from error
