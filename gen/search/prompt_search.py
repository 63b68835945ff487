"""The search of a prompt in its run folder: what it begins with, notes and comes to."""

from collections.abc import Iterator
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any

from gen import drafting
from gen.drafting import Drafting
from gen.errors import InputError
from gen.plan import Candidate, Plan
from gen.run_folder.folder import Job, RunFolder
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
    folder: RunFolder | None,
    candidates: dict[int, Candidate],
    how: Drafting,
) -> "Iterator[Draft]":
    """Search with one model; yields the drafts of what is found, as `finished_drafts` does.

    `candidates` becomes those that are in, by seed. Raises InputError without a scorer.
    """
    if scorer is None:
        raise InputError("search: needs a reranker, which says what looks best: leave out -r none")
    model = next(i for i, (each, _) in enumerate(plan.models) if each.folder == spec.folder)
    schedule, request = plan.schedules[model], plan.models[model][1]
    before = job.searches.get(spec.address)
    field = plan.first_field(model) if before is None else before

    def enter(field: Field) -> None:
        candidates.clear()
        candidates.update({path.seed: plan.found(i, path) for i, path in enumerate(field.paths)})

    def note(look: Look) -> None:
        if folder is not None:
            folder.note_look(job, spec.address, schedule.total, look)
        enter(look.field)

    if not field.runners:  # there are more models than images
        return
    enter(field)
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
