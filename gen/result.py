"""What came back for one candidate."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from gen.settings.request import Request, seed_to_json


@dataclass
class Result:
    """One candidate: its request (for exactly this picture), its picture, and how it was judged."""

    request: Request
    index: int = 0  # its place among the candidates
    image: Image.Image | None = None  # while it is in memory; see `open`
    score: float | None = None  # cosine between prompt and image, in [-1, 1]
    scores: dict[str, float] = field(default_factory=dict)  # of several scorers, each its own
    log_likelihood: float | None = None  # of the picture's tokens, in nats, if it is made of them
    rank: int | None = None  # 1 is the best
    path: Path | None = None  # where it was saved
    unfinished: str | None = None  # "step 14 of 30"
    failed: str | None = None  # why there is no picture, or none that can be ranked

    @property
    def seed(self) -> int:
        """What names the picture within its prompt."""
        assert self.request.seed is not None
        return self.request.seed

    def open(self) -> Image.Image | None:
        """The picture, from its file if it is not in memory; None if there is none."""
        if self.image is None and self.path is not None:
            with Image.open(self.path) as file:
                return file.convert("RGB")
        return self.image

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values for scripts; what is not known is left out."""
        values = {
            "rank": self.rank,
            "score": self.score,
            "scores": self.scores or None,
            "log_likelihood": self.log_likelihood,
            "seed": seed_to_json(self.seed),
            "model": self.request.model,
            "file": None if self.path is None else str(self.path),
            "unfinished": self.unfinished,
            "failed": self.failed,
        }
        return {key: value for key, value in values.items() if value is not None}
