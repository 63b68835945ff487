"""What can go wrong with a user's wish, as one line that says what, where and how to fix it."""


class InputError(ValueError):
    """Something asked for cannot be done as asked; nothing was drawn. Exit code 2."""


class RoomError(Exception):
    """No room: the disk or the memory is full. What was finished before is kept. Exit code 5."""
