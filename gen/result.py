"""What comes back: of one candidate, and of a prompt."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from gen.settings.request import Request, seed_to_json

if TYPE_CHECKING:
    from gen.plan import Plan


@dataclass(frozen=True)
class CheckedClaim:
    """One fact that the prompt tells, and whether it holds in the image."""

    kind: str  # object, count, colour, size, place, relation or ground
    text: str  # "red ball"
    holds: bool


@dataclass
class Result:
    """One candidate: its request (for exactly this image), its image, and how it was scored."""

    request: Request
    index: int = 0  # its place among the candidates
    image: Image.Image | None = None  # while it is in memory; see `open`
    score: float | None = None  # of one reranker: the cosine with the prompt, in [-1, 1]
    scores: Mapping[str, float] = field(default_factory=dict)  # parts of a combined score, by name
    log_likelihood: float | None = None  # of the image's tokens, in nats, if it is made of them
    match: float | None = None  # the probability that it matches the prompt, where it was asked
    percentile: float | None = None  # share of unrelated captions that score lower, to 100
    claims: tuple[CheckedClaim, ...] = ()  # those of the prompt, where they were asked for
    fits_best: str | None = None  # the prompt, corrected until it fits the image best
    rank: int | None = None  # 1 is the best
    path: Path | None = None  # where it was saved
    unfinished: str | None = None  # "step 14 of 30"
    failed: str | None = None  # why there is no image, or none that can be ranked

    @property
    def seed(self) -> int:
        """What names the image within its prompt."""
        assert self.request.seed is not None
        return self.request.seed

    def open(self) -> Image.Image | None:
        """Return the image, from its file if it is not in memory; None if there is none that can
        be read."""
        if self.image is None and self.path is not None:
            from pipelines.images import opened

            try:
                with opened(self.path) as file:
                    return file.convert("RGB")
            except Exception:  # parsers raise whatever they meet in a damaged file
                return None
        return self.image

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values for scripts; what is not known is left out."""
        values = {
            "rank": self.rank,
            "score": self.score,
            "scores": dict(self.scores) or None,
            "percentile": self.percentile,
            "probability": self.match,
            "claims": [
                {"kind": each.kind, "claim": each.text, "holds": each.holds} for each in self.claims
            ]
            or None,
            "fits_best": self.fits_best,
            "log_likelihood": self.log_likelihood,
            "seed": seed_to_json(self.seed),
            "model": self.request.model,
            "file": None if self.path is None else str(self.path),
            "unfinished": self.unfinished,
            "failed": self.failed,
        }
        return {key: value for key, value in values.items() if value is not None}


@dataclass
class Outcome:
    """What one prompt came to."""

    plan: "Plan"
    best: list[Result]  # the top_k, best first
    rest: list[Result]  # those behind them, in order
    failed: list[Result]  # the candidates without an image, or without a score
    made: int  # candidates with an image, those of earlier runs included
    drawn: int  # those that were made now
    number: int | None = None  # of the prompt in its run folder
