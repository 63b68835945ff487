"""One process, one set of models in memory, one job at a time."""

from collections.abc import Callable
from dataclasses import dataclass, field
from threading import Lock

from gen.engine import Engine, Outcome
from gen.errors import InputError
from gen.events import Cancel, Watch
from gen.models import DEFAULT_MODEL, Spec, find
from gen.plan import resolve
from gen.request import Request
from gen.result import Result
from gen.run_folder import RunFolder


@dataclass
class Studio:
    """An engine and the run folder that it saves to, for callers in many threads.

    Their requests wait for each other.
    """

    engine: Engine
    folder: RunFolder
    find: Callable[[str], Spec] = find
    _cancel: Cancel = field(default_factory=Cancel)
    _at_work: Lock = field(default_factory=Lock)

    def check(self) -> None:
        """Raise WeightsError if the default models are not there; loads nothing."""
        self.engine.jury_spec()
        self.engine.model_hash(self.find(DEFAULT_MODEL))

    def load(self) -> None:
        """Load the default models, so that the first job does not wait for them."""
        with self._at_work:
            self.engine.pipeline(self.find(DEFAULT_MODEL))
            if self.engine.jury_spec() is not None:
                self.engine.jury()

    def draw(self, request: Request, watch: Watch | None = None) -> Outcome:
        """Draw, judge and save; what is in the folder already is not drawn again.

        Raises InputError, also when the studio has stopped, WeightsError and RoomError.
        """
        plan = resolve(request, self.find)
        with self._at_work:
            if self._cancel.stopped:
                raise InputError("the server is shutting down: try again when it is back")
            return self.engine.draw(plan, self.folder, watch=watch, cancel=self._cancel)

    def rest(self, outcome: Outcome) -> list[Result]:
        """The pictures that were ranked behind the best, in order."""
        hashes = {spec.address: self.engine.model_hash(spec) for spec, _ in outcome.plan.models}
        with self._at_work:
            results = self.folder.job(outcome.plan, hashes).results.values()
        ranks = {result.rank: result for result in results if result.rank is not None}
        return [ranks[rank] for rank in sorted(ranks) if rank > outcome.plan.top_k]

    def stop(self) -> None:
        """End the job in the making after its step; returns when what is finished is saved."""
        self._cancel.stop()
        with self._at_work:
            pass
