"""Previews of candidates in progress, in a small share of the time."""

from collections.abc import Sequence
from time import perf_counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image

    from gen.workers.tasks import Step
    from pipelines.drafts import Draft

SHARE = 0.1  # of the time, at most


class Previews:
    """Takes previews while they are wanted and cheap: the last one's time must fit the budget."""

    def __init__(self, *, wanted: bool) -> None:
        self._wanted = wanted
        self._began = perf_counter()
        self._spent = 0.0  # seconds on previews so far, and on the last one
        self._last = 0.0

    def take(self, draft: "Draft | Step") -> "Sequence[Image.Image | None] | None":
        """Return what a draft's candidates look like by now, None if there is no time for it."""
        start = perf_counter()
        if not self._wanted or self._last > SHARE * (start - self._began) - self._spent:
            return None
        previews = draft.preview()
        self._last = perf_counter() - start
        self._spent += self._last
        return previews
