"""The files of a tokenizer, checked before a library reads them. Loads no torch.

tokenizer.json may hold regular expressions of its own, which split each prompt, and the library
runs them by backtracking: one such as `(a+)+b` would keep it busy for ever. So their form is
checked: no repeat within a repeat, and few repeats in a row. The public tokenizers' own are so.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.checkpoints.configs import read_config
from pipelines.checkpoints.errors import WeightsError

MAX_BYTES = 64 * 2**20  # twice that of the largest public vocabulary, of 262,144 words
MAX_PATTERN = 4000  # characters
MANY = 16  # a repeat of up to so many times is no danger
REPEATS = 3  # in a row, in one choice of a pattern

# An escape, a class, one without an end, what opens a group, a bracket, a choice, or a repeat.
_SIGNS = re.compile(
    r"\\.|\[(?:\\.|\[:\w{1,20}:\]|[^\]\\])++\]|(?P<unclosed>\[(?!\]).+)"
    r"|\((?:\?(?:<[=!]|[a-zA-Z-]*[:)]|[=!>]))?|\)|\||[*+?]|\{\d{0,9},?\d{0,9}\}|.",
    re.DOTALL,
)


def check_tokenizer_files(folder: Path) -> None:
    """Raise WeightsError for JSON files of a tokenizer that are damaged, too large, ask to run
    code, or hold an expression that might take for ever."""
    for path in sorted(folder.glob("*.json")):
        content = read_config(path, most=MAX_BYTES)
        if path.name == "tokenizer.json":
            for pattern in _patterns(content):
                if not is_quick(pattern):
                    raise WeightsError(
                        f"{path} splits texts by {pattern!r:.60}, which may take for ever: "
                        "only expressions without a repeat in a repeat are run"
                    )


@dataclass
class _Group:
    """What is known of a group whose end was not read yet."""

    row: int = 0  # repeats in the choice that is being read
    longest: int = 0  # and in the one with most of them
    chooses: bool = False

    @property
    def may_repeat(self) -> bool:
        """Whether it holds nothing that could match the same text in several ways."""
        return self.longest == 0 and not self.chooses


def is_quick(pattern: str) -> bool:
    """Return whether matching an expression takes at most polynomial time, as its form tells.

    That is so if no repeated group holds a repeat or a choice, and if few repeats stand in a row.
    """
    if len(pattern) > MAX_PATTERN:
        return False
    groups, ended = [_Group()], _Group()  # those open, and the one whose end was just read
    for match in _SIGNS.finditer(pattern):
        sign = match.group()
        before, ended = ended, _Group()
        if match["unclosed"]:
            return False
        if sign.startswith("(?") and sign[-1] not in ":=!>)":  # calls, conditions, names
            return False
        if sign.startswith("(") and sign[-1] != ")":  # (?i) opens nothing
            groups.append(_Group())
        elif sign == ")" and len(groups) > 1:
            ended = groups.pop()
            groups[-1].row += ended.longest
            groups[-1].chooses |= ended.chooses
        elif sign == "|":
            groups[-1].chooses, groups[-1].row = True, 0
        elif _repeats(sign):
            if not before.may_repeat:
                return False
            groups[-1].row += 1
        groups[-1].longest = max(groups[-1].longest, groups[-1].row)
        if groups[-1].row > REPEATS:
            return False
    return len(groups) == 1


def _repeats(sign: str) -> bool:
    """Return whether a sign repeats what is in front of it many times."""
    if sign in ("*", "+"):
        return True
    if not sign.startswith("{") or len(sign) < 2:
        return False
    most = sign[1:-1].rpartition(",")[2]
    return most == "" or int(most) > MANY


def _patterns(value: Any) -> Iterator[str]:
    """Yield the regular expressions in what a tokenizer does to texts, but for its vocabulary."""
    if isinstance(value, list):
        for each in value:
            yield from _patterns(each)
    elif isinstance(value, dict):
        for key, inner in value.items():
            if key == "Regex" and isinstance(inner, str):
                yield inner
            elif key not in ("vocab", "merges", "added_tokens"):
                yield from _patterns(inner)
