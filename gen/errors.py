"""What can go wrong with a user's wish, as one line that says what, where and how to fix it."""

from pipelines.runtime.terminal import FULL, UsageError
from pipelines.settings import InputError

__all__ = ["FULL", "InputError", "RoomError", "UsageError"]


class RoomError(Exception):
    """No room: the disk or the memory is full. What was finished before is kept. Exit code 5."""
