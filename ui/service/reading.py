"""Reading what strangers send, in a process of its own that is ended when it takes too long.

Parsers written in C keep all threads of a process waiting while they work, and none of them can be
told to stop. So large bodies and images are read elsewhere, and this process only waits for it.
"""

import contextlib
import multiprocessing
import resource
from collections.abc import Callable
from multiprocessing.connection import Connection
from threading import Lock
from typing import Any, TypeVar

from gen.errors import InputError

SECONDS = 10.0  # that reading one thing may take
START_SECONDS = 60.0
MEMORY = 3_000_000_000  # bytes of addresses that the process may have
CANNOT = "this cannot be read within {:.0f} s and {:.0f} GB: send less at once"

T = TypeVar("T")


class Reader:
    """Runs functions in a process of its own, one at a time, each with a deadline.

    The functions belong to modules, and what they take and return can be pickled. The process is
    begun when it is first needed, and again after it was ended.
    """

    def __init__(self, seconds: float = SECONDS) -> None:
        self.seconds = seconds
        self._turn = Lock()
        self._process: Any = None
        self._pipe: Connection | None = None
        self._closed = False

    def read(self, function: Callable[..., T], *arguments: Any) -> T:
        """Return what a function makes of its arguments.

        Raises InputError if it takes too long or too much memory, or if the server is ending, and
        what the function raises.
        """
        with self._turn:
            try:
                pipe = self._begun()
                pipe.send((function, arguments))
                _receive(pipe, START_SECONDS)  # that it begins: a new process has to import first
                is_done, value = _receive(pipe, self.seconds)
            except (OSError, EOFError) as error:  # it took too long, or it died of its input
                self._end()
                raise InputError(CANNOT.format(self.seconds, MEMORY / 1e9)) from error
        if not is_done:
            raise value
        return value

    def close(self) -> None:
        """End the process, whatever it is reading; nothing is read from then on."""
        self._closed = True
        if self._process is not None:
            self._process.kill()

    def _begun(self) -> Connection:
        if self._closed:
            raise EOFError
        if self._pipe is None:
            self._pipe, theirs = multiprocessing.Pipe()
            # Not forked: a copy of this process would hold its locks, its ports and its models.
            context = multiprocessing.get_context("spawn")
            self._process = context.Process(target=_serve, args=(theirs,), daemon=True)
            self._process.start()
            theirs.close()
        return self._pipe

    def _end(self) -> None:
        if self._pipe is not None:
            self._process.kill()
            self._process.join()
            self._pipe.close()
            self._process = self._pipe = None


def _receive(pipe: Connection, seconds: float) -> Any:
    if not pipe.poll(seconds):
        raise TimeoutError
    return pipe.recv()


def _serve(pipe: Connection) -> None:
    """Do what comes through the pipe until it is closed."""
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    with contextlib.suppress(ValueError, OSError):  # where there is a lower limit already
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, hard))
    while True:
        try:
            function, arguments = pipe.recv()
        except EOFError:
            return
        pipe.send("begun")
        try:
            answer = True, function(*arguments)
        except MemoryError:
            return
        except Exception as error:  # parsers raise whatever they meet in a damaged file
            answer = False, error
        try:
            pipe.send(answer)
        except Exception:  # an error that cannot be pickled
            pipe.send((False, InputError("it cannot be read")))
