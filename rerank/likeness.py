"""How near images come to others, in the place of how well they match a text."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from PIL import Image
from torch.nn.functional import normalize

from rerank.images import Images
from rerank.panel import Panel
from rerank.reranker import Reranker


class Likeness:
    """A scorer in a reranker's place: the cosine of each image with where others lie.

    That is the direction of one image, or, between two, the point of the arc from the first to the
    second that `at`, from 0 to 1, says. It is a member of a Panel as its reranker is, under the
    same name.
    """

    def __init__(self, reranker: Reranker, images: Sequence[Image.Image], at: float = 0.0) -> None:
        self.name, self.encoder = reranker.name, reranker
        features = reranker.image_features(images)  # (1 or 2, D)
        self._target = features[0] if len(features) == 1 else _turned(features[0], features[1], at)

    def score(self, prompt: str, images: Images) -> list[float]:
        """Return one cosine per image, in [-1, 1]; the prompt is not looked at."""
        cosines = self.encoder.image_features(images) @ self._target
        return cosines.clamp(-1, 1).tolist()  # rounding can carry them a little over 1


def _turned(first: torch.Tensor, second: torch.Tensor, at: float) -> torch.Tensor:
    """Return the direction `at` of the way from one to another, both of length 1, along the arc."""
    cosine = (first @ second).clamp(-1, 1)
    across = normalize(second - cosine * first, dim=0)  # zeros where both are the same
    angle = at * cosine.acos()
    return angle.cos() * first + angle.sin() * across


def like(scorer: Any, images: Sequence[Image.Image], at: float = 0.0) -> Any:
    """Return what scores as a scorer does, but by these images where its rerankers go by words.

    What is no reranker, such as a head or an object of the user's, stays as it is.
    """
    if isinstance(scorer, Reranker):
        return Likeness(scorer, images, at)
    if isinstance(scorer, Panel):
        members = [replace(each, scorer=like(each.scorer, images, at)) for each in scorer.members]
        return Panel(members)
    return scorer
