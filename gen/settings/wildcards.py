"""Prompts with choices in them, in the grammar of sd-dynamic-prompts.

    {red|blue}               one of them         {3::red|blue}          red three times as often
    {2$$a|b|c}               two, not the same   {1-2$$ and $$a|b|c}    one or two, " and " between
    __animals__              a line of animals.txt in the folder of wildcards, # is a comment
    __sea/*__                a line of any file in its folder sea
    ${c=!{red|blue}} ${c}    chosen once, used again; without ! anew at each use
    ${c:green}               green if c was not set       __cats(c=red)__        with c set inside
    \\{ \\}                    these signs themselves

Choices nest in each other both ways, and follow from the seed.
"""

import random
import re
from pathlib import Path

from gen.errors import InputError
from pipelines.settings import MAX_TEXT

MOST_CHOICES = 1000  # in one prompt: files that name each other would go on without end
DEEPEST = 30
_WILDCARD = re.compile(r"__([\w*/.-]*[\w*])(?:\(([^()]*)\))?__")
_COUNT = re.compile(r"(?:(\d{1,4})|(\d{0,4})-(\d{0,4}))\$\$")
_SEPARATOR = re.compile(r"([^{}|$]*)\$\$")
_WEIGHT = re.compile(r"\s*(\d+\.?\d*|\.\d+)::")
_SETTING = re.compile(r"\s*(\w+)\s*=\s*(!?)(.*)", re.DOTALL)


def expand(template: str, seed: int, folder: Path | None = None) -> str:
    """Return a prompt with all choices made, always the same for a seed.

    Without a `folder` of wildcards their signs stay as they are. Raises InputError for choices that
    cannot be made, and for those that have no end.
    """
    return _Expansion(random.Random(seed), folder).of(template).strip()


class _Expansion:
    def __init__(self, chance: random.Random, folder: Path | None) -> None:
        self.chance = chance
        self.folder = folder
        self.variables: dict[str, str] = {}
        self.choices = 0
        self.depth = 0

    def of(self, text: str) -> str:
        """Return a text with all choices made."""
        self.depth += 1
        if self.depth > DEEPEST:
            raise InputError("prompt: its choices name each other without end")
        parts, place = [], 0
        while place < len(text):
            part, place = self._next(text, place)
            parts.append(part)
        self.depth -= 1
        made = "".join(parts)
        if len(made) > MAX_TEXT:
            raise InputError(f"prompt: its choices come to more than {MAX_TEXT} characters")
        return made

    def _next(self, text: str, place: int) -> tuple[str, int]:
        """Return what the next characters come to, and where they end."""
        if text[place] == "\\" and text[place + 1 : place + 2] in ("{", "}"):
            return text[place + 1], place + 2
        if text.startswith("${", place) and (end := _closing(text, place + 1)) is not None:
            return self._variable(text[place + 2 : end]), end + 1
        if text[place] == "{" and (end := _closing(text, place)) is not None:
            return self._choice(text[place + 1 : end]), end + 1
        if self.folder is not None and (match := _WILDCARD.match(text, place)):
            return self._line(match[1], match[2]), match.end()
        return text[place], place + 1

    def _choice(self, body: str) -> str:
        low, high, separator = 1, 1, ", "
        count = _COUNT.match(body)
        if count is not None:
            body = body[count.end() :]
            if found := _SEPARATOR.match(body):
                separator, body = found[1], body[found.end() :]
        options = _split(body)
        only = _WILDCARD.fullmatch(body.strip())
        if count is not None and only is not None and self.folder is not None and not only[2]:
            options = _lines(self.folder, only[1])
        if count is not None and count[1] is not None:
            low = high = int(count[1])
        elif count is not None:
            low = int(count[2]) if count[2] else 0
            high = int(count[3]) if count[3] else len(options)
        if low > high:
            raise InputError(f"prompt: {low}-{high}$$ is no range")
        number = min(self.chance.randint(low, high), len(options))
        return separator.join(self.of(option).strip() for option in self._pick(options, number))

    def _pick(self, options: list[str], number: int) -> list[str]:
        """So many of the options, none twice, by their weights."""
        self.choices += 1
        if self.choices > MOST_CHOICES:
            raise InputError(f"prompt: more than {MOST_CHOICES} choices")
        weighed = [_weighed(option) for option in options]
        picked = []
        for _ in range(number):
            weights = [weight for weight, _ in weighed]
            if sum(weights) == 0:
                break
            [i] = self.chance.choices(range(len(weighed)), weights)
            picked.append(weighed.pop(i)[1])
        return picked

    def _line(self, name: str, settings: str | None) -> str:
        assert self.folder is not None
        before = dict(self.variables)
        for setting in [] if settings is None else settings.split(","):
            self._variable(setting)
        [line] = self._pick(_lines(self.folder, name), 1)
        made = self.of(line)
        if settings is not None:
            self.variables = before
        return made

    def _variable(self, body: str) -> str:
        if match := _SETTING.match(body):
            name, at_once, value = match[1], match[2], match[3]
            self.variables[name] = self.of(value) if at_once else value
            return ""
        name, colon, default = body.partition(":")
        if name.strip() in self.variables:
            return self.of(self.variables[name.strip()])
        if not colon:
            raise InputError(f"prompt: ${{{name}}} was not set; ${{{name}=...}} sets it")
        return self.of(default)


def _closing(text: str, place: int) -> int | None:
    """Where the brace at `place` closes; None if nowhere."""
    depth = 0
    for i in range(place, len(text)):
        if text[i - 1] == "\\" and i > place:
            continue
        depth += (text[i] == "{") - (text[i] == "}")
        if depth == 0:
            return i
    return None


def _split(body: str) -> list[str]:
    """Return the options of a choice: the parts between bars that are in no inner braces."""
    parts, start, depth = [], 0, 0
    for i, sign in enumerate(body):
        depth += (sign == "{") - (sign == "}")
        if sign == "|" and depth == 0:
            parts.append(body[start:i])
            start = i + 1
    return [*parts, body[start:]]


def _weighed(option: str) -> tuple[float, str]:
    match = _WEIGHT.match(option)
    return (1.0, option) if match is None else (float(match[1]), option[match.end() :])


def _lines(folder: Path, name: str) -> list[str]:
    """Return the lines of all files that a wildcard means."""
    root = folder.expanduser().resolve()
    inside = ".." not in name.split("/") and not name.startswith("/")
    paths = sorted(root.glob(f"{name}.txt")) if inside else []
    lines = []
    for path in paths:
        if not path.resolve().is_relative_to(root):
            continue
        try:
            text = path.read_text(encoding="utf-8-sig")
        except (OSError, ValueError) as error:
            raise InputError(f"{path} cannot be read as UTF-8: {error}") from error
        kept = (line.strip() for line in text.splitlines())
        lines += [line for line in kept if line and not line.startswith("#")]
    if not lines:
        raise InputError(f"prompt: __{name}__ means no line of a file in {root}")
    return lines
