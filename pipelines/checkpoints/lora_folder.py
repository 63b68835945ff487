"""A folder of LoRA files, which are named in prompts without their endings. Loads no torch."""

import os
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path

from pipelines.checkpoints.errors import WeightsError

SUFFIX = ".safetensors"
MOST_FILES = 10_000


def find(known: Mapping[str, Path], name: str) -> str:
    """Return which of the known files is meant, with or without the folders that it is in, in any
    capitals.

    Raises WeightsError, which guesses what was meant, if there is none or more than one. It does
    not say where the files are: visitors of a server are told.
    """
    wanted = name.removesuffix(SUFFIX).lower()
    exact = [each for each in known if each.lower() == wanted]
    found = exact or [each for each in known if each.rpartition("/")[2].lower() == wanted]
    shown = name if len(name) <= 80 else f"{name[:80]}…"
    if len(found) > 1:
        raise WeightsError(f"LoRA {shown} may be {' or '.join(found[:3])}: name one of them")
    if not found:
        near = get_close_matches(name[:200], known, n=3, cutoff=0.5) or [*known][:3]
        there = f"there is {', '.join(near)}" if near else f"the folder has no {SUFFIX} files"
        raise WeightsError(f"no LoRA {shown}: {there}")
    return found[0]


def files(folder: Path) -> dict[str, Path]:
    """Return the files of a folder and of those in it, by their names, in order.

    Raises WeightsError for what is no folder, and for one of very many files.
    """
    folder = folder.expanduser().resolve()
    if not folder.is_dir():
        raise WeightsError(f"{folder} is no folder of LoRA files")
    found: dict[str, Path] = {}
    number = 0
    for here, inside, names in os.walk(folder):
        inside.sort()
        for path in (Path(here) / name for name in sorted(names)):
            number += 1
            if number > MOST_FILES:
                raise WeightsError(f"{folder} has more than {MOST_FILES} files: name a smaller one")
            if path.suffix == SUFFIX:
                found[path.relative_to(folder).as_posix().removesuffix(SUFFIX)] = path
    return found
