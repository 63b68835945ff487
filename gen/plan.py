"""One prompt made concrete: which model draws which candidate, with which seed and settings."""

import hashlib
import itertools
import json
import secrets
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

from gen import editing, enlarging, image_prompts, second_pass
from gen.errors import InputError
from gen.search.paths import NoisePath, read_path
from gen.search.planning import plan_search
from gen.search.race import Field, Runner
from gen.search.schedule import Schedule
from gen.settings import templates
from gen.settings.request import MAX_SEED, MODEL_SETTINGS, RANDOM_SEED, SETTINGS, Request
from pipelines import families
from pipelines.checkpoints import lora_folder, specs
from pipelines.checkpoints.errors import WeightsError
from pipelines.checkpoints.places import locate
from pipelines.checkpoints.specs import Adapters, Spec
from pipelines.diffusion import prompt_editing, prompt_networks, prompt_weights
from pipelines.settings import Value

DEFAULT_CANDIDATES = 16
DEFAULT_TOP_K = 4
PLANS_KEPT = 256  # by a Survey: some kB each
SHAREABLE = {*MODEL_SETTINGS, "upscale"}
NO_FILES: Mapping[str, Path] = MappingProxyType({})
UNKNOWN_SIZE = 1024  # pixels a side of what a pipeline of diffusers draws by its own default


@dataclass(frozen=True)
class Candidate:
    """One image to be made: a request for exactly this image, and the model that draws it."""

    index: int
    spec: Spec
    request: Request

    @property
    def seed(self) -> int:
        """What names the image within its prompt."""
        assert self.request.seed is not None
        return self.request.seed

    @property
    def path(self) -> NoisePath:
        """Whose noise its image is made of."""
        return read_path(self.seed, self.request.branches)

    @property
    def pixels(self) -> int:
        """How many its image has while it is drawn, at most."""
        defaults = self.spec.defaults
        asked = {"width": self.request.width, "height": self.request.height}
        width, height = (
            defaults.get(name, UNKNOWN_SIZE) if size is None else size
            for name, size in asked.items()
        )
        larger = 1 if self.request.hires is None else self.request.hires
        return int(width * height * larger**2)


@dataclass(frozen=True)
class Plan:
    """A request with nothing left open."""

    request: Request  # seed, candidates and top_k are set; so is what all its models agree on
    models: tuple[tuple[Spec, Request], ...]  # each with the settings that it takes, all set
    schedules: tuple[Schedule, ...] = ()  # of a search, one for each model

    @property
    def seed(self) -> int:
        """The first candidate's seed."""
        assert self.request.seed is not None
        return self.request.seed

    @property
    def count(self) -> int:
        """How many images are made: of all candidates, or of those that a search finishes."""
        assert self.request.candidates is not None
        if self.schedules:
            return sum(schedule.finished for schedule in self.schedules)
        return self.request.candidates

    @property
    def begun(self) -> int:
        """How many candidates begin: more than are made in a search."""
        return sum(schedule.begin for schedule in self.schedules) or self.count

    @cached_property
    def words(self) -> str:
        """The prompt without signs that weigh or change its words: what images are scored by.

        Of a prompt that changes these are the words at the end.
        """
        steps = [own.steps for spec, own in self.models if "prompt_syntax" in spec.settings]
        syntax = self.request.prompt_syntax if steps else "plain"
        syntax = prompt_weights.SYNTAXES[0] if syntax is None else syntax
        parts = prompt_editing.finals(self.request.prompt, steps[0] if steps else 1, syntax)
        return " and ".join(prompt_weights.plain(part, syntax) for part in parts)

    @property
    def top_k(self) -> int:
        """How many are returned."""
        assert self.request.top_k is not None
        return self.request.top_k

    def candidate(self, index: int) -> Candidate:
        """Return the i-th image: model i mod M, seed + i, so a smaller run is the start of a
        larger.

        Beyond the largest seed the count goes on from 0.
        """
        spec, request = self.models[index % len(self.models)]
        return Candidate(index, spec, _of_one(request, self._seed_of(index)))

    def found(self, place: int, path: NoisePath) -> Candidate:
        """Return the image that a search has found by this path; `place` is its own among them."""
        index = (path.seed - self.seed) % (MAX_SEED + 1)
        spec, request = self.models[index % len(self.models)]
        return Candidate(place, spec, _of_one(request, path.seed, path.text))

    def found_in(self, fields: Mapping[str, Field]) -> dict[int, Candidate]:
        """Return the candidates by seed; of a search, those that are in by now, by model."""
        if not self.schedules:
            return {candidate.seed: candidate for candidate in self.candidates()}
        first = [self.first_field(model) for model in range(len(self.models))]
        own = zip(self.models, first, strict=True)
        now = [fields.get(spec.address, field) for (spec, _), field in own]
        paths = [path for field in now for path in field.paths]
        return {path.seed: self.found(place, path) for place, path in enumerate(paths)}

    def first_field(self, model: int) -> Field:
        """Return what the search of the i-th model begins with."""
        schedule = self.schedules[model]
        seeds = itertools.islice(self.seeds(model), schedule.begin)
        return Field(schedule.start, tuple(Runner(NoisePath(seed)) for seed in seeds))

    def seeds(self, model: int) -> Iterator[int]:
        """Yield the seeds that belong to the i-th model, one after the other without end."""
        return (self._seed_of(index) for index in itertools.count(model, len(self.models)))

    def _seed_of(self, index: int) -> int:
        return (self.seed + index) % (MAX_SEED + 1)

    def candidates(self) -> list[Candidate]:
        """All of them, in order."""
        return [self.candidate(index) for index in range(self.count)]


