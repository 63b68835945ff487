"""What the commands of `rerank` share: exit codes, a model, images, what is said meanwhile."""

import argparse
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.runtime import terminal
from rerank.images import Encoded, count_unread

if TYPE_CHECKING:
    from rerank.reranker import Reranker

DONE, BAD_INPUT, BAD_WEIGHTS, SOME_FAILED, NO_ROOM, INTERRUPTED = 0, 2, 3, 4, 5, 130
UNFORESEEN = 1


def load(options: argparse.Namespace, name: str) -> "Reranker":
    """Return the model of that name as the flags want it; what it warns of is a note."""
    from PIL import Image

    from pipelines.runtime.cpu import use_threads
    from rerank.reranker import Reranker

    use_threads(options.threads)

    # The library has its own, lower limit, which becomes one line per file.
    warnings.simplefilter("ignore", Image.DecompressionBombWarning)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        reranker = Reranker.load(
            name,
            options.device,
            exact=options.exact,
            processor=options.processor,
            calibration=getattr(options, "calibration", None),
        )
    for warning in caught:
        note(str(warning.message))
    return reranker


def encode(reranker: "Reranker", files: Sequence[Path], options: argparse.Namespace) -> Encoded:
    """Read images; those that cannot be read are in `.failed`."""
    with out_of_memory():
        return reranker.encode(files, progress=counter(options, len(files)), skip_bad=True)


@contextmanager
def out_of_memory() -> Iterator[None]:
    """Raise MemoryError for whatever a library raises when memory is short."""
    from pipelines.runtime.devices import is_out_of_memory

    try:
        yield
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise MemoryError from error
        raise


def counter(
    options: argparse.Namespace, total: int | None = None, what: str = "images"
) -> Callable[[int], None] | None:
    """Show how many are done, on a terminal."""
    if options.quiet or sys.stderr is None or not sys.stderr.isatty():
        return None
    of = "" if total is None else f" of {total}"

    def show(done: int) -> None:
        end = "\r\033[K" if done == total else ""
        print(f"\r{done}{of} {what}{end}", end="", file=sys.stderr, flush=True)

    return show


def tell_unread(folder: Path, *, deep: bool = False) -> None:
    """Say which images of a folder are in formats that are not read."""
    if unread := count_unread(folder, deep=deep):
        note(f"{folder}: not read: {', '.join(unread)}")


def note(line: str) -> None:
    """Say a line on standard error."""
    terminal.complain(f"rerank: {line}")
