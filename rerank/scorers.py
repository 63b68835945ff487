"""What may score images against a prompt, and how several scorers are named and loaded together.

Importing this loads no torch.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from rerank.model import specs

if TYPE_CHECKING:
    from rerank.panel import Panel
    from rerank.pictures import Images
    from rerank.reranker import Reranker

Weighted = tuple[str, float]  # the name or folder of a model, and its weight


class Scorer(Protocol):
    """Anything that scores: a Reranker, a Panel, an AestheticHead, an object of the user's."""

    def score(self, prompt: str, images: "Images") -> list[float]:
        """Return one number per image, higher is better; nan where there is none."""
        ...


def check(models: Sequence[Weighted], aesthetic: tuple[Path, float] | None = None) -> str:
    """Return what scorers together are called, after a look at whether they are there.

    Loads nothing. Raises WeightsError for a model that there is not.
    """
    names = [specs.find(name).name for name, _ in models]
    if aesthetic is not None:
        names.append(aesthetic[0].stem)
    return " + ".join(names)


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
