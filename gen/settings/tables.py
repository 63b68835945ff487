"""Prompt files that are tables: what stands between their cells, and what their columns mean."""

import csv
from collections import Counter
from contextlib import suppress
from typing import Any

from gen.errors import InputError
from gen.settings import a1111_rows
from gen.settings.request import find_setting

DELIMITERS = {".csv": ",", ".tsv": "\t"}
FOUND_DELIMITERS = ",;\t"  # ";" is that of spreadsheets where a comma is in numbers
# What rows may say beside settings: a name, and what GenEval's files say of the wished-for scene.
ANNOTATIONS = ("id", "tag", "include", "exclude")


def delimiter_of(suffix: str, first: str) -> str | None:
    """Return what is between the cells of a table, None if it is none."""
    for delimiter in FOUND_DELIMITERS:
        with suppress(InputError, csv.Error):
            cells = next(csv.reader([first], delimiter=delimiter), [])
            if len(cells) > 1 and "prompt" in [_column(cell) for cell in cells]:
                return delimiter
    return DELIMITERS.get(suffix)


def _column(written: str) -> str:
    """Return the key of a column, written in any capitals and with gaps. Raises InputError."""
    plain = "_".join(written.lower().split())
    if plain in ANNOTATIONS or plain in a1111_rows.KEYS:
        return plain
    with suppress(InputError):
        return find_setting(plain).name
    return find_setting(written.strip()).name


def columns_of(table: str, written: list[str]) -> list[str]:
    """Return the keys that the first line of a table of this name has. Raises InputError."""
    begin = f"{table}: line 1 names the columns, as in prompt,seed"
    try:
        names = [_column(name) for name in written]
    except InputError as error:
        raise InputError(f"{begin}: {error}") from error
    if twice := [name for name, times in Counter(names).items() if times > 1]:
        raise InputError(f"{begin}: {twice[0]} is there twice")
    return names


def read_cells(names: list[str], cells: list[str]) -> dict[str, Any] | InputError:
    """Return the settings of a line of a table, or why it cannot be read."""
    if len(cells) > len(names):
        return InputError("has more cells than the first line has names: quote commas")
    values: dict[str, Any] = {}
    try:
        for name, text in zip(names, cells, strict=False):
            if not text.strip():
                continue
            is_read_later = name in ANNOTATIONS or name in a1111_rows.KEYS
            values[name] = text if is_read_later else find_setting(name).read(text)
    except InputError as error:
        return error
    return values
