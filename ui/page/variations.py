"""Images near one that was drawn: with noise near its own, or with settings near its own."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gen.errors import InputError
from gen.settings.request import SETTINGS, Request
from ui.api.edits import STRENGTH_OF_VARIATIONS
from ui.page.form import label_of, weights_of
from ui.service.service import Service

# What "more like this one" changes, one at a time: numbers are multiplied, names exchanged.
FACTORS: Mapping[str, tuple[float, ...]] = {
    "guidance": (0.7, 1.4),
    "steps": (0.75, 1.5),
    "temperature": (0.85, 1.15),
}
SAMPLERS = ("dpmpp_2m", "euler", "unipc", "euler_a")


def varied(request: Request, image: Path, service: Service) -> tuple[Request, dict[str, Path]]:
    """Return what draws variations of an image, and the files that it takes.

    By its embedding or by noise near its own, as its model can, or else over the image. Raises
    InputError for a model that is not served here.
    """
    name = None if request.model is None else service.catalog.name_of(request.model)
    model = service.default if name is None else name
    takes = service.find(model).settings
    lora = ",".join(f"{name}:{weight:g}" for name, weight in weights_of(request.lora).items())
    files: dict[str, Any] = {
        "lora": lora or None,
        "vae": None if request.vae is None else Path(request.vae).stem,
    }
    asked = Request(request.prompt, model=model, **files)
    if any(name in takes for name in ("image_prompt", "variation")):
        return asked, {"variations_of": image}
    return asked.replace(strength=STRENGTH_OF_VARIATIONS), {"init_image": image}


def nearby(request: Request, service: Service) -> dict[str, Request]:
    """Return small variations of an image's request, by what they are called; the seed stays."""
    found: dict[str, Request] = {}
    alone = request.replace(candidates=1, top_k=1)
    for name, factors in FACTORS.items():
        value = getattr(request, name)
        for factor in factors:
            if value is not None:
                other = SETTINGS[name].kind(round(value * factor, 2))
                _add(found, alone, name, other, service)
    for sampler in SAMPLERS:
        if request.sampler is not None:
            _add(found, alone, "sampler", sampler, service)
    return found


def _add(
    found: dict[str, Request], request: Request, name: str, value: Any, service: Service
) -> None:
    if value == getattr(request, name):
        return
    try:
        varied = request.replace(**{name: value})
        service.plan(varied)
    except InputError:  # beyond what the setting can be
        return
    found[f"{label_of(name)} {value}"] = varied
