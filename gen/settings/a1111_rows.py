"""What rows of prompt files say to AUTOMATIC1111's web UI alone: mapped to settings, noted where it
makes no image different, or refused by name."""

import re
from collections.abc import Mapping
from typing import Any

from gen.errors import InputError
from gen.settings.request import RANDOM_SEED
from pipelines.settings import SPELLINGS

COUNTED = ("batch_size", "n_iter")  # their product is the number of images
VARIED = ("subseed", "subseed_strength")
# Not done here, with the values that ask for nothing.
REFUSED: Mapping[str, tuple[Any, ...]] = {
    "restore_faces": (False,),
    "tiling": (False,),
    "styles": ("", []),
    "seed_resize_from_h": (0, -1),
    "seed_resize_from_w": (0, -1),
    "enable_hr": (False,),
}
# Where files go, and what is shown: flags of the command say that.
WITHOUT_EFFECT = (
    "outpath_samples",
    "outpath_grids",
    "prompt_for_display",
    "do_not_save_samples",
    "do_not_save_grid",
)
KEYS = frozenset((*COUNTED, *VARIED, *REFUSED, *WITHOUT_EFFECT))


def mapped(values: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Return a row with settings in place of such keys, and notes on those without effect.

    Raises InputError for what is not done here.
    """
    own = {key: value for key, value in values.items() if key not in KEYS}
    theirs = {key: _value(values[key]) for key in values if key in KEYS}
    for key, off in REFUSED.items():
        if theirs.get(key) is not None and theirs[key] not in off:
            raise InputError(f"{key}: is not done here: leave it out")
    counts = [_whole(key, theirs[key]) for key in COUNTED if key in theirs]
    if counts:
        if "candidates" in own:
            raise InputError(f"candidates, {' and '.join(COUNTED)}: say one of them")
        own["candidates"] = counts[0] * counts[-1] if len(counts) == 2 else counts[0]
    if theirs.get("subseed_strength") not in (None, 0):
        own["variation"] = theirs["subseed_strength"]
        own["base_seed"] = own.get("seed")  # their seed is what ours are near
        own["seed"] = theirs.get("subseed", RANDOM_SEED)
        if own["base_seed"] is None:
            raise InputError("subseed_strength: give the seed, too")
    idle = [key for key in WITHOUT_EFFECT if key in theirs]
    return own, [f"{', '.join(idle)}: without effect here"] if idle else []


def _value(value: Any) -> Any:
    """Read a value that plain lines and tables give as text."""
    if not isinstance(value, str):
        return value
    text = value.strip()
    if re.fullmatch(r"[+-]?[0-9]{1,18}", text):
        return int(text)
    if re.fullmatch(r"[+-]?[0-9]{0,9}\.[0-9]{1,9}", text):
        return float(text)
    return SPELLINGS.get(text.lower(), text)


def _whole(key: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 10_000:
        raise InputError(f"{key} {str(value)[:40]}: must be a whole number from 1 to 10000")
    return value
