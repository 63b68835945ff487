"""One model's search for one prompt: from a field of candidates to finished drafts."""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gen import drafting
from gen.drafting import Drafting
from gen.events import Note
from gen.memory import BatchSize
from gen.models import free_memory
from gen.search.paths import NoisePath
from gen.search.race import Field, Look, Rating, carry_out, joined, parts, replay, thin_out
from gen.search.schedule import Schedule
from gen.settings.request import Request

if TYPE_CHECKING:
    from pipelines.drafts import Draft, Pipeline


@dataclass
class Search:
    """A search and what it works with.

    `note` is told what each look decided, before it is carried out.
    """

    pipeline: "Pipeline"
    request: Request
    schedule: Schedule
    seeds_from: Callable[[int], Iterator[int]]  # without those that were taken before
    sizes: BatchSize
    rate: "Callable[[Sequence[Draft]], Rating]"
    note: Callable[[Look], None]
    how: Drafting

    def found_drafts(self, field: Field, made: Collection[int]) -> "Iterator[Draft]":
        """Yield the drafts of what is found, each when it is done; it closes then.

        `field` is the first one, or that of the last look of a run that was ended; the images of
        the seeds `made` are there already. When the user wants images as they are, the best of the
        last look are yielded; when the user says stop, none.
        """
        rungs = [rung for rung in self.schedule.rungs if rung.step > field.step]
        paths = field.paths if rungs else [path for path in field.paths if path.seed not in made]
        drafts = self._placed(paths, field.step)
        for rung in rungs:
            drafts = self._advanced(drafts, rung.step)
            if self.how.cancel.asked:
                field = Field(field.step, field.runners[: self.schedule.finished])
                drafts = carry_out(drafts, field)
                break
            fresh = self.seeds_from(self.schedule.taken(rung.step))
            look = thin_out(field, self.rate(drafts), rung, fresh)
            self.note(look)  # before it is done: nothing is looked at twice
            field = look.field
            size = self.sizes.choose(len(field.runners), free_memory(self.pipeline.device))
            drafts = joined(carry_out(drafts, field), size)
        while drafts:
            first, *drafts = self._advanced(drafts[:1], self.schedule.total) + drafts[1:]
            if self.how.cancel.stopped:
                return
            with first:
                yield first

    def _placed(self, paths: Sequence[NoisePath], step: int) -> "list[Draft]":
        """Return drafts of these candidates at a step, as many in each as memory allows."""
        drafts: list[Draft] = []
        left = list(paths)
        while left and not self.how.cancel.asked:
            size = self.sizes.choose(len(left), free_memory(self.pipeline.device))
            batch, left = left[:size], left[size:]
            firsts = [path.seed for path in parts(batch, 1)]
            begun = drafting.begin(self.pipeline, self.request, firsts, self.sizes, self.how)
            while begun:
                draft = begun.pop()
                own = [path for path in batch if path.first in draft.seeds]
                if replay(own, step, self._reaches, draft):
                    drafts.append(draft)
                    continue
                draft.close()
                if not self.how.cancel.asked:
                    self._tell_of_halves(len(own))
                    left = own + left
        return drafts

    def _reaches(self, draft: "Draft", step: int) -> bool:
        return drafting.step_until(draft, step, self.how) and draft.done >= step

    def _advanced(self, drafts: "Sequence[Draft]", step: int) -> "list[Draft]":
        """Return the drafts at a step, in halves where memory is short; none after a stop."""
        waiting, there = list(reversed(drafts)), []
        while waiting:
            draft = waiting.pop()
            if drafting.step_until(draft, step, self.how):
                there.append(draft)
            elif self.how.cancel.stopped:
                draft.close()
            else:
                self._tell_of_halves(len(draft.seeds))
                waiting += reversed(draft.split())
        return there

    def _tell_of_halves(self, candidates: int) -> None:
        self.sizes.halve(candidates)
        self.how.watch(Note(f"memory is short: {candidates} candidates are halved"))
