"""Which claims of a prompt hold in an image.

When several facts are wrong at once, no single exchange makes the prompt fit, and facts that are
right look wrong beside the others. So the prompt is corrected: of all its versions with one claim
changed, the one that fits best takes its place, for as long as that raises the score. The claims
that are still there in the end hold; those that had to be exchanged on the way, or whose thing was,
do not.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from rerank.claims.claims import Claim, Claims

# The cosines of one image with texts: (T,).
Cosines = Callable[[Sequence[str]], torch.Tensor]


@dataclass(frozen=True)
class Result:
    """Whether a claim holds in an image: a tick or a cross."""

    claim: Claim
    holds: bool


@dataclass(frozen=True)
class Checked:
    """The results for one image, and the prompt corrected until it fits best."""

    results: tuple[Result, ...]
    corrected: str


def check(claims: Claims, split: Callable[[str], Claims], cosines: Cosines) -> Checked:
    """Check the claims of a prompt in one image; `split` takes its versions apart."""
    current = claims
    while (better := _best_version(current, cosines)) is not None:
        current = split(better)
    left = {_key(claim) for claim in current.claims}
    results = tuple(Result(claim, _key(claim) in left) for claim in claims.claims)
    return Checked(results, current.prompt)


def _best_version(claims: Claims, cosines: Cosines) -> str | None:
    """Find the version with one claim changed that scores higher than any other and the prompt."""
    versions = dict.fromkeys(text for claim in claims.claims for text in claim.changed)
    texts = [claims.prompt, *versions]
    best = int(cosines(texts).nan_to_num(-torch.inf).argmax())  # of equals the first: the prompt
    return None if best == 0 else texts[best]


def _key(claim: Claim) -> tuple[str, str, str, str]:
    return claim.kind, claim.subject, claim.value, claim.other
