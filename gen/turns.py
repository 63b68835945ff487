"""Threads that draw on one CPU take turns: all cores at one step, then all at another's."""

import threading


class Turns:
    """A lock that goes round: who has had a turn waits behind those that wait already.

    Two networks at once on the same cores wait for each other in every layer, and take more than
    the time of one after the other.
    """

    def __init__(self) -> None:
        self._next = threading.Lock()
        self._turn = threading.Lock()

    def __enter__(self) -> None:
        with self._next:  # whoever holds this waits for the turn; the last one waits behind
            self._turn.acquire()

    def __exit__(self, *_: object) -> None:
        self._turn.release()


ON_CPU = Turns()
