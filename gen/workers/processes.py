"""A crew of processes of this machine.

Each has one end of a socket: tasks come in, reports go out. When the other end closes, because the
driver is through or was killed, it ends at once, so that none stays behind.
"""

import os
import queue
import subprocess
import sys
import threading
import traceback
from collections.abc import Collection, Mapping
from contextlib import suppress
from multiprocessing.connection import Connection, Pipe, wait
from typing import Any

from gen.events import Cancel, Event, Note
from gen.models import Models
from gen.workers.crews import Failed, Finished, Lost, Report, Stepped, Told
from gen.workers.tasks import Step, Task, carry_out

STOP, FINISH = "stop", "finish"
END_SECONDS = 10  # for a process that was killed
BEGIN = "import sys; from gen.workers.processes import work; work(int(sys.argv[1]))"


class Processes:
    """Processes with models of their own; `fields` are those of each one's `Models`."""

    def __init__(self, fields: list[Mapping[str, Any]]) -> None:
        self.size = len(fields)
        self._fields = fields
        self._workers = [_start(own) for own in fields]

    def is_there(self, worker: int) -> bool:
        """Return True: it takes tasks while it starts."""
        return True

    def submit(self, worker: int, number: int, task: Task) -> None:
        """Send a task; that a worker has ended is seen while waiting."""
        with suppress(OSError):
            self._workers[worker][1].send((number, task))

    def wait(self, seconds: float) -> list[Report]:
        """Return what was reported within so many seconds."""
        places = {connection: i for i, (_, connection) in enumerate(self._workers)}
        reports: list[Report] = []
        for ready in wait(list(places), seconds):
            assert isinstance(ready, Connection)
            worker = places[ready]
            try:
                reports.append(_numbered(worker, ready.recv()))
            except (EOFError, OSError):
                reports.append(Lost(worker, _reason(self._workers[worker][0])))
        return reports

    def replace(self, worker: int) -> None:
        """Kill a worker and start another."""
        _end(*self._workers[worker])
        self._workers[worker] = _start(self._fields[worker])

    def cancel(self, tasks: Collection[int], *, finish: bool) -> None:
        """Tell all workers."""
        for _, connection in self._workers:
            with suppress(OSError):
                connection.send((FINISH if finish else STOP, set(tasks)))

    def close(self) -> None:
        """Kill all workers."""
        while self._workers:
            _end(*self._workers.pop())


def _start(fields: Mapping[str, Any]) -> tuple["subprocess.Popen[bytes]", Connection]:
    ours, theirs = Pipe()
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-c", BEGIN, str(theirs.fileno())],
            stdin=subprocess.DEVNULL,
            pass_fds=[theirs.fileno()],
            process_group=0,  # Ctrl-C is for the driver, which ends the others
        )
    ours.send(fields)
    return process, ours


def _end(process: "subprocess.Popen[bytes]", connection: Connection) -> None:
    connection.close()
    process.kill()
    with suppress(subprocess.TimeoutExpired):
        process.wait(END_SECONDS)


def _reason(process: "subprocess.Popen[bytes]") -> str:
    """Say how a process has ended that does not answer any more."""
    try:
        code = process.wait(END_SECONDS)
    except subprocess.TimeoutExpired:
        return "does not answer"
    if code == -9:
        return "was killed, perhaps as memory was short"
    return f"was ended by signal {-code}" if code < 0 else f"has ended with exit code {code}"


def _numbered(worker: int, message: tuple[Any, ...]) -> Report:
    """Return what a worker has sent as a report of its."""
    kind, *values = message
    made: Report = kind(worker, *values)
    return made


# ---- in the worker


def answer(models: Models, number: int, task: Task, cancel: Cancel, send: Any) -> tuple[Any, ...]:
    """Do a task; return a kind of report and what belongs to it, but for the worker."""

    def watch(event: Event) -> None:
        if isinstance(event, Note):
            send((Told, event.text))

    def on_step(step: Step) -> None:
        send((Stepped, number, step))

    try:
        return Finished, number, carry_out(models, task, watch, cancel, on_step)
    except Exception as error:
        kind = type(error).__name__
        known = kind in ("InputError", "RoomError", "WeightsError")
        return Failed, number, kind if known else "", str(error) if known else _trace(error)


def _trace(error: Exception) -> str:
    return "".join(traceback.format_exception(error)).strip()


def work(socket: int) -> None:
    """Be a worker until the other end of the socket closes."""
    connection = Connection(socket)
    models = Models(**connection.recv())
    tasks: queue.SimpleQueue[tuple[int, Task, Cancel]] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(connection, tasks), daemon=True).start()
    with suppress(BrokenPipeError, ConnectionResetError):  # nobody waits for it any more
        while True:
            number, task, cancel = tasks.get()
            connection.send(answer(models, number, task, cancel, connection.send))


def _listen(connection: Connection, tasks: "queue.SimpleQueue[tuple[int, Task, Cancel]]") -> None:
    given: dict[int, Cancel] = {}
    while True:
        try:
            what, more = connection.recv()
        except (EOFError, OSError):
            os._exit(0)
        if what in (STOP, FINISH):
            for cancel in (own for number, own in given.items() if number in more):
                cancel.stop() if what == STOP else cancel.finish_now()
        else:
            given = dict([*given.items()][-9:])  # a worker has fewer at a time
            given[what] = Cancel()
            tasks.put((what, more, given[what]))
