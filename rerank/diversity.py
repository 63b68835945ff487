"""The best few images that are not all alike: maximal marginal relevance (Carbonell and
Goldstein, SIGIR 1998), on the features that the scores came from."""

from collections.abc import Sequence

import torch

NEAR_DUPLICATE = 0.98  # cosine between images, from which on they count as one


def pick(
    order: Sequence[int],
    scores: Sequence[float],
    features: torch.Tensor,
    k: int,
    diversity: float,
    near_duplicate: float = NEAR_DUPLICATE,
) -> list[tuple[int, tuple[int, ...]]]:
    """Up to k images, each with the near-duplicates that it stands for.

    order           indices of the images to choose from, best first
    scores          by index
    features        (N, D) of length 1, by index
    diversity       in [0, 1]; each choice is the highest (1 - diversity) · relevance - diversity ·
                    similarity, relevance being the score between the worst (0) and the best (1),
                    similarity the cosine with the most similar image chosen before
    near_duplicate  images at least this similar to a chosen one go with it, and are themselves
                    chosen only when nothing else is left
    """
    indices = torch.tensor(order)
    if len(indices) == 0:
        return []
    values = torch.tensor([scores[index] for index in order])
    spread = (values.max() - values.min()).clamp(min=1e-9)
    relevance = (values - values.min()) / spread
    vectors = features.to("cpu", torch.float32)[indices]  # (M, D)
    similarity = torch.zeros(len(indices))  # with the most similar chosen one
    free = torch.ones(len(indices), dtype=torch.bool)
    chosen: list[tuple[int, tuple[int, ...]]] = []
    copies: list[int] = []
    while len(chosen) < k and free.any():
        merit = (1 - diversity) * relevance - diversity * similarity
        best = int(merit.masked_fill(~free, -torch.inf).argmax())
        free[best] = False
        to_best = vectors @ vectors[best]
        alike = (free & (to_best >= near_duplicate)).nonzero()[:, 0]
        free[alike] = False
        similarity = torch.maximum(similarity, to_best)
        chosen.append((order[best], tuple(order[i] for i in alike.tolist())))
        copies += alike.tolist()
    for place in sorted(copies)[: k - len(chosen)]:
        chosen.append((order[place], ()))
    return chosen
