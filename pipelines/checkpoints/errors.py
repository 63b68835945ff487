"""The error of everything that loads weights."""


class WeightsError(Exception):
    """A model folder is missing, incomplete, malformed or does not fit together. One line."""
