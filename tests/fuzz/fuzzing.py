"""What every parser of text or bytes from outside is tried with.

A parser either reads an input or refuses it with one of the errors that it says, and takes at most
`LIMIT` of a second for `SIZE` bytes. To add one, write it into a file of `targets/`, one file for
each room of the project:

    PARSERS = [
        Parser(
            name="the metadata of an image",
            read=lambda data: metadata.read_bytes(data),
            refuses=(InputError,),
            signs=(b"parameters", b"Steps: ", b"\\x00", b"{", b'"', b","),
            examples=(b"a fox\\nSteps: 20, Seed: 1",),
        ),
    ]

`signs` are what means something in the grammar, as text or as bytes, which says what `read` is
given; `examples` are good inputs. From both follow the inputs of the tests: each sign and each pair
of signs until `SIZE` is full, brackets around brackets, good inputs repeated, with each value of
their JSON exchanged for odd ones, and changed by chance (`mutating.py`) and by hypothesis. An input
that once broke a parser goes to `corpus/NAME/` as a file, with words for spaces in NAME joined by
hyphens; `find_cases` reads them for all tests.

`pytest tests/fuzz` tries a part of it within a minute; `make fuzz` goes on for an hour.
"""

import importlib
import itertools
import json
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

from hypothesis import strategies as st
from odd_values import VALUES

SIZE = 10_000  # bytes of an input
LIMIT = 0.05  # seconds of the processor for one
HANGS = 20  # seconds after which a parser is stopped
SECONDS = float(os.environ.get("FUZZ_SECONDS", "30"))  # for all parsers together
HERE = Path(__file__).parent
SAID = "a fox in the snow, "


class Trial(NamedTuple):
    """What came of an input: the seconds of the processor, and the way in which it was answered."""

    seconds: float
    way: str


@dataclass(frozen=True)
class Parser:
    """Something that reads what a stranger sends.

    `files` is for a reader that wants a path: its inputs are bytes, and `read` is given a file that
    holds them, with this suffix.
    """

    name: str
    read: Callable[[Any], object]
    refuses: tuple[type[Exception], ...]
    signs: tuple[str | bytes, ...]
    examples: tuple[str | bytes, ...] = ()
    size: int = SIZE  # of the largest input that it is given
    suffix: str | None = None

    @property
    def takes_text(self) -> bool:
        """Whether `read` is given text."""
        return isinstance(self.signs[0], str)

    def trial(self, given: Any, folder: Path) -> Trial:
        """Return what came of an input, be it read or refused.

        Any other error than those that `refuses` names goes through.
        """
        if self.suffix is not None:
            path = folder / f"input{self.suffix}"
            path.unlink(missing_ok=True)  # one that is overwritten goes to the disk at once, slowly
            path.write_bytes(given)
            given = path
        with stopped_after(HANGS):
            begun = time.process_time()
            try:
                way = type(self.read(given)).__name__
            except self.refuses as error:
                way = place_of(error)
            return Trial(time.process_time() - begun, way)


def place_of(error: Exception) -> str:
    """Return the kind of an error and the line that raised it."""
    trace = error.__traceback__
    assert trace is not None
    while trace.tb_next is not None:
        trace = trace.tb_next
    code = trace.tb_frame.f_code
    return f"{type(error).__name__} in {Path(code.co_filename).name}:{trace.tb_lineno}"


def all_parsers() -> list[Parser]:
    """Return the parsers of every file in `targets/`."""
    modules = sorted(path.stem for path in (HERE / "targets").glob("*.py"))
    return [
        parser
        for module in modules
        for parser in importlib.import_module(f"targets.{module}").PARSERS
    ]


def files_below(folder: str, ending: str, most: int = SIZE) -> list[bytes]:
    """Return the real files of a folder of the project whose names end so, but for large ones."""
    paths = sorted((HERE.parents[1] / folder).rglob(f"*{ending}"))
    return [path.read_bytes() for path in paths if path.stat().st_size <= most]