def _of_one(request: Request, seed: int, branches: str | None = None) -> Request:
    """Return the request for exactly one image: nothing in it says how the image was found."""
    branches = request.branches if branches is None else branches
    one: dict[str, Any] = {"candidates": 1, "top_k": 1}
    one |= {"search": None, "budget": None, "refine": None}
    return request.replace(seed=seed, branches=branches, **one)


def draw_seed() -> int:
    """Return a new seed, below 2**32 so that every tool can read it."""
    return secrets.randbelow(2**32)


def resolve(
    request: Request,
    find: Callable[[str], Spec] = families.find,
    loras: Mapping[str, Path] = NO_FILES,
) -> Plan:
    """Fill in what the request leaves open, from the models' own defaults, and check the rest.

    `find` gives the Spec of a model's name; `loras` are the LoRA files that a prompt may name, if
    the request names no folder of them. Raises InputError for a setting that no chosen model takes
    or that breaks a model's own rules, and WeightsError for an unknown model.
    """
    request = editing.varied(image_prompts.prompted(request, find))
    if not request.prompt.strip():
        raise InputError("prompt: empty: say what to draw")
    name = families.DEFAULT_MODEL if request.model is None else request.model
    chosen = [find(part) for part in _names_of_models(name)]
    _refuse_settings_that_none_takes(request, chosen)

    candidates = request.candidates
    if candidates is None:
        candidates = max(DEFAULT_CANDIDATES, request.top_k or 0)
    most = candidates if request.refine is None else min(candidates, request.refine)
    top_k = request.top_k if request.top_k is not None else min(DEFAULT_TOP_K, most)
    if top_k > most:
        raise InputError(f"top_k {top_k}: more than the {most} that are refined")
    seed = draw_seed() if request.seed in (None, RANDOM_SEED) else request.seed
    search = None if request.search == "none" else request.search
    whole = request.replace(seed=seed, candidates=candidates, top_k=top_k, search=search)
    if whole.prior_candidates is not None and whole.prior_seed is None:
        whole = whole.replace(prior_seed=seed)
    whole = editing.located(whole)

    if request.template is None:
        whole = _with_choices_made(whole)
    known = dict(loras) if whole.lora_dir is None else lora_folder.files(Path(whole.lora_dir))
    if known or whole.lora_dir is not None:
        whole = _with_networks_of_prompt(whole, chosen, known)
    adapters = _read_adapters(whole, known)
    is_searched = any(lora.name is not None for lora in adapters.loras)
    whole = whole.replace(**adapters.texts, lora_dir=whole.lora_dir if is_searched else None)
    chosen = [specs.with_adapters(spec, adapters) for spec in chosen]

    full = [_for_model(whole, spec) for spec in chosen]
    owns = full if whole.refine is None else map(second_pass.refined, full, chosen)
    models = tuple(zip(chosen, owns, strict=True))
    for spec, own in models:
        _check_size(own, request, spec)
        _check_prompt(own, spec)
        image_prompts.check(own, spec)
        editing.check(own, spec)
        second_pass.check(own, spec)
    model = ",".join(str(own.model) for own in full)
    shared = _shared_settings(full)
    whole = whole.replace(model=model).with_defaults(shared)
    budget, schedules = plan_search(whole, models)
    return Plan(whole.replace(budget=budget), models, schedules)


def _refuse_settings_that_none_takes(request: Request, chosen: list[Spec]) -> None:
    for name in request.given():
        if name in MODEL_SETTINGS and not any(name in spec.settings for spec in chosen):
            takes = "; ".join(f"{spec.name} takes {', '.join(spec.settings)}" for spec in chosen)
            raise InputError(f"{name}: not a setting of the chosen model: {takes}")


def _for_model(request: Request, spec: Spec) -> Request:
    """Return the request as one model gets it: only its own settings, with its own defaults."""
    foreign: dict[str, Any] = {
        name: None
        for name in request.given()
        if name in MODEL_SETTINGS and name not in spec.settings
    }
    defaults: Mapping[str, Value] = {
        name: value for name, value in spec.defaults.items() if name in spec.settings
    }
    own = request.replace(model=spec.address, **foreign)
    edited = None if own.init_image is None else editing.result_size(own)
    own = own.with_defaults(image_prompts.defaults(own, spec))
    own = own.with_defaults(enlarging.defaults(own, spec, edited))
    own = own.with_defaults(editing.defaults(own, spec)).with_defaults(defaults)
    return own.with_defaults(second_pass.defaults(own, spec))


