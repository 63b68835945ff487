"""Read a template into the commands of dynamicprompts, in linear time.

The parser of dynamicprompts itself takes half a millisecond for each option and fails with a
RecursionError where braces nest deeply, so that a prompt of some kB would hold up the server for
seconds. This one reads the same grammar, and tests compare the commands of both. It takes more as
plain text: a `$` or `%` that begins nothing, a `__` without a second one, `\\{`, `\\}` and `\\#`.
"""

import re
from collections.abc import Container
from dataclasses import replace
from functools import lru_cache

from dynamicprompts.commands import (
    Command,
    LiteralCommand,
    SequenceCommand,
    VariantCommand,
    VariantOption,
    WildcardCommand,
    WrapCommand,
)
from dynamicprompts.commands.variable_commands import (
    VariableAccessCommand,
    VariableAssignmentCommand,
)
from dynamicprompts.enums import SamplingMethod

from gen.errors import InputError

DEEPEST = 30  # choices in each other
MOST_OPTIONS = 1000  # of one choice
MOST_SIGNS = 1000  # that begin a choice, a variable or a wildcard
# Signs, comments, and the longest texts without any.
_TOKENS = re.compile(
    r"\s*#[^\n]*|\\[{}#]|[$%]?\{|\}|\||\$\$|__"
    r"|(?:[^\\{}|$%_#]|_(?!_)|\\(?![{}#])|\$(?![{$])|%(?!\{))+"
)
_SIGNS = ("{", "${", "%{", "}", "|", "$$", "__")
_OPTION_ENDS = ("|", "}", "$$")
_OPENING = ("{", "${", "%{")
_METHODS = {
    "~": SamplingMethod.RANDOM,
    "!": SamplingMethod.COMBINATORIAL,
    "@": SamplingMethod.CYCLICAL,
}
_METHOD = re.compile(r"\s*([~!@])")
_BOUNDS = re.compile(r"\s*+(\d{1,4})?\s*+(-)?\s*+(\d{1,4})?\s*+")
_SEPARATOR = re.compile(r"[ -#%-~]*")  # printable, no $
_WEIGHT = re.compile(r"\s*(\d{1,9}(?:\.\d{0,9})?|\.\d{1,9})::")
_ODD_WEIGHT = re.compile(r"\s*[+-]?[\d.]+::")
_NAME = r"\s*+([A-Za-z_-][A-Za-z0-9_-]*+)\s*+"
_ASSIGNED = re.compile(_NAME + r"(\?)?\s*+=\s*+(!)?\s*+")
_ACCESSED = re.compile(_NAME + r"(:\s*+)?")
_WITH_VARIABLES = re.compile(r"([^(]*)\(([^)]+)\)")


@lru_cache(256)  # lines that name their own file are read again at each level
def parse(template: str) -> Command:
    """Return the commands of a template. Raises InputError for what is not in the grammar."""
    return _Reader(template).all()