def find_cases(parser: Parser) -> Iterator[Any]:
    """Yield the inputs that once broke a parser."""
    for path in sorted((HERE / "corpus" / parser.name.replace(" ", "-")).glob("*")):
        data = path.read_bytes()
        yield data.decode("utf-8", "surrogatepass") if parser.takes_text else data


def as_input(parser: Parser, text: str) -> Any:
    """Return a text as what a parser is given."""
    return text if parser.takes_text else as_bytes(text)


def as_bytes(given: str | bytes) -> bytes:
    """Return an input as bytes, half characters included."""
    return given.encode("utf-8", "surrogatepass") if isinstance(given, str) else given


def long_inputs(parser: Parser, pairs: int | None = None) -> Iterator[Any]:
    """Yield inputs of the largest size, made of the parser's signs and examples.

    With `pairs` only so many of the pairs of signs, always the same ones.
    """
    signs: list[Any] = [*parser.signs]
    signs += (
        [" ", "\n", "a", "é", "😀", SAID] if parser.takes_text else [b" ", b"\0", b"a", b"\xff"]
    )
    chosen = list(itertools.permutations(signs, 2))
    if pairs is not None and pairs < len(chosen):
        chosen = random.Random(0).sample(chosen, pairs)
    for sign in [*signs, *parser.examples]:
        yield _filled(sign, parser.size)
    for first, second in chosen:
        yield _filled(first + second, parser.size)
        half = parser.size // 2
        yield _filled(first, half) + _filled(second, half)


def odd_inputs(parser: Parser) -> Iterator[Any]:
    """Yield the lines of JSON among a parser's examples, with one value exchanged for an odd one.

    Other lines of the same example stay as they are.
    """
    for example in parser.examples:
        text = example if isinstance(example, str) else example.decode("utf-8", "replace")
        lines = [text] if is_json(text) else text.split("\n")
        for index, line in enumerate(lines):
            for odd in _exchanged(line) if is_json(line) else ():
                changed = "\n".join([*lines[:index], odd, *lines[index + 1 :]])
                yield changed if parser.takes_text else changed.encode()


def inputs(parser: Parser) -> st.SearchStrategy[Any]:
    """Return hypothesis's strategy for a parser's inputs: signs, examples and anything between."""
    empty: Any = "" if parser.takes_text else b""
    anything: st.SearchStrategy[Any] = (
        st.text(max_size=12) if parser.takes_text else st.binary(max_size=12)
    )
    known = st.sampled_from([*parser.signs, *parser.examples])
    repeated = st.builds(lambda sign, n: sign * n, known, st.integers(2, 60))
    mixed = st.lists(known | anything | repeated, max_size=30).map(empty.join)
    if not parser.examples:
        return mixed
    return mixed | st.builds(
        lambda example, place, new, width: example[:place] + new + example[place + width :],
        st.sampled_from(parser.examples),
        st.integers(0, 400),
        anything | known,
        st.integers(0, 12),
    )


@contextmanager
def stopped_after(seconds: float) -> Iterator[None]:
    """End a parser that hangs with TimeoutError."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise TimeoutError(f"still reading after {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def is_json(text: str) -> bool:
    """Return whether a text is a list or an object of JSON."""
    try:
        return isinstance(json.loads(text), dict | list)
    except (ValueError, RecursionError):
        return False


def _exchanged(text: str) -> Iterator[str]:
    """Yield a text of JSON with each of its values exchanged for each odd one, or left out."""
    mark = "\ue000"

    def marked(value: Any) -> Iterator[Any]:
        yield mark
        if not isinstance(value, dict | list):
            return
        for key in list(value) if isinstance(value, dict) else range(len(value)):
            for changed in marked(value[key]):
                copy = value.copy()
                copy[key] = changed
                yield copy
            copy = value.copy()
            del copy[key]
            yield copy

    for changed in marked(json.loads(text)):
        written = json.dumps(changed)
        place = json.dumps(mark)
        yield from (
            (written.replace(place, odd) for odd in VALUES) if place in written else (written,)
        )


def _filled(sign: Any, size: int) -> Any:
    """Repeat a sign until so many bytes are full."""
    length = len(sign.encode()) if isinstance(sign, str) else len(sign)
    return sign * max(1, size // length)
