"""What the owner of a server lets visitors do, read from a file of settings (TOML)."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gen.errors import InputError
from gen.settings.request import MODEL_SETTINGS

# What one job may ask of a server that others wait for.
LIMITS: Mapping[str, int] = {
    "width": 2048,
    "height": 2048,
    "steps": 250,
    "prior_steps": 250,
    "candidates": 128,
    "prior_candidates": 256,
    "budget": 128 * 1024,  # what the most candidates take of image tokens
    "upscale": 4,
}
MOST_DOTS = 300  # of a line: tomllib takes quadratic time for the parts of a key
KEYS = ("models", "settings", "delete", "most")
HELP = 'a TOML file: models = ["NAME"], settings = ["steps"], delete = false, [most] steps = 50'


@dataclass(frozen=True)
class Rules:
    """The models and settings that visitors may choose (None: all that there are), and limits."""

    models: tuple[str, ...] | None = None
    settings: tuple[str, ...] | None = None  # of those that models take
    delete: bool = True
    most: Mapping[str, int] = field(default_factory=lambda: LIMITS)

    def allow_setting(self, name: str) -> bool:
        """Return whether visitors may give a setting."""
        return self.settings is None or name not in MODEL_SETTINGS or name in self.settings

    def allow_model(self, name: str) -> bool:
        """Return whether visitors may choose a model."""
        return self.models is None or name in self.models


def read_rules(path: Path) -> Rules:
    """Read the rules of a file. Raises InputError with its name for what makes no sense."""
    try:
        text = path.read_text(encoding="utf-8")
        if any(line.count(".") > MOST_DOTS for line in text.splitlines()):
            raise InputError(f"{path}: a line has more than {MOST_DOTS} dots")
        values = tomllib.loads(text)
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read: {error}") from error
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise InputError(f"{path}: not TOML: {error}") from error
    if unknown := values.keys() - set(KEYS):
        raise InputError(f"{path}: unknown {', '.join(sorted(unknown))}; known: {', '.join(KEYS)}")
    delete = values.get("delete", True)
    if not isinstance(delete, bool):
        raise InputError(f"{path}: delete: must be true or false")
    settings = _names(path, values, "settings")
    if wrong := [name for name in settings or () if name not in MODEL_SETTINGS]:
        raise InputError(f"{path}: settings: there is no {', '.join(wrong)}")
    return Rules(_names(path, values, "models"), settings, delete, _most(path, values))


def _names(path: Path, values: Mapping[str, Any], key: str) -> tuple[str, ...] | None:
    names = values.get(key)
    if names is None:
        return None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise InputError(f'{path}: {key}: must be a list of names, as in ["a", "b"]')
    return tuple(names)


def _most(path: Path, values: Mapping[str, Any]) -> Mapping[str, int]:
    most = values.get("most", {})
    if not isinstance(most, dict) or most.keys() - LIMITS.keys():
        raise InputError(f"{path}: [most]: there are limits for {', '.join(LIMITS)}")
    for name, value in most.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise InputError(f"{path}: [most] {name}: must be a whole number above 0")
    return {**LIMITS, **most}
