"""Several scorers together."""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Protocol

import torch

from rerank.images import Encoded, Images, list_images
from rerank.ranking import Ranking, rank
from rerank.reranker import Progress, Reranker

BLOCK = 256  # images that all members see before the next are read
ROUNDING = 1e-6  # scores of equal images may differ by so much


class MemberScorer(Protocol):
    """What can be a member: a Reranker, an AestheticHead, or anything with these."""

    @property
    def name(self) -> str:
        """What its scores are called."""
        ...

    @property
    def encoder(self) -> Reranker:
        """The model whose features it scores."""
        ...

    def score(self, prompt: str, images: Encoded) -> list[float]:
        """One number per image."""
        ...


@dataclass(frozen=True)
class Member:
    """A scorer and its weight, above 0."""

    scorer: MemberScorer
    weight: float = 1.0


@dataclass(frozen=True)
class PanelScores:
    """The scores of N images: `scores` of all members together, the raw ones of each by
    its name, and index → why, for images that could not be read."""

    scores: list[float]
    parts: dict[str, list[float]]
    failed: dict[int, str]

    def ranking(self, k: int | None = None) -> Ranking:
        """Return the k best, best first, or all of them."""
        return Ranking(
            (
                replace(each, parts={name: raw[each.index] for name, raw in self.parts.items()})
                for each in rank(self.scores)[:k]
            ),
            failed=self.failed,
        )


class Panel:
    """Scorers whose scores are averaged.

    Each member's scores are standardised over the images of one prompt (mean 0, deviation 1),
    since one's cosines and another's points cannot be added; the panel's score is their weighted
    mean. So it compares images of one call with each other, and nothing else.
    """

    def __init__(self, members: Sequence[Member]) -> None:
        """Raise ValueError for no members, equal names or weights that are not above 0."""
        names = [member.scorer.name for member in members]
        if not members or len(set(names)) != len(names):
            raise ValueError(f"a panel has members of different names, not {names}")
        if any(not member.weight > 0 for member in members):
            raise ValueError("the weights of a panel's members are above 0")
        self.members = tuple(members)

    def score_each(
        self,
        prompt: str,
        images: Images,
        *,
        progress: Progress | None = None,
        skip_bad: bool = False,
    ) -> PanelScores:
        """Return the scores of each member; `progress` and `skip_bad` as in `Reranker.encode`."""
        parts: dict[str, list[float]] = {member.scorer.name: [] for member in self.members}
        failed: dict[int, str] = {}
        done = 0
        for block in _blocks(images):
            # Members that share a model, such as a CLIP and a head on it, share its features.
            seen = {id(member.scorer.encoder): member.scorer.encoder for member in self.members}
            encoded = {key: each.encode(block, skip_bad=skip_bad) for key, each in seen.items()}
            for member in self.members:
                features = encoded[id(member.scorer.encoder)]
                parts[member.scorer.name] += member.scorer.score(prompt, features)
                failed |= {done + index: why for index, why in features.failed.items()}
            done += len(features)
            if progress is not None:
                progress(done)
        return PanelScores(self.combine(parts), parts, failed)

    def score(self, prompt: str, images: Images) -> list[float]:
        """Return the weighted mean of the members' standardised scores; nan where one gave no
        number."""
        return self.score_each(prompt, images).scores

    def top_k(self, prompt: str, images: Images, k: int) -> Ranking:
        """Return the k best images, best first, with each member's raw score in `parts`."""
        if k < 1:
            raise ValueError(f"k is {k}; at least 1 image must be asked for")
        return self.score_each(prompt, images).ranking(k)

    @property
    def name(self) -> str:
        """What its members are called together."""
        return " + ".join(member.scorer.name for member in self.members)

    def combine(self, parts: Mapping[str, Sequence[float]]) -> list[float]:
        """Return the weighted mean of the members' raw scores, by name, of the same images."""
        weights = torch.tensor([member.weight for member in self.members], dtype=torch.float64)
        table = torch.stack([standardised(parts[m.scorer.name]) for m in self.members])  # (M, N)
        return (weights @ table / weights.sum()).tolist()


def standardised(scores: Sequence[float]) -> torch.Tensor:
    """Scores (N,) with mean 0 and deviation 1 over the finite ones; all 0 where those are equal."""
    values = torch.tensor(scores, dtype=torch.float64)
    finite = values[values.isfinite()]
    if len(finite) == 0:
        return values
    spread = finite.std(correction=0)
    if spread < ROUNDING:
        return values * 0
    return (values - finite.mean()) / spread


def _blocks(images: Images) -> Iterator[Images]:
    """Return the images a block at a time, since an iterable can be read only once."""
    if isinstance(images, Encoded):
        raise ValueError("encoded images belong to one model; a panel takes the images")
    if isinstance(images, str | os.PathLike):
        images = list_images(images)
    if isinstance(images, torch.Tensor):
        yield from images.split(BLOCK)
        return
    if not isinstance(images, Iterable):
        raise ValueError(f"images are a list of images, not one {type(images).__name__}")
    iterator = iter(images)
    while block := list(islice(iterator, BLOCK)):
        yield block
