"""The contract of every pipeline: drafts, and what all of them do alike.

A `Draft`, our one coined term, is a batch of candidates in progress: begun from one prompt with a
seed each, taken forward step by step, looked at, thinned out, cut in half, and at last turned into
images. The engine, search and editing are written against it and know no network.
"""

import copy
import itertools
from collections.abc import Callable, Sequence
from typing import Any, Protocol, Self

import torch
from PIL import Image

from pipelines.checkpoints.specs import Spec
from pipelines.editing import Canvas, Start
from pipelines.runtime.devices import is_out_of_memory

MAX_SEED = 2**63 - 1
Enlarge = Callable[[torch.Tensor], torch.Tensor]  # uint8 (B, 3, H, W) → (B, 3, s × H, s × W)
# More images at a time than this many pixels cost memory and bring no speed.
CHUNK_PIXELS = 2**20


class Draft:
    """Candidates in progress, as one batch; every list follows the order of `seeds`.

    `failed` says, by seed, why a candidate has no image. A draft owns its noise and its scheduler,
    so drafts of one pipeline may take turns. A family supplies `done`, `_advance`, `_cut`,
    `_append`, `_copy_rows`, `_decode` and `preview`; noise comes from each candidate's own
    generator, so that batch and device change nothing but rounding.
    """

    enlarge: Enlarge | None = None  # what finished images go through, before they are laid
    log_likelihoods: list[float] | None = None  # of tokens so far, in nats; None without tokens
    unit = "step"

    def __init__(
        self,
        seeds: Sequence[int],
        size: tuple[int, int],
        device: torch.device,
        start: Start | None = None,
    ) -> None:
        """Begin with these seeds, to draw images of `size` (width, height)."""
        self.failed: dict[int, str] = {}
        self._seeds: tuple[int, ...] | None = tuple(seeds)  # None when closed
        self._canvases: dict[int, Canvas] = {}  # by seed, what its image is laid on
        if start is not None and start.canvases:
            size = start.result_size
            canvases = start.canvases * (len(seeds) if len(start.canvases) == 1 else 1)
            self._canvases = dict(zip(seeds, canvases, strict=True))
        self._blank = (3, size[1], size[0])  # of an image, for batches without any
        self._device = device
        self._pixels: dict[int, torch.Tensor] = {}  # seed → uint8 (3, H, W)

    @property
    def seeds(self) -> tuple[int, ...]:
        """The candidates still in."""
        if self._seeds is None:
            raise RuntimeError("this draft is closed")
        return self._seeds

    @property
    def total(self) -> int:
        """Steps in all: evaluations of a network, or image tokens."""
        raise NotImplementedError

    @property
    def done(self) -> int:
        """Steps so far."""
        raise NotImplementedError

    def step(self, count: int = 1) -> None:
        """Go on by `count` steps, or fewer if the draft is done before that.

        If it raises (memory, Ctrl-C), the draft is as it was before the call, noise included.
        """
        if count < 1:
            raise ValueError(f"count is {count}; it must be at least 1")
        self._advance(min(count, self.total - self.done))
        self.failed = {}  # what a preview found may not hold for the image

    def preview(
        self, indices: Sequence[int] | None = None, exact: bool = False
    ) -> list[Image.Image | None] | None:
        """Return what the candidates will look like, as far as is known; None if nothing is.

        Cheap and rough, or with `exact` by the real decoder. A candidate whose values are not
        finite is None in the list.
        """
        raise NotImplementedError

    def completed(self) -> list[torch.Tensor | None]:
        """Return what a scorer can make most of by now: whole images, uint8 (3, H, W) each.

        One that is not finite, or must not be shown, is None. Raises RuntimeError before the first
        step.
        """
        raise NotImplementedError

    def keep(self, indices: Sequence[int]) -> None:
        """Keep only these candidates, also in memory. Raises ValueError unless `indices` rise."""
        check_indices(indices, len(self.seeds))
        self._cut(indices)
        self._forget_all_but([self.seeds[i] for i in indices])

    def split(self) -> tuple[Self, Self]:
        """Return two drafts of half the candidates each; this one closes.

        Raises ValueError if there is one candidate only.
        """
        N = len(self.seeds)
        if N < 2:
            raise ValueError("one candidate cannot be split")
        first, second = copy.copy(self), copy.copy(self)
        self._halve(first, second, N // 2)
        self.close()
        return first, second

    def join(self, other: Self) -> None:
        """Take in the candidates of another draft of the same prompt and settings; it closes.

        The opposite of `split`. Raises ValueError unless both are equally far, with other seeds.
        """
        if self.done != other.done:
            raise ValueError(f"a draft at {self.unit} {self.done} cannot join one at {other.done}")
        check_seeds([*self.seeds, *other.seeds])
        self._append(other)
        self._seeds = (*self.seeds, *other.seeds)
        self._pixels |= other._pixels
        self.failed |= other.failed
        self._canvases |= other._canvases
        other.close()

    def branch(self, indices: Sequence[int], seeds: Sequence[int]) -> None:
        """Go on with copies of these candidates, each with the noise of the seed beside it.

        The same index may come several times. A copy that has its candidate's own seed goes on
        with its noise, so that it is the same candidate; another one's image is the same up to
        here. Raises ValueError for seeds that are not different.
        """
        check_seeds(seeds)
        if len(indices) != len(seeds) or not all(0 <= i < len(self.seeds) for i in indices):
            raise ValueError(f"{list(indices)} are not candidates for {len(seeds)} seeds")
        own = [self.seeds[i] for i in indices]
        renewed = [None if s == before else s for s, before in zip(seeds, own, strict=True)]
        self._copy_rows(indices, renewed)
        self._canvases = {
            s: self._canvases[before]
            for s, before in zip(seeds, own, strict=True)
            if before in self._canvases
        }
        self._seeds, self._pixels, self.failed = tuple(seeds), {}, {}

    def images(self) -> list[Image.Image | None]:
        """Return the finished images; None for those in `failed`.

        Raises RuntimeError before the last step.
        """
        self._finish()
        pixels = [self._pixels.get(seed) for seed in self.seeds]
        return [None if each is None else to_image(each) for each in pixels]

    def pixels(self) -> torch.Tensor:
        """Return the finished images as uint8 (M, 3, H, W) on the pipeline's device.

        One row per seed that is not in `failed`, in the order of `seeds`: M may be less than N.
        Raises RuntimeError before the last step.
        """
        self._finish()
        rows = [self._pixels[seed] for seed in self.seeds if seed in self._pixels]
        if rows:
            return torch.stack(rows)
        return torch.empty((0, *self._blank), dtype=torch.uint8, device=self._device)

    def close(self) -> None:
        """Free all memory. A closed draft can only be closed again."""
        self._seeds = None
        self._pixels = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _advance(self, count: int) -> None:
        """Go on by exactly `count` steps, or raise with nothing changed."""
        raise NotImplementedError

    def _cut(self, indices: Sequence[int]) -> None:
        """Cut every tensor and list that has a row per candidate down to these rows."""
        raise NotImplementedError

    def _append(self, other: Self) -> None:
        """Put the rows of another draft behind one's own, in every tensor and list of `_cut`."""
        raise NotImplementedError

    def _copy_rows(self, indices: Sequence[int], seeds: Sequence[int | None]) -> None:
        """Put copies of rows in place of all, with new noise from here on where there is a seed."""
        raise NotImplementedError

    def _decode(self, indices: Sequence[int]) -> list[torch.Tensor | None]:
        """Return the finished images of some candidates, uint8 (3, H, W) each.

        One that cannot be shown is None, and the reason is in `failed`.
        """
        raise NotImplementedError

    def _halve(self, first: Self, second: Self, middle: int) -> None:
        """Make two copies of this draft its halves."""
        first.keep(range(middle))
        second.keep(range(middle, len(self.seeds)))

    def _forget_all_but(self, seeds: Sequence[int]) -> None:
        self._seeds = tuple(seeds)
        self._pixels = {s: p for s, p in self._pixels.items() if s in seeds}
        self._canvases = {s: c for s, c in self._canvases.items() if s in seeds}
        self.failed = {s: reason for s, reason in self.failed.items() if s in seeds}

    def _finish(self) -> None:
        """Make the images that are not made yet."""
        if self.done < self.total:
            raise RuntimeError(f"the draft is at {self.unit} {self.done} of {self.total}, not done")
        made = self._pixels.keys() | self.failed.keys()
        missing = [i for i, seed in enumerate(self.seeds) if seed not in made]
        if not missing:
            return
        for i, pixels in zip(missing, self._decode(missing), strict=True):
            if pixels is None:
                continue
            seed = self.seeds[i]
            if self.enlarge is not None:
                pixels = self.enlarge(pixels[None])[0]
            if seed in self._canvases:
                whole = self._canvases[seed].lay(to_image(pixels))
                pixels = to_pixels(whole).to(pixels.device)
            self._pixels[seed] = pixels

    def _laid(
        self, seeds: Sequence[int], images: list[Image.Image | None], exact: bool
    ) -> list[Image.Image | None]:
        """Return images of some candidates laid on what an edit leaves as it is.

        With `exact` they are enlarged before, as the finished ones are.
        """
        if exact and (enlarge := self.enlarge) is not None:
            images = [i if i is None else to_image(enlarge(to_pixels(i)[None])[0]) for i in images]
        return [
            image
            if image is None or seed not in self._canvases
            else self._canvases[seed].lay(image)
            for seed, image in zip(seeds, images, strict=True)
        ]


class Pipeline(Protocol):
    """A loaded model: it begins drafts. `device`, `dtype` and `attention` say what really runs."""

    spec: Spec
    device: torch.device
    dtype: torch.dtype
    attention: str

    @property
    def begin(self) -> Any:
        """Start one candidate per seed: `begin(prompt, *, seeds, start, **settings) -> Draft`.

        `start`, for families that can, is what they begin from: what its mask keeps comes out as it
        went in, to the bit, and the size follows from it.
        Each family's own signature names the settings that it takes. Raises ValueError with the
        rule for a value that cannot be.
        """

    def token_count(self, prompt: str) -> int:
        """Return how many tokens a prompt has, before any cut."""

    def dropped_text(self, prompt: str) -> str:
        """Return the end of a prompt that is not read; "" if all of it is."""


def draw(draft: Draft) -> list[Image.Image | None]:
    """Return a draft's images, one per seed, all steps taken at once; None for those that failed.

    The draft closes.
    """
    with draft:
        while draft.done < draft.total:  # a stock pipeline may find out that there are more
            draft.step(draft.total - draft.done)
        return draft.images()


def complete(drafts: Sequence[Draft]) -> tuple[list[int], torch.Tensor]:
    """Return what scorers see of drafts half-way: seeds, and images (M, 3, H, W), uint8.

    Those that cannot be shown are left out, so M may be less than all candidates.
    """
    images = {
        seed: image
        for draft in drafts
        for seed, image in zip(draft.seeds, draft.completed(), strict=True)
        if image is not None
    }
    shown = torch.stack(list(images.values())) if images else torch.empty(0, 3, 1, 1)
    return list(images), shown


def check_seeds(seeds: Sequence[int]) -> None:
    """Raise ValueError unless there are seeds, different ones, within range."""
    if not seeds or len(set(seeds)) != len(seeds):
        raise ValueError(f"seeds must be one or more different numbers, not {list(seeds)}")
    if not all(0 <= seed <= MAX_SEED for seed in seeds):
        raise ValueError(f"a seed is a whole number from 0 to 2^63 - 1, not {list(seeds)}")


def check_indices(indices: Sequence[int], number: int) -> None:
    """Raise ValueError unless `indices` are some of `number` candidates and strictly increase."""
    inside = all(0 <= i < number for i in indices)
    increasing = all(a < b for a, b in itertools.pairwise(indices))
    if not indices or not inside or not increasing:
        raise ValueError(
            f"indices must strictly increase within 0 to {number - 1} and not be none, "
            f"not {list(indices)}"
        )


def in_chunks(
    rows: torch.Tensor,
    chunk: int,
    decode: Callable[[torch.Tensor], list[torch.Tensor | None]],
) -> list[torch.Tensor | None]:
    """Decode `rows` with `decode` about `chunk` at a time, or fewer where memory is short.

    Raises what `decode` raises for another reason, or for a single row.
    """
    chunk = max(1, chunk)
    images: list[torch.Tensor | None] = []
    while len(images) < len(rows):
        part = rows[len(images) : len(images) + chunk]
        try:
            images += decode(part)
        except Exception as error:
            if len(part) == 1 or not is_out_of_memory(error):
                raise
            chunk = len(part) // 2
    return images


def to_uint8(rgb: torch.Tensor) -> torch.Tensor:
    return (rgb.clamp(0, 1) * 255).round().to(torch.uint8)


def to_pixels(image: Image.Image) -> torch.Tensor:
    """Convert an RGB image to uint8 (3, H, W)."""
    pixels = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
    return pixels.view(image.height, image.width, 3).permute(2, 0, 1)


def to_image(pixels: torch.Tensor) -> Image.Image:
    """Convert uint8 (3, H, W) to a PIL image."""
    return Image.fromarray(pixels.permute(1, 2, 0).cpu().numpy())
