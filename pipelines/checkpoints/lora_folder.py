"""A folder of LoRA files, which are named in prompts without their endings. Loads no torch."""

import os
from collections.abc import Iterator
from difflib import get_close_matches
from pathlib import Path

from pipelines.checkpoints.errors import WeightsError

SUFFIX = ".safetensors"
MOST_FILES = 10_000


def find(folder: Path, name: str) -> Path:
    """Return the file of a name, with or without the folders that it is in, in any capitals.

    Raises WeightsError, which guesses what was meant, if there is none or more than one. It does
    not say where the folder is: visitors of a server are told.
    """
    wanted = name.removesuffix(SUFFIX).lower()
    known = list(names(folder))
    exact = [each for each in known if each.lower() == wanted]
    found = exact or [each for each in known if each.rpartition("/")[2].lower() == wanted]
    shown = name if len(name) <= 80 else f"{name[:80]}…"
    if len(found) > 1:
        raise WeightsError(f"LoRA {shown} may be {' or '.join(found[:3])}: name one of them")
    if not found:
        near = get_close_matches(name[:200], known, n=3, cutoff=0.5) or known[:3]
        there = f"there is {', '.join(near)}" if near else f"the folder has no {SUFFIX} files"
        raise WeightsError(f"no LoRA {shown}: {there}")
    return folder / f"{found[0]}{SUFFIX}"


def names(folder: Path) -> Iterator[str]:
    """Yield what the files are called, those in folders inside too, in order.

    Raises WeightsError for what is no folder, and for one of very many files.
    """
    if not folder.is_dir():
        raise WeightsError(f"{folder} is no folder of LoRA files")
    number = 0
    for here, inside, files in os.walk(folder):
        inside.sort()
        for file in sorted(files):
            number += 1
            if number > MOST_FILES:
                raise WeightsError(f"{folder} has more than {MOST_FILES} files: name a smaller one")
            if file.endswith(SUFFIX):
                yield (Path(here) / file).relative_to(folder).as_posix().removesuffix(SUFFIX)
