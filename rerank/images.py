"""Many images: those of a folder, and streams of them that threads decode ahead."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, TypeVar

if TYPE_CHECKING:
    import torch

    from rerank.model.preprocessing import ImageLike

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp"})
DECODERS = os.cpu_count() or 4  # threads
AHEAD = 64  # images that wait, decoded, for their turn

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Encoded:
    """Images as the model sees them, to be scored any number of times.

    features  (N, D) of length 1, on the model's device; nan where an image failed
    failed    index → why, for images that could not be read
    """

    features: "torch.Tensor"
    failed: dict[int, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.features)


# A folder, whose images are taken sorted by name; any iterable, read once; one tensor.
Images: TypeAlias = "Iterable[ImageLike] | torch.Tensor | str | os.PathLike[str] | Encoded"


def list_images(folder: str | os.PathLike[str], *, deep: bool = False) -> list[Path]:
    """Return the image files of a folder, sorted; `deep` takes those of its folders too.

    Told by their suffix; hidden ones are left out. Raises ValueError for what is not a folder, and
    for a folder without any.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"{folder}: not a folder; images are a list of images, not one")
    found = sorted(
        path
        for path in (folder.rglob("*") if deep else folder.iterdir())
        if path.suffix.lower() in SUFFIXES
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )
    if not found:
        raise ValueError(f"{folder}: no images ({', '.join(sorted(SUFFIXES))}) in this folder")
    return found


def ahead(
    items: Iterable[Item], work: Callable[[Item], Result], errors: type[Exception]
) -> Iterator[Result | Exception]:
    """Return the results of `work` in the order of the items, made by threads a little ahead.

    Exceptions of the kind `errors` take the place of their result; others are raised. At most AHEAD
    items are in memory, however many there are.
    """

    def outcome(item: Item) -> Result | Exception:
        try:
            return work(item)
        except errors as error:
            return error

    pool = ThreadPoolExecutor(DECODERS, thread_name_prefix="decode")
    return in_threads(pool, items, outcome, AHEAD)


def in_threads(
    pool: ThreadPoolExecutor, items: Iterable[Item], work: Callable[[Item], Result], most: int
) -> Iterator[Result]:
    """Return the results of `work` in the order of the items, of which at most so many are in
    memory.

    Shuts the pool down at the end.
    """
    waiting: deque[Future[Result]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) >= most:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
