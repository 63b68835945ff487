"""Styles: templates around prompts, from CSV files as AUTOMATIC1111's web UI keeps them."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gen.errors import InputError
from gen.settings import MAX_TEXT

OWN = Path(__file__).parent / "styles.csv"
PLACE = "{prompt}"  # where a template has the prompt; without it the template follows the prompt
MOST = 500  # of a file


@dataclass(frozen=True)
class Style:
    """What surrounds a prompt and a negative prompt."""

    name: str
    prompt: str = ""
    negative_prompt: str = ""

    def applied(self, prompt: str, negative_prompt: str) -> tuple[str, str]:
        """Return both with the style."""
        return _joined(self.prompt, prompt), _joined(self.negative_prompt, negative_prompt)


def read_styles(path: Path) -> list[Style]:
    """Read a CSV file with the columns name, prompt and negative_prompt.

    Raises InputError with its name for what is no such file. A row without a text is a heading in
    such files, and passed over.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: not a CSV file that can be read: {error}") from error
    if not rows or "name" not in rows[0] or "prompt" not in rows[0]:
        raise InputError(f"{path}: must have the columns name, prompt and negative_prompt")
    if len(rows) > MOST:
        raise InputError(f"{path}: more than {MOST} styles")
    styles = [
        Style(str(row["name"]), row["prompt"] or "", row.get("negative_prompt") or "")
        for row in rows
    ]
    if any(len(style.prompt) + len(style.negative_prompt) > MAX_TEXT for style in styles):
        raise InputError(f"{path}: a style is longer than {MAX_TEXT} characters")
    return [style for style in styles if style.prompt or style.negative_prompt]


def apply(styles: Sequence[Style], prompt: str, negative_prompt: str) -> tuple[str, str]:
    """Return a prompt and a negative prompt with styles, one after the other."""
    for style in styles:
        prompt, negative_prompt = style.applied(prompt, negative_prompt)
    return prompt, negative_prompt


def _joined(template: str, text: str) -> str:
    if PLACE in template:
        return template.replace(PLACE, text)
    return ", ".join(part for part in (text, template) if part)
