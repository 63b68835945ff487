"""What can be wrong with weights."""


class WeightsError(Exception):
    """A model folder is missing, incomplete, malformed or does not fit together. One line."""
