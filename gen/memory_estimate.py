"""What a run will need, told before anything is allocated: memory against what is free, and work.

Weights are counted from the headers of their files, what a transformer remembers from its config.
What else a candidate takes is the engine's own first guess, which is on the safe side.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from math import prod

from gen.engine import Engine
from gen.memory import FIRST_GUESS, BatchSize
from gen.plan import Candidate, Plan
from pipelines.checkpoints.headers import read_header, shards
from pipelines.checkpoints.memory import WeightsMemory
from pipelines.checkpoints.specs import Adapters, Spec
from pipelines.families import family_of, weights_memory

RERANKER_ITEM = 4  # bytes of a reranker's number: it runs in float32


@dataclass
class ModelEstimate:
    """What one model has to do."""

    spec: Spec
    needs: WeightsMemory
    candidates: int = 0
    evaluations: int = 0  # of the network, for one candidate each; 0 where it counts tokens
    pixels: int = 0  # of the largest image
    prompt_cache: int = 0  # bytes of what a transformer remembers of a prompt
    candidate_cache: int = 0  # and of a candidate

    @property
    def candidate(self) -> int:
        """Bytes of one candidate in the making, at most."""
        return self.pixels * FIRST_GUESS + self.candidate_cache


@dataclass(frozen=True)
class MemoryEstimate:
    """What all prompts together need, in bytes, and what is free."""

    device: str
    dtype: str
    offload: str
    free: float  # on the device
    free_on_host: float
    models: tuple[ModelEstimate, ...]
    rerankers: int
    batch_size: int | None

    @property
    def weights(self) -> int:
        """The weights that are on the device at a time."""
        return self.rerankers + sum(model.needs.on_device(self.offload) for model in self.models)

    @property
    def waiting(self) -> int:
        """The weights that wait on the host meanwhile."""
        if self.offload == "none":
            return 0
        return sum(model.needs.weights for model in self.models)

    @property
    def fits(self) -> bool:
        """Whether one candidate at a time can be drawn."""
        least = self.weights + max(model.prompt_cache + model.candidate for model in self.models)
        return least <= self.free and self.waiting <= self.free_on_host

    def lines(self) -> Iterable[str]:
        """Return the estimate as a table for people."""
        yield f"on {self.device} in {self.dtype}, offload {self.offload}"
        for model in self.models:
            for part, size in model.needs.parts.items():
                yield _row(f"{model.spec.name} {part}", size)
            if model.prompt_cache:
                yield _row(f"{model.spec.name}, what it remembers of a prompt", model.prompt_cache)
            yield _row(f"{model.spec.name}, a candidate at most", model.candidate)
            size = BatchSize(model.pixels, self.batch_size, besides=model.candidate_cache).choose(
                model.candidates, self.free - self.weights - model.prompt_cache
            )
            work = f"{model.candidates} candidates, {size} at once"
            if model.evaluations:
                work += f", {model.evaluations} network evaluations in all"
            yield f"{model.spec.name}: {work}"
        yield _row("the rerankers", self.rerankers)
        yield _row("weights on the device at a time", self.weights)
        if self.waiting:
            yield _row("weights that wait on the host", self.waiting)
            yield _row("free on the host", self.free_on_host)
        yield _row("free on the device", self.free)
        if not self.fits:
            yield "it does not fit: try --offload model, a smaller --width and --height, or --dtype"


def estimate_memory(plans: Iterable[Plan], engine: Engine) -> MemoryEstimate:
    """Return what these prompts need with such an engine.

    Raises WeightsError for weights that are not there, InputError for a device that is not there.
    """
    device, dtype, free, free_on_host = engine.choose_machine()
    size = 4 if dtype == "float32" else 2
    models: dict[tuple[str, Adapters], ModelEstimate] = {}
    for plan in plans:
        for index in range(plan.count):
            candidate = plan.candidate(index)
            spec = candidate.spec
            key = spec.address, spec.adapters
            if key not in models:
                engine.refuse_what_it_lacks(spec)
                models[key] = ModelEstimate(spec, weights_memory(spec, size, safety=engine.safety))
            _add(candidate, models[key], size)
    rerankers = [spec.folder for spec in engine.reranker_specs()]
    files = [file for folder in rerankers for file in shards(folder)[0]]
    tensors = [tensor for file in files for tensor in read_header(file).values()]
    return MemoryEstimate(
        device=device,
        dtype=dtype,
        offload="none" if engine.offload is None else engine.offload,
        free=free,
        free_on_host=free_on_host,
        models=tuple(models.values()),
        rerankers=sum(RERANKER_ITEM * prod(tensor.shape) for tensor in tensors),
        batch_size=engine.batch_size,
    )


def _add(candidate: Candidate, model: ModelEstimate, bytes_per_number: int) -> None:
    """One more candidate of a model."""
    model.candidates += 1
    steps = candidate.request.steps
    model.evaluations += 0 if steps is None else steps
    model.pixels = max(model.pixels, candidate.pixels)
    drawing = family_of(model.spec).drawing_memory(
        model.spec, bytes_per_number, candidate.request.given()
    )
    model.prompt_cache = max(model.prompt_cache, drawing.prompt)
    model.candidate_cache = max(model.candidate_cache, drawing.candidate)


def _row(name: str, size: float) -> str:
    return f"  {name:45}{size / 1e9:10.3f} GB"
