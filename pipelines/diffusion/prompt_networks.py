"""Networks that a prompt names, in the spelling of AUTOMATIC1111's web UI. Loads no torch.

<lora:NAME>   <lora:NAME:0.8>   <lora:NAME:0.8:0.8>, of text encoder and UNet
"""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass

from pipelines.settings import InputError

KINDS = ("lora", "lyco")  # whose files are LoRA files, in a wide sense
_NETWORK = re.compile(r"<(lora|lyco|hypernet):([^<>:]{1,400})((?::[^<>:]{0,40}){0,4})>")
_NUMBER = re.compile(r"\s*(?:te=|unet=)?([+-]?(?:[0-9]{1,9}(?:\.[0-9]{0,9})?|\.[0-9]{1,9}))\s*")


@dataclass(frozen=True)
class Network:
    """A file that a prompt names, and how strongly it is applied."""

    name: str
    weight: float
    sign: str  # as it stands in the prompt


def named(prompt: str) -> Iterator[str]:
    """Yield what names a network in a prompt, as it stands there."""
    for match in _NETWORK.finditer(prompt):
        yield match[0]


def taken_out(prompt: str) -> tuple[str, list[Network]]:
    """Return a prompt without the LoRA files that it names, and those.

    Raises InputError for a weight that cannot be.
    """
    networks: list[Network] = []

    def take(match: re.Match[str]) -> str:
        if match[1] not in KINDS:
            return match[0]
        networks.append(Network(match[2].strip(), _weight(match), match[0]))
        return ""

    return _NETWORK.sub(take, prompt), networks


def _weight(match: re.Match[str]) -> float:
    texts = match[3].split(":")[1:]
    numbers = [_NUMBER.fullmatch(text) for text in texts]
    weights = {math.nan if number is None else float(number[1]) for number in numbers} or {1.0}
    if len(weights) > 1:
        raise InputError(f"prompt: {match[0]}: one weight holds for text encoder and UNet alike")
    weight = weights.pop()
    if not math.isfinite(weight):
        raise InputError(f"prompt: {match[0]}: a weight is a number, as in <lora:NAME:0.8>")
    return weight
