"""The result of scoring: images in their order. Imports no torch."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

# Cosines this close are equal: copies of one image differ by 1e-7 with their place in the batch.
TIE = 1e-6


@dataclass(frozen=True)
class Ranked:
    """An image's place in the list that was scored, its score, and what was asked for beside it.

    percentile, probability   with calibrate=True
    alike                     near-duplicates that it stands for, with diversity
    parts                     raw scores by the name of each scorer, from a Panel
    """

    index: int
    score: float
    percentile: float | None = None
    probability: float | None = None
    alike: tuple[int, ...] = ()
    parts: Mapping[str, float] = field(default_factory=dict, hash=False)


class Ranking(list[Ranked]):
    """Images, best first, with what is to be said of all of them.

    chunks        in how many parts the prompt was scored; more than 1 when it exceeds the context
    none_matches  whether no image matches the prompt; None without calibrate=True
    failed        index → why, for images that could not be read
    """

    def __init__(
        self,
        ranked: Iterable[Ranked] = (),
        *,
        chunks: int = 1,
        none_matches: bool | None = None,
        failed: Mapping[int, str] | None = None,
    ) -> None:
        super().__init__(ranked)
        self.chunks = chunks
        self.none_matches = none_matches
        self.failed = {} if failed is None else dict(failed)


def rank(scores: Sequence[float]) -> list[Ranked]:
    """All finite scores, best first; of equals (within a millionth) the first comes first."""
    finite = [Ranked(index, score) for index, score in enumerate(scores) if math.isfinite(score)]
    ties: list[list[Ranked]] = []
    for ranked in sorted(finite, key=lambda ranked: -ranked.score):
        if ties and ties[-1][0].score - ranked.score <= TIE:
            ties[-1].append(ranked)
        else:
            ties.append([ranked])
    return [ranked for tie in ties for ranked in sorted(tie, key=lambda ranked: ranked.index)]
