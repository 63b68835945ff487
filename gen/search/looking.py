"""What a search sees half-way: how good each candidate is likely to become."""

import math
from collections.abc import Sequence
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from gen.models import raise_unless_out_of_memory
from gen.search.race import Rating

if TYPE_CHECKING:
    from pipelines.drafts import Draft

# The weight of the tokens' likelihood beside the score, both standardised within a prompt. Without
# it, the choice of the best of many goes to odd images that the scorer happens to like.
LIKELIHOOD = 1.0


def rate(scorer: Any, prompt: str, drafts: "Sequence[Draft]") -> Rating:
    """Rate all candidates of a prompt at once.

    Several scorers, and likelihoods of tokens, only compare within a prompt. Raises RoomError if
    memory is short.
    """
    import torch

    try:
        images = [image for draft in drafts for image in draft.completed()]
        there = [i for i, image in enumerate(images) if image is not None]
        shown = [image for image in images if image is not None]
        score = scorer.score if hasattr(scorer, "score") else scorer
        given = list(score(prompt, torch.stack(shown))) if shown else []
    except Exception as error:
        raise_unless_out_of_memory(error, candidates=1)
        raise
    scores = [math.nan] * len(images)
    for i, value in zip(there, given, strict=True):
        scores[i] = value
    likelihoods = [each for draft in drafts for each in draft.log_likelihoods or ()]
    if likelihoods:
        from rerank.panel import standardised

        together = standardised(scores) + LIKELIHOOD * standardised(likelihoods)
        scores = together.tolist()
    seeds = [seed for draft in drafts for seed in draft.seeds]
    digests = [sha256(image.cpu().numpy().tobytes()).digest() for image in shown]
    looks = {seeds[i]: digest for i, digest in zip(there, digests, strict=True)}
    return Rating(dict(zip(seeds, scores, strict=True)), looks)
