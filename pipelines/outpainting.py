"""Outpainting in steps: an image grows beyond what a model draws by one window after another.

Each window has the model's own size, holds as much as it can of what is known, and is drawn, as any
edit, under a mask of what is not. `Outpainting` says which windows; `OutpaintingDraft` is a draft
over the drafts that a pipeline begins for them.
"""

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self

import torch
from PIL import Image, ImageFilter

from pipelines.drafts import MAX_SEED, Draft, to_pixels
from pipelines.editing import Box, Canvas, Edit, Start, start_of

SEEDS_APART = 2**40  # the noise of a window is not that of another one, nor of another candidate
Begin = Callable[[Sequence[int], Start], Draft]


@dataclass(frozen=True)
class Outpainting:
    """An image with margins that are still to be drawn, and the windows in which that is done."""

    image: Image.Image  # RGB, the whole
    unknown: Image.Image  # L, 255 where it is to be drawn
    edit: Edit
    size: tuple[int, int]  # that is drawn in a window (width, height)
    windows: tuple[Box, ...]

    def start(self, place: int, images: Sequence[Image.Image]) -> Start:
        """Return the start of one window, of whole images that are drawn up to there."""
        unknown, box = self.unknown.copy(), self.windows[place]
        for earlier in self.windows[:place]:
            unknown.paste(0, earlier)
        mask = Image.new("L", unknown.size, 0)
        mask.paste(unknown.crop(box), box[:2])
        if self.edit.mask_blur:
            mask = mask.filter(ImageFilter.GaussianBlur(self.edit.mask_blur))
        drawn_mask = mask.resize(self.size, Image.Resampling.BILINEAR, box)
        starts = [
            start_of(
                image.resize(self.size, Image.Resampling.LANCZOS, box),
                drawn_mask,
                self.edit,
                Canvas(image, mask, box, self.edit.level),
            )
            for image in images
        ]
        return Start(
            tuple(start.images[0] for start in starts),
            self.edit.strength,
            drawn_mask,
            starts[0].noise,
            tuple(start.canvases[0] for start in starts),
            self.edit.mask_resampling,
            self.edit.mask_guidance,
        )


def outpainting(
    image: Image.Image, margins: Box, edit: Edit, size: tuple[int, int], times: int = 1
) -> Outpainting:
    """Return how an RGB image grows by `margins` (left, top, right, bottom) in windows of `size`,
    of which each comes out `times` as large."""
    left, top, right, bottom = margins
    whole = image.width + left + right, image.height + top + bottom
    known = (left, top, left + image.width, top + image.height)
    canvas, unknown = Image.new("RGB", whole), Image.new("L", whole, 255)
    canvas.paste(image, known)
    unknown.paste(0, known)
    left_to_do, windows = unknown.copy(), []
    for box in _windows(whole, known, (size[0] * times, size[1] * times)):
        if left_to_do.crop(box).getbbox() is not None:
            windows.append(box)
            left_to_do.paste(0, box)
    assert left_to_do.getbbox() is None, "the windows leave nothing out"
    return Outpainting(canvas, unknown, edit, size, tuple(windows))


def _windows(canvas: tuple[int, int], known: Box, size: tuple[int, int]) -> list[Box]:
    """Return boxes of the shape of `size` that uncover a canvas from what is known outwards: first
    to the left and right of it, then above and below. Each adds half of itself at most."""
    scale = min(1, canvas[0] / size[0], canvas[1] / size[1])
    across, down = (max(1, round(side * scale)) for side in size)
    left, top, right, bottom = known
    columns = _outwards(left, right, canvas[0], across)
    beside = [(x, y) for x in columns for y in _along(top, bottom, canvas[1], down)]
    rows = _outwards(top, bottom, canvas[1], down)
    above = [(x, y) for y in rows for x in _along(0, canvas[0], canvas[0], across)]
    return [(x, y, x + across, y + down) for x, y in (*beside, *above)]


