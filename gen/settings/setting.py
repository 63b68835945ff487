"""What a setting is: its facts, and how a value is read from text and checked."""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from gen.errors import InputError

MAX_TEXT = 10_000  # characters; the largest text encoders read some hundred words
# Control characters but for newline and tab, and what bytes become that are not UTF-8.
UNREADABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")

Value = str | int | float


@dataclass(frozen=True)
class Setting:
    """The facts of one field of `Request`; flags, file keys and labels in pictures come from it.

    `low` and `high` are the widest range that any model allows; a model's own limits come on top.
    """

    help: str
    label: str = ""  # its name in the `parameters` text that AUTOMATIC1111's web UI introduced
    short: str = ""  # one-letter flag
    aliases: tuple[str, ...] = ()  # what other tools call it, in flags and in prompt files
    low: float | None = None
    high: float | None = None
    by_model: bool = False  # only some models take it, and each has its own default
    local: bool = False  # only for who sits at this machine: it has to do with a file by its name
    loads: bool = False  # it changes the model while it loads, not how a prompt is drawn
    asked: bool = True  # people say it; else it is only recorded, and has no flag
    many: bool = False  # its flag may be repeated; the texts are joined by commas
    metavar: str = "TEXT"  # what --help calls a text that it takes
    names: Callable[[], Mapping[str, str]] | None = None  # what may be written → its value
    name: str = ""  # filled in from the field of Request, as is kind
    kind: type[Value] = str

    @property
    def flags(self) -> tuple[str, ...]:
        """Its command-line flags, the short one first."""
        return (self.short, _flag(self.name)) if self.short else (_flag(self.name),)

    @property
    def alias_flags(self) -> tuple[str, ...]:
        """The flags that are accepted beside its own."""
        return tuple(_flag(name) for name in self.aliases)

    def read(self, text: str) -> Value:
        """The value that a flag or a prompt file's line gives as text; InputError if it is none."""
        if self.kind is int and re.fullmatch(r"[+-]?[0-9]{1,30}", text.strip()):
            return self.check(int(text))
        if self.kind is float:
            try:
                return self.check(float(text))
            except ValueError as error:
                raise self._error(text) from error
        return self.check(text)

    def check(self, value: Any) -> Value:
        """`value` itself if it has the right type and range, else InputError with the rule."""
        if self.kind is str:
            return self._check_text(value)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self._error(value)
        if isinstance(value, float) and (self.kind is int or not math.isfinite(value)):
            raise self._error(value)
        if not self._in_range(value):
            raise self._error(value)
        return self.kind(value)

    def rule(self) -> str:
        """What the setting accepts, for errors and for --help."""
        if self.names is not None:
            return "one of " + ", ".join(dict.fromkeys(self.names().values()))
        if self.kind is str:
            return "text"
        number = "a whole number" if self.kind is int else "a number"
        return f"{number} from {self.span}"

    @property
    def span(self) -> str:
        """The range of a number."""
        return f"{self.low} to {self.high}"

    def _in_range(self, value: float) -> bool:
        return (self.low is None or value >= self.low) and (self.high is None or value <= self.high)

    def _check_text(self, value: Any) -> str:
        if not isinstance(value, str):
            raise self._error(value)
        if len(value) > MAX_TEXT:
            raise InputError(
                f"{self.name}: {len(value)} characters are too many, at most {MAX_TEXT} are read"
            )
        if match := UNREADABLE.search(value):
            code, place = ord(match[0]), match.start() + 1
            what = "not valid UTF-8" if code >= 0xD800 else f"control character U+{code:04X}"
            raise InputError(f"{self.name}: {what} at character {place}: remove it")
        if self.names is None:
            return value
        names = {key.lower(): name for key, name in self.names().items()}
        if value.strip().lower() not in names:
            raise self._error(value)
        return names[value.strip().lower()]

    def _error(self, value: Any) -> InputError:
        shown = value if isinstance(value, str) else repr(value)
        if len(shown) > 40:
            shown = shown[:40] + "…"
        return InputError(f"{self.name} {shown}: must be {self.rule()}")


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"
