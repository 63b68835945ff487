"""The families of models: one row each, and all that differs between them.

Nothing else asks what kind a model is. A new family is a folder and a row. Loads no torch: a
family's networks are imported when a model of it is loaded.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import pipelines.dalle.spec
import pipelines.diffusion.memory
import pipelines.diffusion.spec
import pipelines.stock.memory
import pipelines.stock.spec
import pipelines.unclip.spec
from pipelines.checkpoints.memory import (
    DrawingMemory,
    Header,
    WeightsMemory,
    checker_of,
    measure,
)
from pipelines.checkpoints.places import Place, class_of, locate
from pipelines.checkpoints.specs import SHIPPED, Kind, Spec
from pipelines.courses import Course
from pipelines.dalle.settings import DalleSettings
from pipelines.diffusion.samplers import SAMPLERS
from pipelines.diffusion.settings import DiffusionSettings
from pipelines.editing import second_steps
from pipelines.loading import LoadOptions, Report, ignore_progress
from pipelines.stock.settings import StockSettings
from pipelines.unclip.settings import UnclipSettings

DEFAULT_MODEL = next(iter(SHIPPED))


class ModelSettings(DiffusionSettings, DalleSettings, UnclipSettings, StockSettings, total=False):
    """The settings of all families."""


@dataclass(frozen=True)
class Family:
    """Everything that is particular to one kind of model."""

    kind: Kind
    claims: Callable[[str], bool]  # whether a class in model_index.json is one of its own
    read_spec: Callable[[Place], Spec]
    load: Callable[[Spec, LoadOptions, Report], Any]  # a Pipeline
    options: frozenset[str]  # those of LoadOptions that not every family understands
    tensors: Callable[[Spec], dict[str, Header]]  # what the files say of each part
    in_float32: Callable[[Spec], dict[str, tuple[str, ...]]] = lambda spec: {}
    drawing_memory: Callable[[Spec, int, Mapping[str, Any]], DrawingMemory] = lambda *_: (
        DrawingMemory()
    )
    # The end of a prompt that is not read, as far as the files tell it; "" if all of it is.
    dropped_text: Callable[[Spec, str], str] = lambda spec, prompt: ""
    # Of a request's settings; None where candidates cannot be looked at half-way.
    course: Callable[[Spec, Mapping[str, Any]], Course | None] = lambda *_: None


def _load_diffusion(spec: Spec, options: LoadOptions, report: Report) -> Any:
    from pipelines.diffusion.pipeline import LatentDiffusion

    return LatentDiffusion.load(spec, options, report)


def _load_dalle(spec: Spec, options: LoadOptions, report: Report) -> Any:
    from pipelines.dalle.pipeline import Dalle

    return Dalle.load(spec, options, report)


def _load_unclip(spec: Spec, options: LoadOptions, report: Report) -> Any:
    from pipelines.unclip.pipeline import Unclip

    return Unclip.load(spec, options, report)


def _load_stock(spec: Spec, options: LoadOptions, report: Report) -> Any:
    from pipelines.stock.pipeline import StockPipeline

    return StockPipeline.load(spec, options, report)


def _dalle_memory(spec: Spec, bytes_per_number: int, settings: Mapping[str, Any]) -> DrawingMemory:
    from pipelines.dalle.memory import MemoryPlan

    plan = MemoryPlan.of_model(spec, bytes_per_number, settings.get("guidance", 1.0))
    ways = settings.get("mask_resampling", 1)
    return DrawingMemory(plan.cache_shared, ways * plan.cache_per_candidate)


def _diffusion_course(spec: Spec, settings: Mapping[str, Any]) -> Course:
    sampler, steps = SAMPLERS[settings["sampler"]], settings["steps"]
    edited = settings.get("init_image") is not None
    left_out = steps - min(steps, int(steps * settings.get("strength", 1.0))) if edited else 0
    total = sampler.evaluations(steps) - left_out * (1 + sampler.twice)
    second = None
    if settings.get("hires") is not None:
        second = total
        drawn = settings["hires_steps"]
        most = sampler.max_steps
        whole, skipped = second_steps(drawn, settings["hires_strength"], most)
        total += sampler.evaluations(whole) - skipped * (1 + sampler.twice)
    return Course(total, branches=sampler.stochastic, second=second)


def _dalle_course(spec: Spec, settings: Mapping[str, Any]) -> Course:
    grid, kept = spec.defaults["width"] // spec.size_multiple, settings.get("keep_rows") or 0
    return Course(grid**2, start=kept * grid, stride=grid, looks=(0.625,), forks=(0.25, 0.5, 0.75))


def _unclip_course(spec: Spec, settings: Mapping[str, Any]) -> Course:
    prior, total, stochastic = pipelines.unclip.spec.evaluations(spec, settings)
    return Course(total, start=prior, branches=stochastic)


# The first family that claims a class has it; the last one claims all the rest.
FAMILIES = (
    Family(
        kind="latent_diffusion",
        claims=lambda name: name in pipelines.diffusion.spec.PIPELINE_CLASSES,
        read_spec=pipelines.diffusion.spec.read_spec,
        load=_load_diffusion,
        options=frozenset({"safety", "offload", "vae_tiling", "compiled"}),
        tensors=pipelines.diffusion.memory.tensors,
        in_float32=pipelines.diffusion.memory.in_float32,
        drawing_memory=pipelines.diffusion.memory.drawing,
        course=_diffusion_course,
    ),
    Family(
        kind="dalle",
        claims=lambda name: name == pipelines.dalle.spec.DALLE_CLASS,
        read_spec=pipelines.dalle.spec.read_spec,
        load=_load_dalle,
        dropped_text=pipelines.dalle.spec.dropped_text,
        options=frozenset({"safety"}),
        tensors=pipelines.dalle.spec.tensors,
        drawing_memory=_dalle_memory,
        course=_dalle_course,
    ),
    Family(
        kind="unclip",
        claims=lambda name: name in pipelines.unclip.spec.LAYOUTS,
        read_spec=pipelines.unclip.spec.read_spec,
        load=_load_unclip,
        options=frozenset({"offload"}),
        tensors=pipelines.unclip.spec.tensors,
        course=_unclip_course,
    ),
    Family(
        kind="diffusers",
        claims=lambda name: True,
        read_spec=pipelines.stock.spec.read_spec,
        load=_load_stock,
        options=frozenset({"offload", "vae_tiling"}),
        tensors=pipelines.stock.memory.tensors,
        in_float32=pipelines.stock.memory.in_float32,
    ),
)


def find(name: str) -> Spec:
    """Return the Spec of a known model, of a folder or file, or of `org/name` in the hub's cache.

    Raises WeightsError with the choices if there is no such thing, and with the reason if it is no
    model that can be loaded. Never touches the network.
    """
    known = shipped()
    return known[name] if name in known else read_spec(locate(name))


@cache
def shipped() -> dict[str, Spec]:
    """Return the models that ship with Salon, by name; those whose files are gone are left out."""
    places = [Place(name, folder) for name, folder in SHIPPED.items() if folder.is_dir()]
    return {place.name: read_spec(place) for place in places}


def read_spec(place: Place) -> Spec:
    """Return the Spec of what is at a place. Raises WeightsError."""
    if place.path.is_file():  # a whole Stable Diffusion model: no other family has such files
        return pipelines.diffusion.spec.read_spec(place)
    class_name = class_of(place.path)
    return next(family for family in FAMILIES if family.claims(class_name)).read_spec(place)


def family_of(spec: Spec) -> Family:
    """Return the family of a model."""
    return next(family for family in FAMILIES if family.kind == spec.kind)


def lacking(spec: Spec, options: LoadOptions) -> list[str]:
    """Return the options that are asked for and that this kind of model does not understand."""
    return [name for name in options.special if name not in family_of(spec).options]


def load(spec: Spec, options: LoadOptions, report: Report = ignore_progress) -> Any:
    """Load a model's networks; a Pipeline. Takes seconds, and `report` follows.

    Raises WeightsError for weights that are incomplete, damaged or do not fit together, ValueError
    for an unavailable device, dtype, attention or offload.
    """
    return family_of(spec).load(spec, options, report)


def weights_memory(spec: Spec, bytes_per_number: int, *, safety: bool = False) -> WeightsMemory:
    """Return the memory of a model's weights at so many bytes a number: 4, or 2.

    With `safety` its safety checker is counted too. Raises WeightsError for files that are missing
    or damaged.
    """
    family = family_of(spec)
    headers: Mapping[str, Header] = family.tensors(spec)
    in_float32 = family.in_float32(spec) if bytes_per_number == 2 else {}
    if safety:
        headers = {**headers, "safety_checker": checker_of(spec.folder)}
        in_float32 = {**in_float32, "safety_checker": ("",)}
    return measure(headers, bytes_per_number, in_float32)
