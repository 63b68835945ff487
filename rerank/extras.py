"""Packages that only some parts need. Imports no torch."""

from importlib import import_module
from types import ModuleType


class MissingExtraError(ImportError):
    """A part needs a package that is not installed; the message says which and how to get it."""


def load_extra(module: str, package: str, extra: str) -> ModuleType:
    """Return the module of an optional package. Raises MissingExtraError."""
    try:
        return import_module(module)
    except ImportError as error:
        raise MissingExtraError(
            f"this needs {package}, which is not installed: pip install 'salon[{extra}]'"
        ) from error
