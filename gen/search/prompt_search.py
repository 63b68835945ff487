"""The search of a prompt in its run folder: what it begins with, notes and comes to."""

from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any

from gen import drafting
from gen.drafting import Drafting
from gen.errors import InputError
from gen.plan import Candidate, Plan
from gen.run_folder.folder import Job
from gen.search import looking
from gen.search.race import Field, Look
from gen.search.searching import Search
from pipelines.checkpoints.specs import Spec

if TYPE_CHECKING:
    from pipelines.drafts import Draft, Pipeline


def found_drafts(
    pipeline: "Pipeline",
    spec: Spec,
    scorer: Any,
    plan: Plan,
    job: Job,
    note_look: Callable[[Look], None],
    candidates: dict[int, Candidate],
    how: Drafting,
) -> "Iterator[Draft]":
    """Search with one model; yields the drafts of what is found, as `finished_drafts` does.

    `candidates` becomes those that are in, by seed. `note_look` is told what each look decided,
    before it is carried out. Raises InputError without a scorer.
    """
    if scorer is None:
        raise InputError(
            "search and refine need a reranker, which says what looks best: leave out -r none"
        )
    model = place_of(plan, spec)
    schedule, request = plan.schedules[model], plan.models[model][1]
    field = field_of(plan, spec, job)

    def note(look: Look) -> None:
        note_look(look)
        enter(candidates, plan, look.field)

    if not field.runners:  # there are more models than images
        return
    enter(candidates, plan, field)
    first = next(iter(candidates.values()))
    search = Search(
        pipeline,
        request,
        schedule,
        lambda taken: islice(plan.seeds(model), taken, None),
        drafting.batch_sizes(pipeline, first, how.batch_size, early=False),
        partial(looking.rate, scorer, looking.find_head(spec, scorer), plan.words),
        note,
        how,
    )
    made = [seed for seed, result in job.results.items() if result.unfinished is None]
    yield from search.found_drafts(field, made)


def place_of(plan: Plan, spec: Spec) -> int:
    """Return which of a plan's models this is."""
    return next(i for i, (each, _) in enumerate(plan.models) if each.folder == spec.folder)


def field_of(plan: Plan, spec: Spec, job: Job) -> Field:
    """Return what a model's search goes on with: the first field, or that of its last look."""
    before = job.searches.get(spec.address)
    return plan.first_field(place_of(plan, spec)) if before is None else before


def enter(candidates: dict[int, Candidate], plan: Plan, field: Field) -> None:
    """Make `candidates` those that are in, by seed."""
    candidates.clear()
    candidates.update({path.seed: plan.found(i, path) for i, path in enumerate(field.paths)})