def _outwards(low: int, high: int, end: int, length: int) -> list[int]:
    """Return where windows begin that extend the interval low..high to 0..end."""
    found, most = [], max(1, length // 2)
    for margin, is_before in ((low, True), (end - high, False)):
        parts = math.ceil(margin / most)
        for part in range(1, parts + 1):
            grown = round(margin * part / parts)
            begins = low - grown if is_before else high + grown - length
            found.append(min(max(0, begins), end - length))
    return found


def _along(low: int, high: int, end: int, length: int) -> list[int]:
    """Return where windows begin that cover low..high, each half over the one before it."""
    more = high - low - length
    if more <= 0:
        return [min(max(0, low + more // 2), end - length)]
    parts = math.ceil(more / max(1, length // 2))
    return [low + round(more * part / parts) for part in range(parts + 1)]


class OutpaintingDraft(Draft):
    """Candidates that grow window by window, each of which is a draft of a pipeline.

    A candidate that fails in a window stays as it was there, and is in `failed` at the end.
    """

    def __init__(self, plan: Outpainting, begin: Begin, seeds: Sequence[int]) -> None:
        """Begin the first window; `begin` gives the draft of a window, with what enlarges it."""
        self._plan, self._begin = plan, begin
        self._place = 0
        self._lost: dict[int, str] = {}
        self._images = [plan.image] * len(seeds)
        self._inner = begin(seeds, plan.start(0, self._images[:1]))
        super().__init__(seeds, plan.image.size, self._inner._device)
        self.unit = self._inner.unit

    @property
    def total(self) -> int:
        """Steps of all windows."""
        return len(self._plan.windows) * self._inner.total

    @property
    def done(self) -> int:
        """Steps so far."""
        return self._place * self._inner.total + self._inner.done

    def preview(
        self, indices: Sequence[int] | None = None, exact: bool = False
    ) -> list[Image.Image | None] | None:
        """Return the whole images with the window in progress, as its draft shows it."""
        shown = self._inner.preview(indices, exact)
        if shown is None and self._place > 0:
            places = range(len(self.seeds)) if indices is None else indices
            return [self._images[i] for i in places]
        return shown

    def completed(self) -> list[torch.Tensor | None]:
        """Return the whole images with the window in progress."""
        shown = self.preview(exact=True)
        if shown is None:
            raise RuntimeError("before the first step there is nothing to complete")
        return [None if image is None else to_pixels(image) for image in shown]

    def close(self) -> None:
        """Free all memory."""
        super().close()
        self._inner.close()
        self._images = []

    def _advance(self, count: int) -> None:
        before = copy.copy(self._inner), self._place, self._images, dict(self._lost)
        try:
            end = self.done + count
            while self.done < end:  # a window may begin with steps that are done
                if self._inner.done == self._inner.total:
                    self._go_on()
                self._inner.step()
        except BaseException:
            self._inner, self._place, self._images, self._lost = before
            raise

    def _go_on(self) -> None:
        """Begin the next window from what has come of the last one."""
        images = self._inner.images()
        lost = dict(zip(self._inner.seeds, self.seeds, strict=True))
        place = self._place + 1
        whole = [old if new is None else new for old, new in zip(self._images, images, strict=True)]
        inner = self._begin(self._seeds_of(place, self.seeds), self._plan.start(place, whole))
        self._lost |= {lost[seed]: reason for seed, reason in self._inner.failed.items()}
        self._inner, self._place, self._images = inner, place, whole

    def _seeds_of(self, place: int, seeds: Sequence[int]) -> list[int]:
        return [(seed + place * SEEDS_APART) % (MAX_SEED + 1) for seed in seeds]

    def _cut(self, indices: Sequence[int]) -> None:
        self._inner.keep(indices)
        self._images = [self._images[i] for i in indices]

    def _halve(self, first: Self, second: Self, middle: int) -> None:
        first._inner, second._inner = self._inner.split()
        first._images, second._images = self._images[:middle], self._images[middle:]
        first._forget_all_but(self.seeds[:middle])
        second._forget_all_but(self.seeds[middle:])

    def _append(self, other: Self) -> None:
        self._inner.join(other._inner)
        self._images = [*self._images, *other._images]
        self._lost |= other._lost

    def _copy_rows(self, indices: Sequence[int], seeds: Sequence[int | None]) -> None:
        own = self._inner.seeds
        renewed = [
            own[i] if seed is None else self._seeds_of(self._place, [seed])[0]
            for i, seed in zip(indices, seeds, strict=True)
        ]
        self._inner.branch(indices, renewed)
        self._images = [self._images[i] for i in indices]

    def _decode(self, indices: Sequence[int]) -> list[torch.Tensor | None]:
        images = self._inner.images()
        decoded: list[torch.Tensor | None] = []
        for i in indices:
            seed, image = self.seeds[i], images[i]
            reason = self._lost.get(seed, self._inner.failed.get(self._inner.seeds[i]))
            if image is None or seed in self._lost:
                self.failed[seed] = str(reason)
                decoded.append(None)
            else:
                decoded.append(to_pixels(image).to(self._device))
        return decoded
