"""What the commands share: flags that are misspelt, and streams that close or fill up."""

import argparse
import difflib
import errno
import io
import math
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NoReturn, TextIO

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # what a full disk says
FULL_IN_RUST = tuple(f"(os error {number})" for number in FULL)  # as safetensors says it


class UsageError(ValueError):
    """Words of a command line that make no sense. Exit code 2."""


class Parser(argparse.ArgumentParser):
    """Raises UsageError, in one line, where argparse would print its usage and end the program."""

    def error(self, message: str) -> NoReturn:
        """Raise the message as an error like any other."""
        is_of_one = message.startswith("argument ")  # and says what it takes
        raise UsageError(message if is_of_one else f"{message} (--help shows all options)")

    def _print_message(self, message: str, file: Any = None) -> None:
        """Print help and version as any other output: a disk may be full, a pipe closed."""
        if message and file in (None, sys.stderr):
            complain(message.rstrip("\n"))
        elif message:
            write(message, end="")

    def parse_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> Any:
        """Return what the words say; UsageError for unknown ones, with the flag that was meant."""
        return self.parse_known_args(args, namespace)[0]

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> tuple[Any, list[str]]:
        """Do as `parse_args`: a step's own parser is asked this way, and knows its flags."""
        found, unknown = super().parse_known_args(args, namespace)
        if unknown:
            word = unknown[0].partition("=")[0]
            what = "no option" if word.startswith("-") else "no place here for"
            self.error(f"{what} {word!r}{did_you_mean(word, self._option_string_actions)}")
        return found, []


def above_zero(kind: type[int] | type[float], or_zero: bool = False) -> Callable[[str], float]:
    """Return what reads a flag's value as a finite number above 0, or 0 itself."""

    def read(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            value = -1
        if not (0 < value < math.inf or (or_zero and value == 0)):
            what = "a whole number" if kind is int else "a number"
            least = "from 0 on" if or_zero else "above 0"
            raise argparse.ArgumentTypeError(f"{text!r} is not {what} {least}")
        return value

    return read


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return " (did you mean …?)" for a word that is nearly a known one, else ""."""
    by_lower = {name.lower(): name for name in known}
    close = difflib.get_close_matches(word[:80].lower(), by_lower, n=1, cutoff=0.7)
    return f" (did you mean {by_lower[close[0]]}?)" if close else ""


def is_full(error: BaseException) -> bool:
    """Return whether an error says that there is no room on a disk, be it no OSError."""
    return getattr(error, "errno", None) in FULL or str(error).endswith(FULL_IN_RUST)


def prepare_streams() -> None:
    """Let what a terminal cannot show be written as escapes: it is no error."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # None where it is closed
            stream.reconfigure(errors="backslashreplace")


def write(text: str, end: str = "\n") -> None:
    """Write to standard output. That nobody reads it any more is no reason to stop working.

    Raises OSError, which names the stream, where it is a file on a full disk.
    """
    if sys.stdout is None:
        return
    try:
        print(text, end=end, flush=True)
    except BrokenPipeError:
        _close(sys.stdout)
    except OSError as error:
        _close(sys.stdout)
        raise OSError(error.errno, error.strerror, "standard output") from error


def complain(line: str) -> None:
    """Write a line to standard error; where that cannot be, there is nobody to tell."""
    if sys.stderr is None:
        return
    try:
        print(line, file=sys.stderr, flush=True)
    except OSError:
        _close(sys.stderr)


def _close(stream: TextIO) -> None:
    """Let what is still to be written to a stream go nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)
