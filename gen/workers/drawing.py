"""What the engine asks of workers: a prompt's candidates drawn, and prompts ahead of their turn."""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import fields

from gen.events import Cancel, Watch
from gen.memory import BatchSize, free_on_host
from gen.models import NO_RERANKER, Models, count_gpus
from gen.plan import Candidate, Plan
from gen.run_folder.folder import Job, RunFolder
from gen.settings.request import Request
from gen.turns import Turns
from gen.workers.cluster import Cluster
from gen.workers.dispatch import AHEAD, Dispatch
from gen.workers.processes import Processes
from gen.workers.tasks import Piece, Step, Task
from pipelines.checkpoints.specs import Spec
from pipelines.families import family_of
from pipelines.runtime.limits import usable_cores

FEW_PLANS = 64  # that are looked at ahead of their turn, besides those that workers draw
ITEM_SIZE = 4  # bytes of a value; half precision needs less memory than is planned for


class Drawing:
    """Splits prompts into tasks as one process splits them, and has them done.

    `batch_size` None is as many candidates at once as memory allows; on a CPU all workers share it.
    """

    def __init__(self, dispatch: Dispatch, batch_size: int | None, *, on_cpu: bool) -> None:
        self.dispatch = dispatch
        self._batch_size = batch_size
        self._on_cpu = on_cpu
        self._is_early = on_cpu
        self._ahead: dict[tuple[Request, str], list[tuple[Task, int]]] = {}

    def ahead(
        self,
        plans: Iterable[Plan],
        begun: Callable[[Plan], bool],
        watch: Watch,
        folder: RunFolder | None,
    ) -> Generator[Plan]:
        """Yield the plans in order, when the workers have tasks of those that follow.

        What is `begun` waits for its turn: only then is known what is missing of it.
        """
        upcoming: deque[Plan] = deque()
        most = FEW_PLANS + AHEAD * self.dispatch.crew.size
        try:
            for plan in plans:
                if not begun(plan):
                    self._begin(plan, watch, folder)
                upcoming.append(plan)
                while upcoming and (self.dispatch.is_full or len(upcoming) >= most):
                    yield upcoming.popleft()
            while upcoming:
                yield upcoming.popleft()
        finally:
            for given in self._ahead.values():
                self.dispatch.forget(number for _, number in given)
            self._ahead.clear()

    def drawn(
        self,
        plan: Plan,
        spec: Spec,
        candidates: Sequence[Candidate],
        job: Job,
        folder: RunFolder | None,
        watch: Watch,
        on_step: Callable[[Step], None],
        cancel: Cancel,
    ) -> Iterator[Piece]:
        """Yield what comes of a model's candidates that are missing, in order.

        Raises what `Dispatch.result` raises.
        """
        given = self._ahead.pop((plan.request, spec.address), [])
        asked = [candidate for task, _ in given for candidate in task.candidates]
        if asked != list(candidates) or job.searches or (plan.schedules and job.results):
            self.dispatch.forget(number for _, number in given)
            tasks = self._split(plan, spec, candidates, job, folder)
            given = [(task, self.dispatch.add(task, watch)) for task in tasks]
        left = deque(number for _, number in given)
        try:
            while left:
                yield from self.dispatch.result(left.popleft(), watch, on_step, cancel)
        finally:
            self.dispatch.forget(left)

    def close(self) -> None:
        """End all workers at once."""
        self.dispatch.close()

    def _begin(self, plan: Plan, watch: Watch, folder: RunFolder | None) -> None:
        for spec, own in by_model(plan, plan.candidates()):
            key = plan.request, spec.address
            if key not in self._ahead:  # the same prompt twice is drawn once
                tasks = self._split(plan, spec, own, Job(0), folder)
                self._ahead[key] = [(task, self.dispatch.add(task, watch)) for task in tasks]

    def _split(
        self,
        plan: Plan,
        spec: Spec,
        candidates: Sequence[Candidate],
        job: Job,
        folder: RunFolder | None,
    ) -> list[Task]:
        """Split candidates of one model into tasks; a search is one."""
        export = None if folder is None else folder.export
        if plan.schedules:
            made = tuple(seed for seed, r in job.results.items() if r.unfinished is None)
            return [Task(plan, spec, tuple(candidates), job.searches, made, export)]
        memory = family_of(spec).drawing_memory(spec, ITEM_SIZE, candidates[0].request.given())
        sizes = BatchSize(
            candidates[0].pixels, self._batch_size, early=self._is_early, besides=memory.candidate
        )
        self._is_early = False
        free = free_on_host() / self.dispatch.crew.size if self._on_cpu else float("inf")
        tasks, left = [], list(candidates)
        while left:
            size = sizes.choose(len(left), min(free, 1e15))
            tasks.append(Task(plan, spec, tuple(left[:size]), export=export))
            left = left[size:]
        return tasks


def by_model(plan: Plan, candidates: Sequence[Candidate]) -> Iterator[tuple[Spec, list[Candidate]]]:
    """Yield the models of a plan, each with its own of these candidates, if there are any."""
    for spec in {spec.folder: spec for spec, _ in plan.models}.values():
        own = [candidate for candidate in candidates if candidate.spec.folder == spec.folder]
        if own:
            yield spec, own


def begin(models: Models, workers: int | None, ray: str | None, turns: Turns) -> Drawing:
    """Start workers that load such models: so many processes, or actors at Ray's address.

    Threads that have them draw take `turns`.

    Raises InputError for a device that is not there, and for an address without a cluster.
    """
    own = {f.name: getattr(models, f.name) for f in fields(Models) if not f.name.startswith("_")}
    if models.scorer is not None:  # stays with the driver
        own |= {"scorer": None, "reranker": NO_RERANKER, "aesthetic": None}
    if ray is not None:
        cluster = Cluster(own, ray, workers)
        return Drawing(Dispatch(cluster, turns=turns), models.batch_size, on_cpu=not cluster.on_gpu)
    assert workers is not None
    devices = _devices(models, workers)
    threads = models.threads or max(1, usable_cores() // workers)
    crew = Processes([{**own, "device": device, "threads": threads} for device in devices])
    on_cpu = devices[0] == "cpu"
    return Drawing(Dispatch(crew, turns=turns), models.batch_size, on_cpu=on_cpu)


def _devices(models: Models, workers: int) -> list[str]:
    """Return a device for each worker: all GPUs in turn, unless one is asked for."""
    chosen, *_ = models.choose_machine()
    if not chosen.startswith("cuda") or models.device not in (None, "auto", "cuda"):
        return [chosen] * workers
    gpus = count_gpus()
    return [f"cuda:{i % gpus}" for i in range(workers)]
