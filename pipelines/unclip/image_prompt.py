"""What is drawn by images instead of by a text: variations, mixes, and changes by words.

Loads no torch.
"""

from dataclasses import dataclass

from PIL import Image

HALFWAY = 0.5  # of a mix, where it is not said
TOWARD = 0.35  # of the way to what words say; the article goes up to 0.25 to 0.5 (§3.3)


@dataclass(frozen=True)
class ImagePrompt:
    """Images whose embeddings are decoded, RGB of any size.

    One alone is varied. Between two, `at` says how far the embedding is turned from the first to
    the second. With `toward` the first one's is turned to where that text lies from the text
    `away_from`, and what the words do not change stays (Ramesh et al., arXiv 2204.06125, §3.3).
    """

    images: tuple[Image.Image, ...]
    at: float | None = None  # from 0 to 1; None is HALFWAY, or TOWARD with words
    toward: str | None = None
    away_from: str = ""

    def __post_init__(self) -> None:
        """Raise ValueError for what says nothing, or two things at once."""
        if not 1 <= len(self.images) <= 2:
            raise ValueError(f"{len(self.images)} images: one is varied, two are mixed")
        if self.toward is not None and len(self.images) == 2:
            raise ValueError("mix and toward each say where an image is changed to: give one")
        if not 0 <= self.turned <= 1:
            raise ValueError(f"mix_at is {self.at}; it must be from 0 to 1")

    @property
    def turned(self) -> float:
        """How far the embedding is turned, from 0 to 1."""
        if self.at is not None:
            return self.at
        return HALFWAY if self.toward is None else TOWARD
