"""What both ways of making pictures have in common: the contract of their drafts, and checks."""

import itertools
from collections.abc import Sequence
from types import TracebackType
from typing import Protocol

import torch
from PIL import Image

MAX_SEED = 2**63 - 1


class Draft(Protocol):
    """Candidates in the making, as one batch; every list follows the order of `seeds`.

    `failed` says, by seed, why a candidate has no picture.
    """

    failed: dict[int, str]

    @property
    def seeds(self) -> tuple[int, ...]:
        """The candidates still in."""

    @property
    def total(self) -> int:
        """Steps in all: evaluations of a network, or image tokens."""

    @property
    def done(self) -> int:
        """Steps so far."""

    @property
    def log_likelihoods(self) -> list[float] | None:
        """Of the tokens drawn so far, in nats; None where pictures are not made of tokens."""

    def step(self, count: int = 1) -> None:
        """Go on; if it raises, the draft is as before."""

    def preview(
        self, indices: Sequence[int] | None = None, exact: bool = False
    ) -> list[Image.Image | None] | None:
        """What the candidates will look like; None if nothing can be told."""

    def keep(self, indices: Sequence[int]) -> None:
        """Drop all other candidates, in memory too."""

    def split(self) -> "tuple[Draft, Draft]":
        """Two drafts of half the candidates each; this one closes."""

    def images(self) -> list[Image.Image | None]:
        """The finished pictures; None for those in `failed`."""

    def pixels(self) -> torch.Tensor:
        """The finished pictures that there are, as uint8 (M, 3, H, W)."""

    def close(self) -> None:
        """Free everything."""

    def __enter__(self) -> "Draft":
        """Itself."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close."""


def check_seeds(seeds: Sequence[int]) -> None:
    """Raise ValueError unless there are seeds, different ones, within range."""
    if not seeds or len(set(seeds)) != len(seeds):
        raise ValueError(f"seeds must be one or more different numbers, not {list(seeds)}")
    if not all(0 <= seed <= MAX_SEED for seed in seeds):
        raise ValueError(f"a seed is a whole number from 0 to 2^63 - 1, not {list(seeds)}")


def check_indices(indices: Sequence[int], number: int) -> None:
    """Raise ValueError unless `indices` are some of `number` candidates and strictly increase."""
    inside = all(0 <= i < number for i in indices)
    increasing = all(a < b for a, b in itertools.pairwise(indices))
    if not indices or not inside or not increasing:
        raise ValueError(
            f"indices must strictly increase within 0 to {number - 1} and not be none, "
            f"not {list(indices)}"
        )
