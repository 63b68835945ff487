"""How candidates get from nothing to images, told before a model is loaded. Loads no torch."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Course:
    """What the drafts of a request count from and to, and where it pays to look at them.

    `branches` says whether chance plays a part on the way, so that copies of a candidate can
    become different. `looks` are shares of the way where candidates are worth comparing: earlier,
    previews tell little of the image; later, little is saved. `forks` are those where copies of the
    best should part, the last of them a look only. Both were chosen by benchmarks/search.py.
    """

    total: int  # evaluations of the network, or image tokens, of one candidate
    start: int = 0  # those that are given
    stride: int = 1  # after so many there is something new to see
    branches: bool = True
    looks: tuple[float, ...] = (0.4, 0.65)
    forks: tuple[float, ...] = (0.4, 0.65)
    second: int | None = None  # where the second pass begins, if there is one
