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
    from pipelines.drafts import complete

    seeds = [seed for draft in drafts for seed in draft.seeds]
    scores = dict.fromkeys(seeds, math.nan)
    try:
        there, images = complete(drafts)
        score = scorer.score if hasattr(scorer, "score") else scorer
        if there:
            scores |= zip(there, score(prompt, images), strict=True)
    except Exception as error:
        raise_unless_out_of_memory(error, candidates=1)
        raise
    digests = [sha256(image.tobytes()).digest() for image in images.cpu().numpy()]
    looks = dict(zip(there, digests, strict=True))
    likelihoods = [each for draft in drafts for each in draft.log_likelihoods or ()]
    if not likelihoods:
        return Rating(scores, looks)
    from rerank.panel import standardised

    together = standardised(list(scores.values())) + LIKELIHOOD * standardised(likelihoods)
    return Rating(dict(zip(seeds, together.tolist(), strict=True)), looks)
