"""The sizes that models draw, and which one is drawn when another is asked for."""

import math

from gen import enlarging
from gen.models import Spec
from gen.settings.request import SETTINGS
from ui.api.answers import ParameterError
from ui.service.service import Service

MAX_SIDE = 4096  # of what is enlarged


def fitted_size(service: Service, model: str | None, width: int, height: int) -> tuple[int, int]:
    """Return the size to draw at when one is asked for, which is another only with `fit_size`.

    Raises ParameterError with what the models can draw, and UnknownModelError.
    """
    specs = chosen_specs(service, model)
    size = (width, height)
    if service.fit_size and max(size) <= MAX_SIDE and not _all_draw(specs, size):
        size = nearest_size(specs[0], width, height)
    if not _all_draw(specs, size):
        known = "; ".join(sizes(spec) for spec in specs)
        raise ParameterError("size", f"size {width}x{height}: {known}", "invalid_size")
    return size


def size_settings(service: Service, model: str | None, size: tuple[int, int]) -> dict[str, int]:
    """Return the settings that draw a `fitted_size`: none, if no model takes another size."""
    specs = chosen_specs(service, model)
    larger = {"upscale": times_of(specs, size)} if any(spec.upsampler for spec in specs) else {}
    times = larger.get("upscale", 1)
    if not any(takes_size(spec) for spec in specs):
        return larger
    return {"width": size[0] // times, "height": size[1] // times, **larger}


def chosen_specs(service: Service, model: str | None) -> list[Spec]:
    """Return the models that a request names. Raises UnknownModelError."""
    names = service.default if model is None else model
    return [service.find(name.strip()) for name in names.split(",")]


def _all_draw(specs: list[Spec], size: tuple[int, int]) -> bool:
    times = times_of(specs, size)
    return all(can_draw(spec, size[0] // times, size[1] // times) for spec in specs)


def times_of(specs: list[Spec], size: tuple[int, int]) -> int:
    """Return how many times smaller images are drawn so that they come out in this size: as many
    as the models' own upsamplers usually enlarge, or the next fewer with which all can draw it."""
    most = min(enlarging.usual_times(spec) for spec in specs)
    drawn = (
        times
        for times in range(most, 1, -1)
        if size[0] % times == size[1] % times == 0
        and all(can_draw(spec, size[0] // times, size[1] // times) for spec in specs)
    )
    return next(drawn, 1)


def takes_size(spec: Spec) -> bool:
    """Return whether a model draws images of other sizes than its own."""
    return "width" in spec.settings


def can_draw(spec: Spec, width: int, height: int) -> bool:
    """Return whether a model draws images of that size."""
    if not takes_size(spec):
        return (width, height) == (spec.defaults["width"], spec.defaults["height"])
    return all(
        _smallest(spec) <= side <= spec.max_size and side % spec.size_multiple == 0
        for side in (width, height)
    )


def sizes(spec: Spec) -> str:
    """Describe the sizes that a model draws."""
    usual = f"{spec.defaults['width']}x{spec.defaults['height']}"
    if not takes_size(spec):
        return f"{spec.name} draws {usual}"
    return (
        f"{spec.name} draws {usual}, and any width and height that are multiples of "
        f"{spec.size_multiple} from {_smallest(spec)} to {spec.max_size}"
    )


def nearest_size(spec: Spec, width: int, height: int) -> tuple[int, int]:
    """Return the size to draw at when another is asked for.

    Beyond the largest that a model draws it is about the model's own, in the proportions that are
    asked for.
    """
    if not takes_size(spec):
        return spec.defaults["width"], spec.defaults["height"]
    wide, high = float(width), float(height)
    if max(width, height) > spec.max_size:
        scale = math.sqrt(spec.defaults["width"] * spec.defaults["height"] / (width * height))
        scale = max(scale, _smallest(spec) / min(width, height))
        wide, high = width * scale, height * scale
    multiple, largest = spec.size_multiple, spec.max_size // spec.size_multiple
    smallest = _smallest(spec) // multiple
    sides = [min(max(round(side / multiple), smallest), largest) for side in (wide, high)]
    return sides[0] * multiple, sides[1] * multiple


def _smallest(spec: Spec) -> int:
    low = SETTINGS["width"].low
    assert low is not None
    return math.ceil(low / spec.size_multiple) * spec.size_multiple