class _Reader:
    """The tokens of a template, and how far they are read."""

    def __init__(self, template: str) -> None:
        self.tokens = _TOKENS.findall(template)
        self.closing = _pairs(self.tokens)
        self.place = 0

    def all(self) -> Command:
        """Read to the end."""
        return self.sequence(())

    def sequence(self, ends: Container[str], start: str | None = None) -> Command:
        """Read up to a sign that ends it, which is left; `start` is text in front of the rest."""
        parts: list[Command] = []
        texts = [] if start is None or start == "" else [start]  # a comment between two is a space
        joined = True
        while self.place < len(self.tokens) and self.tokens[self.place] not in ends:
            token, at = self.tokens[self.place], self.place
            self.place += 1
            if _is_comment(token):
                joined = False
                continue
            command = self.command(token, at) if token in _SIGNS else None
            if command is not None:
                if texts:
                    parts.append(LiteralCommand("".join(texts)))
                texts = []
                parts.append(command)
            else:
                text = token[1] if len(token) == 2 and token[0] == "\\" else token
                texts.append(text if joined or not texts else f" {text}")
            joined = True
        if texts:
            parts.append(LiteralCommand("".join(texts)))
        return parts[0] if len(parts) == 1 else SequenceCommand(parts)

    def command(self, sign: str, at: int) -> Command | None:
        """Read what a sign begins; None if it is text here."""
        if at not in self.closing:
            return None
        if sign == "{":
            return self.choice()
        if sign == "${":
            return self.variable()
        return self.wrap() if sign == "%{" else self.wildcard(at)

    def choice(self) -> Command:
        """Read `{2$$ and $$a|3::b}` behind its brace."""
        start = self.text()
        method, start = _method(start)
        low, high, separator = 1, 1, ","
        bounds = _BOUNDS.fullmatch(start)
        if self.peek() == "$$" and bounds is not None and (bounds[1] or bounds[3]):
            self.place += 1
            separator = self.separator()
            start = self.text()
        else:
            bounds = None
        options = [self.option(start)]
        while self.peek() == "|":
            self.place += 1
            options.append(self.option(self.text()))
            if len(options) > MOST_OPTIONS:
                raise InputError(
                    f"prompt: a choice of more than {MOST_OPTIONS} options: put them into a file"
                )
        self.close()
        if bounds is not None:
            exact = bounds[1] if bounds[2] is None else None
            low = int(bounds[1] or 1)
            high = int(exact or bounds[3] or len(options))
        return VariantCommand(options, low, high, separator, method)

    def separator(self) -> str:
        """Read what stands between the options that are chosen, and its `$$`, if it is there."""
        place, texts = self.place, []
        while place < len(self.tokens) and self.tokens[place] not in (*_OPENING, "}", "$$"):
            texts.append(self.tokens[place])
            place += 1
        text = "".join(texts)
        if self.tokens[place] != "$$" or not _SEPARATOR.fullmatch(text):
            return ","
        self.place = place + 1
        return text

    def option(self, start: str) -> VariantOption:
        """Read one option, with its weight."""
        if weight := _WEIGHT.match(start):
            value = self.sequence(_OPTION_ENDS, start[weight.end() :])
        elif _ODD_WEIGHT.match(start):
            raise InputError(
                f"prompt: {start[:40]!r} in a choice: a weight is a number such as 2.5"
            )
        else:
            value = self.sequence(_OPTION_ENDS, start.lstrip())
        if self.peek() == "$$":
            raise InputError(
                "prompt: $$ in a choice: it stands behind a number of options and a separator, "
                "as in {2$$ and $$a|b|c}"
            )
        return VariantOption(value, float(weight[1]) if weight else 1.0)

    def variable(self) -> Command:
        """Read `${name=value}` or `${name:default}` behind its brace."""
        start = self.text()
        if named := _ASSIGNED.match(start):
            value = self.sequence("}", start[named.end() :])
            self.close()
            return VariableAssignmentCommand(
                named[1], value, immediate=named[3] is not None, overwrite=named[2] is None
            )
        named = _ACCESSED.match(start)
        if named is None or (named[2] is None and named.end() < len(start)):
            raise InputError(f"prompt: ${{{start[:40]}: a variable is ${{name}} or ${{name=value}}")
        default = None
        if named[2] is not None:
            default = self.sequence("}", start[named.end() :])
        self.close()
        return VariableAccessCommand(named[1], default)

    def wrap(self) -> Command:
        """Read `%{around ... it$$inner}` behind its brace."""
        wrapper = self.sequence(("$$", "}"), self.text().lstrip())
        if self.peek() != "$$":
            raise InputError("prompt: %{…} without $$: it is %{around ... it$$inner}")
        self.place += 1
        inner = self.sequence("}", self.text().lstrip())
        self.close()
        return WrapCommand(wrapper, inner)

    def wildcard(self, at: int) -> Command:
        """Read `__name__` or `__name(variable=value)__`."""
        end = self.closing[at]
        whole = "".join(self.tokens[at + 1 : end])
        self.place = end + 1
        method, name = _method(whole)
        variables = {}
        if "(" in name:
            found = _WITH_VARIABLES.fullmatch(name)
            if found is None:
                raise InputError(f"prompt: __{whole[:40]}__: it is __name(variable=value)__")
            name = found[1].rstrip()
            pairs = (pair.partition("=") for pair in found[2].split(","))
            variables = {key.strip(): parse(value.strip()) for key, _, value in pairs}
        path = _with_names_for_values(parse(name))
        return WildcardCommand(
            path.literal if isinstance(path, LiteralCommand) else path, method, variables
        )

    def peek(self) -> str:
        """Return the next token; "" at the end."""
        return self.tokens[self.place] if self.place < len(self.tokens) else ""

    def text(self) -> str:
        """Read the text that comes next, if it is text."""
        while _is_comment(self.peek()):
            self.place += 1
        token = self.peek()
        if token in _SIGNS or (len(token) == 2 and token[0] == "\\"):
            return ""
        self.place += token != ""
        return token

    def close(self) -> None:
        """Read the brace that ends something. Raises InputError for anything else there."""
        if self.peek() != "}":
            raise InputError(
                f"prompt: {self.peek()[:40]!r} in the name of a variable: "
                "a variable is ${name} or ${name=value}"
            )
        self.place += 1


def _pairs(tokens: list[str]) -> dict[int, int]:
    """Return which token closes each opening one, and each first `__`.

    Raises InputError for a brace that is not closed, and for too many in each other.
    """
    if sum(token in (*_OPENING, "__") for token in tokens) > MOST_SIGNS:
        raise InputError(f"prompt: more than {MOST_SIGNS} choices")
    closing: dict[int, int] = {}
    opened: list[tuple[int, int | None]] = [(-1, None)]  # a brace, and a first `__` in it
    for at, token in enumerate(tokens):
        brace, first = opened[-1]
        if token in _OPENING:
            opened.append((at, None))
            if len(opened) > DEEPEST + 1:
                raise InputError(f"prompt: more than {DEEPEST} choices in each other")
        elif token == "}" and brace >= 0:
            closing[brace] = at
            opened.pop()
        elif token == "__" and first is None:
            opened[-1] = (brace, at)
        elif token == "__" and first is not None and at > first + 1:
            closing[first] = at
            opened[-1] = (brace, None)
        elif token == "$$" or (token == "|" and brace >= 0):
            opened[-1] = (brace, None)
    brace, _ = opened[-1]
    if brace >= 0:
        shown = "".join(tokens[brace : brace + 4])[:40]
        raise InputError(f"prompt: {shown!r}: its brace is not closed; \\{{ is the sign itself")
    return closing


def _is_comment(token: str) -> bool:
    return token.lstrip()[:1] == "#"


def _method(text: str) -> tuple[SamplingMethod | None, str]:
    found = _METHOD.match(text)
    return (None, text) if found is None else (_METHODS[found[1]], text[found.end() :])


def _with_names_for_values(path: Command) -> Command:
    """In the name of a wildcard, a variable that is not set stands for its own name."""
    parts = path.tokens if isinstance(path, SequenceCommand) else [path]
    named: list[Command] = []
    for part in parts:
        if isinstance(part, VariableAccessCommand):
            default = LiteralCommand(part.name) if part.default is None else part.default
            if isinstance(default, LiteralCommand):
                default = LiteralCommand(default.literal.strip())
            part = replace(part, default=default)
        named.append(part)
    return named[0] if len(named) == 1 else SequenceCommand(named)
