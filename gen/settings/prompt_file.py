"""Prompt files: many requests in a text file, every row checked before anything is drawn.

Plain lines hold a prompt, or a prompt and settings as `--flag value`, or `-s 7` where the flag is
short; blank lines and lines that begin with `#` are skipped. A file that ends in .jsonl, or whose
first row begins with `{"`, holds one JSON object a line. Rows are read one at a time, so a file may
be far larger than the memory.
A .json file, or one that begins with `[{`, is read whole: an array of objects or of prompts, or one
object. In a table, which a .csv or .tsv file is, and every file whose first line holds names of
settings alone, that line names the columns; an empty cell says nothing.
"""

import codecs
import csv
import os
import re
import shlex
import stat
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from shutil import copyfileobj
from typing import Any, BinaryIO

from gen.errors import InputError
from gen.settings import a1111_rows, tables, templates
from gen.settings.request import SETTINGS, Request, find_setting
from pipelines.checkpoints.configs import parse_json
from pipelines.settings import Value

LINE_CAP = 64 * 1024  # bytes
MOST_BAD = 200  # rows, after which a file is read no further
PROBLEMS_SHOWN = 50
SHORT_FLAGS = {s.short: s.name for s in SETTINGS.values() if s.short} | {"-S": "seed"}
_OF_NUMBERS = "".join(f[1] for f, n in SHORT_FLAGS.items() if SETTINGS[n].kind in (int, float))
_OF_TEXTS = "".join(f[1] for f, n in SHORT_FLAGS.items() if SETTINGS[n].kind is str)
_NUMBER = r"[+-]?[0-9.]{1,30}"
# A letter of a number has one behind it, so that "a T -s" is a prompt.
_FIRST_FLAG = re.compile(
    rf"(?:^|\s)(?:--[A-Za-z]|-[{_OF_NUMBERS}]\s?{_NUMBER}(?=\s|$)|-[{_OF_TEXTS}](?=[\s0-9]))"
)
_SHORT = re.compile(rf"(-[{_OF_NUMBERS}])({_NUMBER})?|(-[{_OF_TEXTS}])([0-9]+)?")
_QUOTED = re.compile(r'"([^"]+)"((?:\s+-.*)?)')
LARGEST_JSON = 2**24  # bytes of a file that is read whole
# Never taken for plain lines.
OTHER_FORMATS = {
    **dict.fromkeys((".yaml", ".yml"), "YAML"),
    **dict.fromkeys((".html", ".htm"), "HTML"),
    **dict.fromkeys((".xlsx", ".xls", ".ods"), "a spreadsheet"),
    **dict.fromkeys((".docx", ".odt", ".rtf", ".pdf"), "a formatted document"),
    ".toml": "TOML",
    ".xml": "XML",
    ".parquet": "Parquet",
}
_YAML = re.compile(r"---$|(-\s+)?prompts?:(\s|$)")  # its first line
_PARAMETERS = re.compile(r"Steps: [0-9]+, |Negative prompt: ")  # of AUTOMATIC1111's text in images
# At the end of a prompt, as InvokeAI's -C7.5.
_UNKNOWN_FLAG = re.compile(r"(?:^|\s)(-[A-Za-z])[0-9.]{1,30}(?:\s+-[A-Za-z]\s?[\w.]{1,30}){0,8}$")
SWALLOWING = ("prompt", "negative_prompt")  # take every word up to the next flag


@dataclass(frozen=True, slots=True)
class Row:
    """One request of a file, the number of its line, and the id that the row gave itself.

    `notes` say what of the row has no effect.
    """

    line: int
    request: Request
    id: str | None = None
    notes: tuple[str, ...] = ()


