"""What a search sees half-way: how good each candidate is likely to become."""

import math
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gen.models import raise_unless_out_of_memory
from gen.search.race import Rating
from pipelines.checkpoints.hashes import files_hash
from pipelines.checkpoints.specs import Spec

if TYPE_CHECKING:
    from pipelines.drafts import Draft
    from rerank.learn.previews import PreviewHead

# The weight of the tokens' likelihood beside the score, both standardised within a prompt. Without
# it, the choice of the best of many goes to odd images that the scorer happens to like.
LIKELIHOOD = 1.0


def find_head(spec: Spec, scorer: Any) -> "PreviewHead | None":
    """Return what was learned of a model's previews, if it was with this reranker.

    Raises WeightsError for a damaged file.
    """
    from rerank.learn.previews import FILE, PreviewHead

    path = spec.folder / FILE
    if not path.is_file() or not isinstance(getattr(scorer, "folder", None), Path):
        return None
    head = PreviewHead.load(path)
    return head if head.reranker == files_hash(scorer.folder) else None


def rate(scorer: Any, head: "PreviewHead | None", prompt: str, drafts: "Sequence[Draft]") -> Rating:
    """Rate all candidates of a prompt at once: by a head for previews if it knows this look.

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
    if head is not None:
        done, total = drafts[0].done, drafts[0].total
        per_token = [each / done for each in likelihoods] or None
        chances = head.probabilities(done / total, list(scores.values()), per_token)
        if chances is not None:
            known = {s: p for s, p in zip(seeds, chances, strict=True) if s in looks}
            return Rating(dict.fromkeys(seeds, math.nan) | known, looks)
    if not likelihoods:
        return Rating(scores, looks)
    from rerank.panel import standardised

    together = standardised(list(scores.values())) + LIKELIHOOD * standardised(likelihoods)
    return Rating(dict(zip(seeds, together.tolist(), strict=True)), looks)