def _with_choices_made(request: Request) -> Request:
    """Return the request with the prompt that its seed makes of a template; the template is kept
    too."""
    assert request.seed is not None
    folder = None if request.wildcards is None else Path(request.wildcards)
    prompt = templates.expand(request.prompt, request.seed, folder)
    made = request.replace(wildcards=None)
    if prompt == request.prompt.strip():
        return made
    return made.replace(prompt, template=request.prompt)


def _with_networks_of_prompt(
    request: Request, chosen: list[Spec], loras: Mapping[str, Path]
) -> Request:
    """Return the request with the LoRA files that its prompt names as a setting."""
    if request.prompt_syntax == "plain":
        return request
    prompt, networks = prompt_networks.taken_out(request.prompt)
    if not networks:
        return request
    if not any("lora" in spec.settings for spec in chosen):
        takers = ", ".join(spec.name for spec in chosen)
        raise InputError(f"prompt: {networks[0].sign}: {takers} takes no LoRA files: take it out")
    for network in networks:
        try:
            lora_folder.find(loras, network.name)
        except WeightsError as error:
            raise InputError(f"prompt: {network.sign}: {error}") from error
    named = [f"{network.name}:{network.weight:g}" for network in networks]
    lora = ",".join([*([] if request.lora is None else [request.lora]), *named])
    template = request.prompt if request.template is None else request.template
    return request.replace(prompt.strip(), lora=lora, template=template)


def _names_of_models(text: str) -> list[str]:
    """Return the models of a comma-separated list, or what it is instead, which is then refused."""
    try:
        return specs.split_names(text) or [text]
    except ValueError as error:
        raise InputError(f"model: {error}") from error


def _read_adapters(request: Request, loras: Mapping[str, Path]) -> Adapters:
    """Return the files that the request adds to its models."""
    prior = None if request.prior is None else str(locate(request.prior).path)
    try:
        return specs.read_adapters(request.lora, request.vae, request.embedding, prior, loras)
    except ValueError as error:
        raise InputError(str(error)) from error


def _check_size(own: Request, asked: Request, spec: Spec) -> None:
    for name in ("width", "height"):
        value = getattr(own, name)
        if value is None or getattr(asked, name) is None:
            continue
        multiple = spec.size_multiple if asked.init_image is None else 1  # an edit is cut to size
        if value % multiple or value > spec.max_size:
            raise InputError(
                f"{name} {value}: must be a multiple of {multiple}, "
                f"from {SETTINGS[name].low} to {spec.max_size}, for {spec.name}"
            )


def _check_prompt(own: Request, spec: Spec) -> None:
    """Raise InputError for a prompt whose signs ask for more than is drawn."""
    if "prompt_syntax" in spec.settings:
        syntax = prompt_weights.SYNTAXES[0] if own.prompt_syntax is None else own.prompt_syntax
        prompt_editing.check(own.prompt, own.negative_prompt, own.guidance, own.steps, syntax)


def _shared_settings(requests: list[Request]) -> dict[str, Value]:
    """Return the settings that have one value with all models that take them."""
    taken = [
        {name: value for name, value in own.given().items() if name in SHAREABLE}
        for own in requests
    ]
    return {
        name: value
        for own in taken
        for name, value in own.items()
        if all(other.get(name, value) == value for other in taken)
    }


class Survey:
    """Resolves the requests of a run, and says what they will come to before anything is drawn.

    `seed` is what the requests without one share. The last plans are kept, so that a request which
    was checked is not resolved again to be drawn; of a longer prompt file only the models are.
    """

    def __init__(self, find: Callable[[str], Spec] = families.find) -> None:
        self.seed = draw_seed()
        self.prompts = 0
        self.candidates = 0
        self._digest = hashlib.sha256()
        found = cache(find)
        self._resolve = lru_cache(PLANS_KEPT)(lambda request: resolve(request, found))

    def resolve(self, request: Request) -> Plan:
        """Return a request's plan; raises what `resolve` raises."""
        if request.seed == RANDOM_SEED:  # another one each time
            request = request.replace(seed=draw_seed())
        elif request.seed is None:
            request = request.replace(seed=self.seed)
        return self._resolve(request)

    def add(self, request: Request) -> Plan:
        """Return a request's plan, and count it in; raises what `resolve` raises."""
        plan = self.resolve(request)
        self.count(plan)
        self._digest.update(json.dumps(request.to_json(), sort_keys=True).encode())
        return plan

    def count(self, plan: Plan) -> None:
        """Count a plan in."""
        self.prompts += 1
        self.candidates += plan.count

    @property
    def fingerprint(self) -> str:
        """The same for the same requests in the same order; seeds that were not given are open."""
        return self._digest.hexdigest()[:32]
