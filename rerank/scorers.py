"""What may score images against a prompt, and how several scorers are named and loaded together.

Importing this loads no torch.
"""

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from rerank.model import specs

if TYPE_CHECKING:
    from rerank.images import Images
    from rerank.panel import Panel
    from rerank.reranker import Reranker

Weighted = tuple[str, float]  # the name or folder of a model, and its weight


class Scorer(Protocol):
    """Anything that scores: a Reranker, a Panel, an AestheticHead, an object of the user's."""

    def score(self, prompt: str, images: "Images") -> list[float]:
        """Return one number per image, higher is better; nan where there is none."""
        ...


def weighted(text: str) -> Weighted:
    """Read `name=2` as ("name", 2.0), and a name alone with the weight 1.

    What exists as a path is taken as it stands. Raises ValueError for a weight that is not above 0.
    """
    name, equals, number = text.rpartition("=")
    if not equals or os.path.exists(text):
        return text, 1.0
    try:
        weight = float(number)
    except ValueError:  # a name with a = in it
        return text, 1.0
    if not (weight > 0 and math.isfinite(weight)):
        raise ValueError(f"{text!r}: a weight is above 0")
    return name, weight


def check(models: Sequence[Weighted], aesthetic: tuple[Path, float] | None = None) -> list[str]:
    """Return the names of scorers, after a look at whether they are there. Loads nothing.

    Raises WeightsError for a model or a file that there is not, ValueError for equal names.
    """
    names = [specs.find(name).name for name, _ in models]
    if aesthetic is not None:
        file = aesthetic[0]
        if not file.is_file():
            raise specs.WeightsError(f"no file {str(file)!r}: an aesthetic head is safetensors")
        names.append(file.stem)
    if len(set(names)) != len(names):
        raise ValueError(f"rerankers need different names, not {', '.join(names)}")
    return names


def load(
    models: Sequence[Weighted],
    aesthetic: tuple[Path, float] | None = None,
    device: str | None = None,
) -> "Reranker | Panel":
    """Load a reranker, or several with their weights as a Panel.

    `aesthetic` is the file of a head on the first model's features, and its weight. Raises
    WeightsError for weights that are missing, damaged or do not fit, ValueError for a device that
    is not there and for equal names.
    """
    from rerank.reranker import Reranker

    loaded = [Reranker.load(name, device) for name, _ in models]
    if len(models) == 1 and aesthetic is None:
        return loaded[0]
    return panel(loaded, models, aesthetic)


def panel(
    loaded: "Sequence[Reranker]",
    models: Sequence[Weighted],
    aesthetic: tuple[Path, float] | None = None,
) -> "Panel":
    """Return loaded models and an aesthetic head on the first one's features as one Panel."""
    from rerank.aesthetic import AestheticHead
    from rerank.panel import Member, Panel

    members = [Member(each, weight) for each, (_, weight) in zip(loaded, models, strict=True)]
    if aesthetic is not None:
        file, weight = aesthetic
        members.append(Member(AestheticHead.load(file, loaded[0]), weight))
    return Panel(members)
