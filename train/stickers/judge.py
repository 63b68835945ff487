"""The judge: which things stand in a picture, how many, where, how large and on what ground.

It is not a network. All sprites are known, so they are looked for everywhere by normalised
correlation, coarsely on the picture shrunk to 32 × 32, then pixel by pixel. The ground is taken off
both, and a window is compared as a whole: a diamond is not found inside a disc, since the ground
around it is missing. With a window `d` and a sprite `u`, both without their ground,

    score(d, u) = 2⟨d, u⟩ / (⟨d, d⟩ + ⟨u, u⟩)

is 1 only where they agree in form, colour and strength; half a sprite has 2/3. The same figure of
the differences between neighbouring pixels is the `detail`, which a blurred picture lacks. What is
left of the picture outside the things found must be ground. From all this the scene is built
again, and `facts.holds` gives the verdict.

The limits below were chosen on rendered scenes and their corruptions alone (`train.stickers.trial`
prints what they do to them), never on what a network drew.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch.nn import functional

from train.stickers.atlas import sprites
from train.stickers.facts import Description, holds
from train.stickers.scene import CELLS, SIZE_CELLS, Placed, Scene
from train.stickers.vocabulary import GROUNDS, THINGS, Thing

COARSE = 32  # px a side of the picture in which windows are chosen
COARSE_SCORE = 0.4  # windows with less are not looked at closely
WINDOWS = 32  # that are looked at closely, at most
SCORE = 0.88
DETAIL = 0.5
GROUND_DISTANCE = 0.08  # largest difference of a channel, of 1, from the named colour
GROUND_SHARE = 0.25  # of the pixels, at least
STRAY = 0.12  # mean difference of a channel from the ground over a patch of STRAY_PATCH px
STRAY_PATCH = 4
OVERLAP = 0.2  # two things that share more of the smaller one's square are one
BATCH = 64


@dataclass(frozen=True)
class Found:
    """A thing in a picture: the left and top of its square and its side, in pixels."""

    thing: Thing
    x: int
    y: int
    side: int
    score: float


@dataclass(frozen=True)
class Sight:
    """All that the judge sees in one picture of `size` px a side.

    `ground` is None where no ground of the vocabulary is behind the things; `stray` says that
    something is there which is none of them.
    """

    found: tuple[Found, ...]
    ground: str | None
    stray: bool
    size: int

    @property
    def scene(self) -> Scene | None:
        """The scene that the picture shows, or None if it shows none clearly."""
        if self.ground is None or self.stray or not self.found:
            return None
        cell = self.size / CELLS
        sprites = (
            Placed(found.thing, found.x / cell, found.y / cell, round(found.side / cell))
            for found in self.found
        )
        return Scene("seen", tuple(sprites), self.ground)


@dataclass(frozen=True)
class Verdict:
    """Whether a picture is right, and if not, the first thing wrong with it."""

    right: bool
    reason: str


def judge(pictures: torch.Tensor, description: Description) -> list[Verdict]:
    """The verdicts on (B, 3, H, H) uint8 pictures that were asked for by one description."""
    return [verdict(sight, description) for sight in find(pictures)]


def verdict(sight: Sight, description: Description) -> Verdict:
    """Whether exactly what `description` tells is seen, and nothing else."""
    scene = sight.scene
    if scene is None:
        return Verdict(False, _unclear(sight))
    if holds(description, scene):
        return Verdict(True, "right")
    for fact in ("ground", "size", "place", "relation"):
        if holds(replace(description, **{fact: None}), scene):
            return Verdict(False, f"the {fact} is not {getattr(description, fact)}")
    if sorted(description.things * description.count) == sorted(scene.things):
        return Verdict(False, "several facts are wrong")
    return Verdict(False, f"it shows {', '.join(sorted(thing.key for thing in scene.things))}")


def _unclear(sight: Sight) -> str:
    if sight.ground is None:
        return "the ground has none of the known colours"
    if sight.stray:
        return "something in it is no known thing"
    return "it shows nothing"


@torch.inference_mode()
def find(pictures: torch.Tensor) -> list[Sight]:
    """What is seen in each of (B, 3, H, H) uint8 pictures, whose H is a multiple of 32.

    Raises
    ------
    ValueError : pictures of another shape or type.
    """
    *_, channels, height, width = (0, 0, 0, *pictures.shape)
    if pictures.ndim != 4 or channels != 3 or height != width or height % COARSE:
        raise ValueError(
            f"pictures are {tuple(pictures.shape)}; they must be (B, 3, H, H) with H a multiple "
            f"of {COARSE}"
        )
    if pictures.dtype != torch.uint8:
        raise ValueError(f"pictures are {pictures.dtype}; they must be uint8")
    return [sight for part in pictures.split(BATCH) for sight in _find(part.float() / 255)]


def _find(pictures: torch.Tensor) -> list[Sight]:
    size = pictures.shape[-1]
    names, ground = _grounds(pictures)
    difference = pictures - ground[:, :, None, None]
    windows = _windows(difference, ground)
    founds = [_without_overlaps(each) for each in _look_closely(windows, difference, ground)]
    strays = _stray(difference, founds)
    return [
        Sight(tuple(found), name, stray, size)
        for found, name, stray in zip(founds, names, strays, strict=True)
    ]


def _grounds(pictures: torch.Tensor) -> tuple[list[str | None], torch.Tensor]:
    """The name of the ground that most pixels are close to, and the mean colour of these: (B, 3)."""
    colours = torch.tensor([ground.rgb for ground in GROUNDS], device=pictures.device) / 255
    distance = (pictures[:, None] - colours[:, :, None, None]).abs().amax(2)  # (B, G, H, H)
    close = (distance < GROUND_DISTANCE).float()
    shares, most = close.mean((2, 3)).max(1)
    mask = close[torch.arange(len(pictures)), most][:, None]  # (B, 1, H, H)
    mean = (pictures * mask).sum((2, 3)) / mask.sum((2, 3)).clamp(min=1)
    known = (shares >= GROUND_SHARE).tolist()
    names = [GROUNDS[i].name if ok else None for i, ok in zip(most.tolist(), known, strict=True)]
    return names, mean


@dataclass(frozen=True)
class _Templates:
    """All things at one side, laid out so that any ground can be taken off in a product.

    A sprite without the ground g is rgb − αg, with rgb premultiplied. Its product with a window d
    is ⟨d, rgb⟩ − ⟨g·d, α⟩ and its square ⟨rgb, rgb⟩ − 2g·⟨α, rgb⟩ + (g·g)⟨α, α⟩.
    """

    side: int
    sprites: torch.Tensor  # (K, 4, side, side): rgb, α
    square: torch.Tensor  # (K, 5): ⟨rgb, rgb⟩, ⟨α, rgb⟩ by channel, ⟨α, α⟩

    def squares(self, ground: torch.Tensor) -> torch.Tensor:
        """⟨u, u⟩ on each of the grounds (B, 3): (B, K)."""
        ones = torch.ones_like(ground[:, :1])
        return torch.cat([ones, -2 * ground, ground.square().sum(1, True)], 1) @ self.square.T

    def score(
        self, windows: torch.Tensor, ground: torch.Tensor, energy: torch.Tensor
    ) -> torch.Tensor:
        """The score of each thing, (N, K), in windows (N, 4, side, side) of `_features` with
        energy ⟨d, d⟩ (N)."""
        product = windows.flatten(1) @ self.sprites.flatten(1).T
        return 2 * product / (energy[:, None] + self.squares(ground))


@functools.cache
def _templates(side: int, shrink: int, device: torch.device) -> _Templates:
    """Things of `side` px, shrunk by a whole factor."""
    tiles = functional.avg_pool2d(sprites(side), shrink).to(device)
    rgb, alpha = tiles[:, :3], tiles[:, 3:]
    square = torch.cat(
        [
            rgb.square().sum((1, 2, 3))[:, None],
            (rgb * alpha).sum((2, 3)),
            alpha.square().sum((2, 3)),
        ],
        dim=1,
    )
    return _Templates(side // shrink, tiles, square)


def _sides(size: int) -> list[int]:
    """The sides of things, in pixels, in pictures of `size`."""
    return [cells * size // CELLS for cells in SIZE_CELLS.values()]


def _features(difference: torch.Tensor, ground: torch.Tensor) -> torch.Tensor:
    """(B, 4, H, H): what the four planes of a template are multiplied with."""
    return torch.cat([difference, -(difference * ground[:, :, None, None]).sum(1, True)], dim=1)


@dataclass(frozen=True)
class _Windows:
    """Places to look at closely, W of them in all pictures: squares of one side."""

    side: int
    picture: torch.Tensor  # (W,)
    top: torch.Tensor
    left: torch.Tensor


def _windows(difference: torch.Tensor, ground: torch.Tensor) -> list[_Windows]:
    """The local maxima of the best score at each place, from the picture shrunk to COARSE px."""
    size = difference.shape[-1]
    shrink = size // COARSE
    small = functional.avg_pool2d(difference, shrink)
    features, power = _features(small, ground), small.square().sum(1, True)
    peaks = []
    for side in _sides(size):
        templates = _templates(side, shrink, difference.device)
        energy = functional.avg_pool2d(power, templates.side, 1) * templates.side**2
        product = functional.conv2d(features, templates.sprites)  # (B, K, h, h)
        score = 2 * product / (energy + templates.squares(ground)[:, :, None, None])
        best = score.amax(1)
        is_peak = best == functional.max_pool2d(best[:, None], 3, 1, 1)[:, 0]
        peaks.append(torch.where(is_peak, best, 0.0))
    scores = torch.cat([peak.flatten(1) for peak in peaks], dim=1)
    limit = scores.topk(WINDOWS, dim=1).values[:, -1:].clamp(min=COARSE_SCORE)
    windows = []
    for side, peak in zip(_sides(size), peaks, strict=True):
        picture, top, left = (peak >= limit[:, :, None]).nonzero(as_tuple=True)
        windows.append(_Windows(side, picture, top * shrink, left * shrink))
    return windows


def _look_closely(
    windows: list[_Windows], difference: torch.Tensor, ground: torch.Tensor
) -> list[list[Found]]:
    """The thing that fits best in and around each window; those that fit well, by picture."""
    size = difference.shape[-1]
    reach = size // COARSE - 1  # pixels between the coarse places
    features = _features(difference, ground)
    founds: list[list[Found]] = [[] for _ in difference]
    for each in windows:
        if len(each.picture) == 0:
            continue
        templates = _templates(each.side, 1, difference.device)
        grounds = ground[each.picture]
        scores, tops, lefts = [], [], []
        for down in range(-reach, reach + 1):
            for right in range(-reach, reach + 1):
                top = (each.top + down).clamp(0, size - each.side)
                left = (each.left + right).clamp(0, size - each.side)
                patches = _cut(features, each.picture, top, left, each.side)
                energy = patches[:, :3].square().sum((1, 2, 3))
                scores.append(templates.score(patches, grounds, energy))
                tops.append(top)
                lefts.append(left)
        score, shift = torch.stack(scores).max(0)  # (W, K)
        score, thing = score.max(1)
        shift = shift.gather(1, thing[:, None])[:, 0]
        top, left = (
            torch.stack(values).gather(0, shift[None])[0] for values in (tops, lefts)
        )
        patches = _cut(difference, each.picture, top, left, each.side)
        tiles = templates.sprites[thing]
        detail = _detail(patches, tiles[:, :3] - tiles[:, 3:] * grounds[:, :, None, None])
        good = (score >= SCORE) & (detail >= DETAIL)
        columns = (each.picture, thing, left, top, score)
        for picture, number, x, y, value in zip(*(c[good].tolist() for c in columns), strict=True):
            founds[picture].append(Found(THINGS[number], x, y, each.side, value))
    return founds


def _cut(
    planes: torch.Tensor, picture: torch.Tensor, top: torch.Tensor, left: torch.Tensor, side: int
) -> torch.Tensor:
    """Squares of `planes` (B, C, H, H) at W places: (W, C, side, side)."""
    pixels = torch.arange(side, device=planes.device)
    rows = (top[:, None] + pixels)[:, None, :, None]
    columns = (left[:, None] + pixels)[:, None, None, :]
    channels = torch.arange(planes.shape[1], device=planes.device)[None, :, None, None]
    return planes[picture[:, None, None, None], channels, rows, columns]


def _detail(patches: torch.Tensor, tiles: torch.Tensor) -> torch.Tensor:
    """The score of the differences between neighbouring pixels: (W)."""
    product = patches.new_zeros(len(patches))
    energy = torch.full_like(product, 1e-9)
    for axis in (2, 3):
        d, u = patches.diff(dim=axis), tiles.diff(dim=axis)
        product += (d * u).sum((1, 2, 3))
        energy += (d.square() + u.square()).sum((1, 2, 3))
    return 2 * product / energy


def _without_overlaps(founds: list[Found]) -> list[Found]:
    """The best ones that don't claim the same place."""
    kept: list[Found] = []
    for found in sorted(founds, key=lambda found: -found.score):
        if all(_shared(found, other) <= OVERLAP for other in kept):
            kept.append(found)
    return kept


def _shared(first: Found, second: Found) -> float:
    """The common part of two squares, as a share of the smaller one."""
    wide = min(first.x + first.side, second.x + second.side) - max(first.x, second.x)
    high = min(first.y + first.side, second.y + second.side) - max(first.y, second.y)
    return max(wide, 0) * max(high, 0) / min(first.side, second.side) ** 2


def _stray(difference: torch.Tensor, founds: Sequence[Sequence[Found]]) -> list[bool]:
    """Whether something differs from the ground outside the squares of the things found."""
    rest = difference.clone()
    for index, found in enumerate(founds):
        for each in found:
            rest[index, :, each.y : each.y + each.side, each.x : each.x + each.side] = 0
    means = functional.avg_pool2d(rest, STRAY_PATCH, 1)
    return (means.abs().amax((1, 2, 3)) > STRAY).tolist()
