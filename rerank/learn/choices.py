"""What people chose: of two images for one prompt, which is better. Loads no torch.

A file of choices holds a JSON object a line: {"prompt": …, "chosen": "a.png", "rejected": "b.png"},
whose files are relative to it; "weight", 1 by default, says how much the choice counts.
`generate --choices FILE` writes one from a run folder.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.checkpoints.configs import parse_json


@dataclass(frozen=True)
class Choice:
    """One image preferred to another."""

    prompt: str
    chosen: Path
    rejected: Path
    weight: float = 1.0


def read_choices(path: Path) -> list[Choice]:
    """Return the choices in a file. Raises ValueError, with the line, for what is none."""
    choices = []
    with path.open(encoding="utf-8", errors="surrogateescape") as file:  # refused with its line
        for number, line in enumerate(file, 1):
            if line.strip():
                try:
                    choices.append(_read(parse_json(line), path.parent))
                except (ArithmeticError, ValueError, KeyError, TypeError) as error:
                    raise ValueError(
                        f"{path}, line {number}: not a choice ({type(error).__name__}: {error}); "
                        'it is {"prompt": …, "chosen": FILE, "rejected": FILE}'
                    ) from error
    if not choices:
        raise ValueError(f"{path}: no choices")
    return choices


def _read(row: dict[str, Any], folder: Path) -> Choice:
    prompt, weight = row["prompt"], row.get("weight", 1.0)
    if not isinstance(prompt, str) or isinstance(weight, bool):
        raise TypeError("of the wrong kind")
    if not (weight > 0 and math.isfinite(weight)):
        raise ValueError("a weight is above 0")
    return Choice(prompt, folder / row["chosen"], folder / row["rejected"], float(weight))


def files_of(choices: Sequence[Choice]) -> list[Path]:
    """Return the images that choices are about, each once, in the order of their coming."""
    return list(dict.fromkeys(file for each in choices for file in (each.chosen, each.rejected)))
