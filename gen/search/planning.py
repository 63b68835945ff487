"""From a request to the schedules of its search. Loads no torch."""

from collections.abc import Sequence

from gen.errors import InputError
from gen.search.paths import read_path
from gen.search.schedule import BEAM, Schedule, count_finished, make_schedule, refining
from gen.settings.request import Request
from pipelines import families
from pipelines.checkpoints.specs import Spec
from pipelines.courses import Course


def plan_search(
    whole: Request, models: Sequence[tuple[Spec, Request]]
) -> tuple[int | None, tuple[Schedule, ...]]:
    """Return what a search may spend, and how each model spends its share; None without one.

    Raises InputError for a search that these models cannot make.
    """
    assert whole.seed is not None
    read_path(whole.seed, whole.branches)  # what an image says of itself may be wrong
    if whole.branches is not None and whole.candidates > 1:
        raise InputError("branches: are those of one image: ask for 1 candidate")
    if whole.refine is not None:
        return None, _refining(whole, models)
    if whole.search is None:
        if whole.budget is not None:
            raise InputError("budget: is for a search: add search prune or beam")
        return None, ()
    if len({spec.folder for spec, _ in models}) < len(models):
        raise InputError("search: name each model once")
    courses = [_course(spec, own, whole.search) for spec, own in models]
    turns = [i % len(models) for i in range(whole.candidates)]
    costs = [turns.count(m) * (each.total - each.start) for m, each in enumerate(courses)]
    budget = sum(costs) if whole.budget is None else whole.budget
    finished = count_finished(whole.candidates, whole.top_k)
    return budget, tuple(
        make_schedule(
            whole.search, course, budget * cost // sum(costs), turns[:finished].count(model)
        )
        for model, (course, cost) in enumerate(zip(courses, costs, strict=True))
    )


def _refining(whole: Request, models: Sequence[tuple[Spec, Request]]) -> tuple[Schedule, ...]:
    """Return how each model draws its share quickly, and the best again."""
    if whole.search is not None or whole.budget is not None:
        raise InputError("refine and search: each says who goes on: give one of them")
    if len({spec.folder for spec, _ in models}) < len(models):
        raise InputError("refine: name each model once")
    courses = [_course(spec, own, "refine") for spec, own in models]
    turns = [i % len(models) for i in range(whole.candidates)]
    return tuple(
        refining(course, turns.count(model), turns[: whole.refine].count(model))
        for model, course in enumerate(courses)
    )


def _course(spec: Spec, own: Request, search: str) -> Course:
    """Return how a model's candidates go. Raises InputError if they cannot be searched so."""
    course = families.family_of(spec).course(spec, own.given())
    if course is None:
        raise InputError(f"search: {spec.name} shows nothing half-way: leave search out")
    if search == BEAM and not course.branches:
        raise InputError(
            f"search beam: {own.sampler} draws no noise on the way, so nothing can branch: take "
            "sampler euler_a, or search prune"
        )
    return course
