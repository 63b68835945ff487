"""Many images: those of a folder, and streams of them that threads decode ahead."""

import os
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, TypeAlias, TypeVar

if TYPE_CHECKING:
    import torch

    from rerank.model.preprocessing import ImageLike

SUFFIXES = frozenset(
    {".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif"}
)
HEIC_SUFFIXES = frozenset({".heic", ".heif"})  # with the extra `heic`
# Images that are not read, and are counted so that nobody looks for them in vain.
OTHER_SUFFIXES = frozenset(
    {".svg", ".jxl", ".jp2", ".psd", ".xcf", ".tga", ".ico", ".exr", ".hdr", ".dng", ".raw",
     ".cr2", ".cr3", ".nef", ".arw", ".orf", ".raf", ".rw2", ".pbm", ".pgm", ".ppm"}
)  # fmt: skip
CONTACT_SHEET = b"Contact sheet by Salon"  # near the beginning or the end of such a file
LOOKED_AT = 512  # bytes of each
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

    Told by their suffix; hidden ones and Salon's contact sheets are left out. Raises ValueError for
    what is not a folder, and for a folder without any.
    """
    suffixes = _read_suffixes()
    files = _files(Path(folder), deep)
    found = sorted(path for path in files if path.suffix.lower() in suffixes)
    if images := [path for path in found if not _is_contact_sheet(path)]:
        return images
    what = "nothing but contact sheets" if found else f"no images ({', '.join(sorted(suffixes))})"
    also = ", ".join(count_unread(folder, deep=deep))
    raise ValueError(f"{folder}: {what} in this folder" + (f"; not read: {also}" if also else ""))


def is_image(path: PurePath) -> bool:
    """Return whether a file has the name of an image that is read, and is not hidden."""
    return path.suffix.lower() in _read_suffixes() and not path.name.startswith(".")


def count_unread(folder: str | os.PathLike[str], *, deep: bool = False) -> list[str]:
    """Say what images of a folder `list_images` leaves out for their format, as in "3 .svg"."""
    counts = Counter(path.suffix.lower() for path in _files(Path(folder), deep))
    unread = (OTHER_SUFFIXES | HEIC_SUFFIXES) - _read_suffixes()
    return [
        f"{counts[suffix]} {suffix}"
        + (" (pip install 'salon[heic]')" if suffix in HEIC_SUFFIXES else "")
        for suffix in sorted(unread & counts.keys())
    ]


def _files(folder: Path, deep: bool) -> Iterator[Path]:
    """Yield what is in a folder but for what is hidden. Raises ValueError where there is none."""
    if not folder.is_dir():
        raise ValueError(f"{folder}: not a folder; images are a list of images, not one")
    for path in folder.rglob("*") if deep else folder.iterdir():
        if not any(part.startswith(".") for part in path.relative_to(folder).parts):
            yield path


def _read_suffixes() -> frozenset[str]:
    """Return the suffixes of the formats that can be read here."""
    return SUFFIXES if find_spec("pillow_heif") is None else SUFFIXES | HEIC_SUFFIXES


def _is_contact_sheet(path: Path) -> bool:
    """Return whether Salon drew this file as a contact sheet of others.

    Those of earlier versions carry no mark; in a run folder they are known by their name.
    """
    if path.name == "sheet.png" and path.with_name("manifest.jsonl").is_file():
        return True
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            for start in {0, max(0, size - LOOKED_AT)}:
                file.seek(start)
                if CONTACT_SHEET in file.read(LOOKED_AT):
                    return True
    except OSError:  # whoever reads it says what is wrong with it
        pass
    return False


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