class PromptFile:
    """A prompt file that can be gone through any number of times; `-` is standard input.

    `settings` hold for every row that does not say otherwise; with `combinatorial` a row stands for
    all combinations of the choices in its prompt. Raises InputError if there is no readable regular
    file at the path.
    """

    def __init__(
        self,
        path: str,
        settings: Mapping[str, Value] | None = None,
        combinatorial: bool = False,
    ) -> None:
        self._combinatorial = combinatorial
        self.name = "standard input" if path == "-" else path
        self.settings = {} if settings is None else dict(settings)
        self._file = _spooled(sys.stdin.buffer) if path == "-" else _opened(path)
        self._suffix = Path(path).suffix.lower()
        first = self._first_row()
        self._refuse_other_formats(first)
        self._delimiter = tables.delimiter_of(self._suffix, first)
        self._is_whole = self._suffix == ".json" or bool(re.match(r"\[\s*(\{|$)|\{$", first))
        self._is_json = self._suffix == ".jsonl" or bool(re.match(r'\{\s*"', first))

    def __iter__(self) -> Iterator[Row]:
        """Return the rows, in order. Raises InputError at the first bad one; see `check`."""
        for line, text in self._rows():
            if isinstance(text, InputError):
                raise text
            yield from self._expanded(self._row(line, text))

    def check(self, accept: Callable[[Row], object]) -> int:
        """Read every row, hand each to `accept`, and return how many there are.

        Raises one InputError that lists bad rows, the first ones, be it by their text or because
        `accept` raises InputError.
        """
        count, bad = 0, 0
        problems: list[str] = []  # the first ones only: a file may have a million
        seen: set[str] = set()
        for line, text in self._rows():
            try:
                if isinstance(text, InputError):
                    raise text
                row = self._row(line, text)
                if row.id is not None:
                    if row.id in seen:
                        raise InputError(f"id {row.id!r} was used before")
                    seen.add(row.id)
                for each in self._expanded(row):
                    accept(each)
                    count += 1
            except InputError as error:
                bad += 1
                if bad <= PROBLEMS_SHOWN:
                    problems.append(f"line {line}: {error}")
                if bad == MOST_BAD:
                    break
        at_least = "at least " if bad == MOST_BAD else ""
        if bad > PROBLEMS_SHOWN:
            problems.append(f"and {at_least}{bad - PROBLEMS_SHOWN} more")
        if problems:
            rows = "a bad row" if bad == 1 else f"{at_least}{bad} bad rows"
            raise InputError("\n  ".join([f"{self.name}: {rows}, nothing was drawn:", *problems]))
        if count == 0:
            raise InputError(f"{self.name}: no prompts in it")
        return count

    def _expanded(self, row: Row) -> list[Row]:
        if not self._combinatorial:
            return [row]
        return [replace(row, request=request) for request in all_choices(row.request)]

    def _refuse_other_formats(self, first: str) -> None:
        self._file.seek(0)
        start = self._file.read(8)
        found = "YAML" if _YAML.match(first) else OTHER_FORMATS.get(self._suffix)
        if found is not None:
            raise InputError(f"{self.name}: {found} is not read; save it as JSON, or as CSV")
        is_marked = start[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
        if is_marked or bytes(4) in (start[::2], start[1::2]):
            raise InputError(f"{self.name}: is UTF-16: save it as UTF-8")

    def _rows(self) -> Iterator[tuple[int, str | dict[str, Any] | InputError]]:
        """Each row with the number of its line, or of its place in an array."""
        if self._delimiter is not None:
            return self._table_rows(self._delimiter)
        return self._array_rows() if self._is_whole else self._lines()

    def _array_rows(self) -> Iterator[tuple[int, dict[str, Any] | InputError]]:
        self._file.seek(0)
        data = self._file.read(LARGEST_JSON + 1)
        if len(data) > LARGEST_JSON:
            raise InputError(
                f"{self.name}: larger than 16 MB: write one JSON object a line, .jsonl"
            )
        try:
            found = parse_json(data, object)
        except ValueError as error:
            raise InputError(f"{self.name}: bad JSON: {error}") from error
        for number, row in enumerate(found if isinstance(found, list) else [found], 1):
            row = {"prompt": row} if isinstance(row, str) else row
            is_object = isinstance(row, dict)
            yield number, row if is_object else InputError("must be an object with a prompt")

    def _table_rows(self, delimiter: str) -> Iterator[tuple[int, dict[str, Any] | InputError]]:
        self._file.seek(0)
        lines = codecs.iterdecode(self._file, "utf-8-sig")
        reader = csv.reader(lines, delimiter=delimiter)
        try:
            names = tables.columns_of(self.name, next(reader, []))
            for cells in filter(None, reader):
                yield reader.line_num, tables.read_cells(names, cells)
        except UnicodeDecodeError as error:
            raise InputError(f"{self.name}: is not UTF-8: save it as UTF-8") from error
        except csv.Error as error:
            raise InputError(f"{self.name}: line {reader.line_num}: {error}") from error

    def _first_row(self) -> str:
        for _, text in self._lines():
            return text if isinstance(text, str) else ""
        return ""

    def _lines(self) -> Iterator[tuple[int, str | InputError]]:
        """Each line that holds a row, with its number, or why it cannot be read."""
        self._file.seek(0)
        number = 0
        while raw := self._file.readline(LINE_CAP + 1):
            number += 1
            if len(raw) > LINE_CAP and not raw.endswith(b"\n"):
                while (rest := self._file.readline(LINE_CAP)) and not rest.endswith(b"\n"):
                    pass
                yield number, InputError(f"longer than {LINE_CAP // 1024} kB")
                continue
            if number == 1:
                raw = raw.removeprefix(b"\xef\xbb\xbf")
            try:
                text = raw.decode("utf-8").strip(" \t\r\n")
            except UnicodeDecodeError as error:
                yield number, InputError(f"byte {error.start + 1} is not UTF-8: save it as UTF-8")
                continue
            if text and not text.startswith("#"):
                yield number, text

    def _row(self, line: int, row: str | dict[str, Any]) -> Row:
        if isinstance(row, dict):
            values = dict(row)
        else:
            values = _read_json(row) if self._is_json else _read_plain(row)
        identity = values.pop("id", None)
        if identity is not None and not isinstance(identity, str | int):
            raise InputError("id: must be text or a whole number")
        for annotation in tables.ANNOTATIONS:
            values.pop(annotation, None)
        values, notes = a1111_rows.mapped(values)
        request = Request.from_json(values).with_defaults(self.settings)
        return Row(line, request, None if identity is None else str(identity), tuple(notes))


def all_choices(request: Request) -> list[Request]:
    """Return a request for each combination of the choices in a prompt.

    Raises InputError, which says how many there would be, if they are too many.
    """
    folder = None if request.wildcards is None else Path(request.wildcards)
    prompts = templates.combinations(request.prompt, folder)
    if prompts == [request.prompt.strip()]:
        return [request]
    made = request.replace(wildcards=None, template=request.prompt)
    return [made.replace(prompt) for prompt in prompts]


def _opened(path: str) -> BinaryIO:
    """Open the file for reading; a pipe is refused before opening, which could wait for
    ever."""
    try:
        mode = os.stat(path).st_mode
        if stat.S_ISDIR(mode):
            raise InputError(f"{path}: is a directory, not a prompt file")
        if not stat.S_ISREG(mode):
            raise InputError(f"{path}: is not a regular file; pipe prompts in with -f -")
        return Path(path).open("rb")
    except (OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(f"{path}: cannot read the prompt file: {reason}") from error


def _spooled(stream: BinaryIO) -> BinaryIO:
    """Copy a stream to the disk, to a file that can be read twice and goes away by itself."""
    copy = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as the PromptFile
    copyfileobj(stream, copy)
    return copy


def _read_json(text: str) -> dict[str, Any]:
    try:
        values = parse_json(text, object)
    except ValueError as error:
        raise InputError(f"bad JSON: {error}") from error
    if not isinstance(values, dict):
        raise InputError('bad row: must be a JSON object such as {"prompt": "a panda"}')
    return values


def _read_plain(text: str) -> dict[str, Any]:
    """Return the settings of a line such as `a panda --seed 4 --negative_prompt red things`."""
    if _PARAMETERS.match(text):
        raise InputError(
            f"{text[:16]}…: a line of what an image says; write it as flags behind the prompt, or "
            "draw from the image with --again"
        )
    prompt, rest = _split_at_flags(text)
    values: dict[str, Any] = {"prompt": prompt} if prompt else {}
    for flag, words in _flags(rest):
        name = flag.lstrip("-").replace("-", "_")
        if name in a1111_rows.KEYS:
            values[name] = _one(flag, words or ["true"])
            continue
        setting = find_setting(SHORT_FLAGS.get(flag, name))
        if setting.name in values:
            raise InputError(f"{setting.name}: given twice")
        if not words and setting.kind is bool:
            words = ["true"]
        if flag == "-n" and len(words) == 1 and re.fullmatch("[0-9]{1,9}", words[0]):
            raise InputError(
                f"-n {words[0]}: is the negative prompt here; for a number of images say "
                f"--candidates {words[0]}"
            )
        if setting.name in SWALLOWING:
            words = [" ".join(words)] if words else []
        values[setting.name] = setting.read(_one(flag, words))
    return values


def _one(flag: str, words: list[str]) -> str:
    if not words:
        raise InputError(f"{flag}: needs a value")
    if unknown := next((word for word in words[1:] if re.match("-[A-Za-z]", word)), None):
        raise _no_flag(unknown)
    if len(words) > 1:
        raise InputError(f"{flag}: takes one value, not {len(words)}: quote it")
    return words[0]


def _split_at_flags(text: str) -> tuple[str, str]:
    """Split a line into its prompt, which may be in quotes, and the flags behind it."""
    if quoted := _QUOTED.fullmatch(text):
        return quoted[1], quoted[2]
    flag = _FIRST_FLAG.search(text)
    prompt, rest = (text, "") if flag is None else (text[: flag.start()], text[flag.start() :])
    if unknown := _UNKNOWN_FLAG.search(prompt):
        raise _no_flag(unknown[1])
    return prompt.strip(), rest


def _no_flag(written: str) -> InputError:
    known = ", ".join(sorted(SHORT_FLAGS))
    return InputError(f"{written}: no flag here, where {known} are: put a prompt with it in quotes")


def _flags(text: str) -> Iterator[tuple[str, list[str]]]:
    """Each flag of the text with the words behind it, quoted as in a shell."""
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise InputError(f"{error}: put text with ' or \" in it between the other kind") from error
    flag = ""
    values: list[str] = []
    for word in words:
        short = _SHORT.fullmatch(word)
        if re.match("--[A-Za-z]", word) or short:
            if flag:
                yield flag, values
            if short:
                flag, value = short[1] or short[3], short[2] or short[4]
            else:
                flag, equals, value = word.partition("=")
                value = value if equals else None
            values = [] if value is None else [value]
        else:
            values.append(word)
    if flag:
        yield flag, values
