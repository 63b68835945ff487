"""Threads take turns: those that draw on one CPU at each step, those that have workers draw."""

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

    def pass_on(self) -> None:
        """Let those that wait have their turn, and take the next; nothing if nobody has one."""
        if self._turn.locked():
            self.__exit__()
            self.__enter__()


ON_CPU = Turns()
