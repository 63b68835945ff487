"""What samplers and schedules are called: read here for flags, files, requests and images alike.

The names themselves stand in the tables of `samplers`. Tools differ in how they write them: "DPM++
2M Karras", `dpmpp_2m_karras`, `k_dpmpp_2m_ka` and `dpmpp_2m_k` are one sampler and one schedule.
"""

import re
from functools import cache

from pipelines.diffusion.samplers import SAMPLERS, SCHEDULES

_KARRAS_ENDINGS = ("_ka", "_k")  # of AUTOMATIC1111's aliases, and of InvokeAI
_PREFIXES = ("sample_", "k_")  # of k-diffusion's functions, and of tools that call them
_LONGEST = 60  # characters


def find_sampler(written: str) -> tuple[str, str | None] | None:
    """Return our name of a sampler, and of the schedule if the text names one too, else None.

    Returns None where there is no such sampler here.
    """
    written = written.strip().lower()
    if len(written) > _LONGEST:
        return None
    for text in (written, *(written.removeprefix(p) for p in _PREFIXES if written.startswith(p))):
        if (found := _find(text)) is not None:
            return found
    return None


def find_schedule(written: str) -> str | None:
    """Return our name of a schedule, or None where there is none of that name here."""
    return _schedules().get(_plain(written)) if len(written) <= _LONGEST else None


def _find(text: str) -> tuple[str, str | None] | None:
    plain, samplers = _plain(text), _samplers()
    if plain in samplers:
        return samplers[plain], None
    for ending in _KARRAS_ENDINGS:
        if text.endswith(ending) and (name := _plain(text.removesuffix(ending))) in samplers:
            return samplers[name], "karras"
    for ending, schedule in _schedules().items():
        if plain.endswith(ending) and (name := plain.removesuffix(ending)) in samplers:
            return samplers[name], schedule
    return None


@cache
def _samplers() -> dict[str, str]:
    """Our names, by all that samplers are called, in plain writing."""
    return {
        _plain(written): name
        for name, row in SAMPLERS.items()
        for written in (name, row.a1111, *row.aliases)
    }


@cache
def _schedules() -> dict[str, str]:
    """Likewise for schedules."""
    return {
        _plain(written): name
        for name, row in SCHEDULES.items()
        for written in (name, row.a1111, *row.aliases)
    }


def _plain(written: str) -> str:
    """Return a name without what tools write differently: capitals, gaps, and ++ for pp."""
    return re.sub(r"[\s_-]", "", written.lower()).replace("++", "pp")
