"""The judge: which things stand in a picture, how many, where, how large and on what ground.

It is not a network. All sprites are known, so they are looked for everywhere by normalised
correlation, coarsely in the picture shrunk to 32 × 32, then pixel by pixel. The ground is taken off
both, and a window is compared as a whole: a diamond is not found inside a disc, since the ground
around it is missing. With a window `d` and a sprite `u`, both without their ground,

    score(d, u) = 2⟨d, u⟩ / (⟨d, d⟩ + ⟨u, u⟩)

is 1 only where they agree in form, colour and strength. A thing must score as a whole, in each of
its halves (a half-covered one does not), and in the differences between neighbouring pixels (a
blurred one does not). Outside the things found, the picture must be ground. From all this the scene
is built again, and `facts.holds` gives the verdict.

The limits below were chosen on rendered scenes and their corruptions alone (`train.stickers.trial`
prints what becomes of them), never on what a network drew. Lowest of 370 sprites, one in a hundred
in brackets; the three scores:

    blur σ 0.7 px    0.88 (0.93)   0.87 (0.93)   0.62 (0.65)
    blur σ 1 px      0.75 (0.86)   0.74 (0.84)   0.37 (0.39)
    noise σ 15/255   0.92 (0.93)   0.83 (0.88)   0.46 (0.53)

Highest, where they must be refused: 0.38 in detail for a blur of 3 px, 0.45 in the worse half for a
half covered with ground.
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
SCORE = 0.85
HALF_SCORE = 0.7
DETAIL_SCORE = 0.42
GROUND_DISTANCE = 0.1  # largest difference of a channel, of 1, from the named colour
GROUND_SHARE = 0.25  # of the pixels, at least
STRAY = 0.12  # mean difference of a channel from the ground over a patch of STRAY_PATCH px
STRAY_PATCH = 4
FAINT = 0.05  # of a sprite's ⟨u, u⟩: a half with little more is not judged by its noise
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
    """Return the verdicts on (B, 3, H, H) uint8 images that were asked for by one description."""
    return [verdict(sight, description) for sight in find(pictures)]


def verdict(sight: Sight, description: Description) -> Verdict:
    """Whether exactly what `description` tells is seen, and nothing else."""
    scene = sight.scene
    if scene is None:
        return Verdict(False, _unclear(sight))
    if holds(description, scene):
        return Verdict(True, "right")
    untold = {
        f"the ground is not {description.ground}": replace(description, ground=None),
        f"the size is not {description.size}": replace(description, size=None),
        f"the place is not {description.place}": replace(description, place=None),
        f"the first is not {description.relation} the second": replace(description, relation=None),
    }
    for reason, rest in untold.items():
        if holds(rest, scene):
            return Verdict(False, reason)
    if sorted(description.things * description.count) == sorted(scene.things):
        return Verdict(False, "several facts are wrong")
    return Verdict(False, f"it shows {', '.join(sorted(thing.key for thing in scene.things))}")


def _unclear(sight: Sight) -> str:
    if sight.ground is None:
        return "the ground has none of the known colours"
    if sight.stray:
        return "something in it is no known thing"
    return "it shows nothing"


@torch.no_grad()  # inference_mode would leave its tensors in the cache of sprites
def find(pictures: torch.Tensor) -> list[Sight]:
    """Return what is seen in each of (B, 3, H, H) uint8 images, whose H is a multiple of 32.

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
    """Return the ground that most pixels are close to: its name, and the mean colour (B, 3) of
    these."""
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

    def scores(self, difference: torch.Tensor, ground: torch.Tensor) -> torch.Tensor:
        """Return the score of each thing at each place of images (N, 3, h, w) without their ground
        (N, 3): (N, K, h − side + 1, w − side + 1)."""
        dimmed = -(difference * ground[:, :, None, None]).sum(1, keepdim=True)
        product = functional.conv2d(torch.cat([difference, dimmed], dim=1), self.sprites)
        power = difference.square().sum(1, keepdim=True)
        energy = functional.avg_pool2d(power, self.side, stride=1) * self.side**2
        ones, brightness = torch.ones_like(ground[:, :1]), ground.square().sum(1, keepdim=True)
        squares = torch.cat([ones, -2 * ground, brightness], dim=1) @ self.square.T  # (N, K)
        return 2 * product / (energy + squares[:, :, None, None])


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
    """Return the sides of things, in pixels, in images of `size`."""
    return [cells * size // CELLS for cells in SIZE_CELLS.values()]


@dataclass(frozen=True)
class _Windows:
    """Places to look at closely, W of them in all pictures: squares of one side."""

    side: int
    picture: torch.Tensor  # (W,)
    top: torch.Tensor
    left: torch.Tensor


def _windows(difference: torch.Tensor, ground: torch.Tensor) -> list[_Windows]:
    """Return the local maxima of the best score at each place, from the image shrunk to COARSE
    px."""
    size = difference.shape[-1]
    shrink = size // COARSE
    small = functional.avg_pool2d(difference, shrink)
    peaks = []
    for side in _sides(size):
        best = _templates(side, shrink, small.device).scores(small, ground).amax(1)
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
    """Return the thing that fits best in and around each window; those that fit well, by image."""
    reach = difference.shape[-1] // COARSE - 1  # pixels between the coarse places
    around = functional.pad(difference, (reach,) * 4)
    founds: list[list[Found]] = [[] for _ in difference]
    for each in windows:
        if len(each.picture) == 0:
            continue
        templates = _templates(each.side, 1, difference.device)
        grounds = ground[each.picture]
        patches = cut(around, each.picture, each.top, each.left, each.side + 2 * reach)
        scores = templates.scores(patches, grounds)  # (W, K, 2 reach + 1, 2 reach + 1)
        score, best = scores.flatten(1).max(1)
        thing, down, right = torch.unravel_index(best, scores.shape[1:])
        d = cut(patches, torch.arange(len(best)), down, right, each.side)
        rgb, alpha = templates.sprites[thing].split((3, 1), dim=1)
        u = rgb - alpha * grounds[:, :, None, None]
        good = (
            (score >= SCORE)
            & (worse_half(d, u) >= HALF_SCORE)
            & (detail_score(d, u) >= DETAIL_SCORE)
        )
        columns = (
            each.picture,
            thing,
            each.left + right - reach,
            each.top + down - reach,
            score,
        )
        for picture, number, x, y, value in zip(*(c[good].tolist() for c in columns), strict=True):
            founds[picture].append(Found(THINGS[number], x, y, each.side, value))
    return founds


def cut(
    planes: torch.Tensor, picture: torch.Tensor, top: torch.Tensor, left: torch.Tensor, side: int
) -> torch.Tensor:
    """Squares of `planes` (B, C, H, H) at W places: (W, C, side, side)."""
    pixels = torch.arange(side, device=planes.device)
    rows = (top[:, None] + pixels)[:, :, None]
    columns = (left[:, None] + pixels)[:, None, :]
    return planes.permute(0, 2, 3, 1)[picture[:, None, None], rows, columns].permute(0, 3, 1, 2)


def worse_half(d: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    """Return the lowest score of the upper, lower, left and right half: (W). Both are (W, 3, s,
    s)."""
    faint = FAINT * u.square().sum((1, 2, 3))
    scores = []
    for axis in (2, 3):
        for part, sprite in zip(d.chunk(2, axis), u.chunk(2, axis), strict=True):
            product = (part * sprite).sum((1, 2, 3))
            squares = (part.square() + sprite.square()).sum((1, 2, 3))
            scores.append((product + faint) / (squares / 2 + faint))
    return torch.stack(scores).amin(0)


def detail_score(d: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    """Return the score of the differences between neighbouring pixels: (W)."""
    product, squares = d.new_zeros(len(d)), d.new_zeros(len(d))
    for axis in (2, 3):
        a, b = d.diff(dim=axis), u.diff(dim=axis)
        product += (a * b).sum((1, 2, 3))
        squares += (a.square() + b.square()).sum((1, 2, 3))
    return 2 * product / squares


def _without_overlaps(founds: list[Found]) -> list[Found]:
    """Return the best ones that don't claim the same place."""
    kept: list[Found] = []
    for found in sorted(founds, key=lambda found: -found.score):
        if all(_shared(found, other) <= OVERLAP for other in kept):
            kept.append(found)
    return kept


def _shared(first: Found, second: Found) -> float:
    """Return the common part of two squares, as a share of the smaller one."""
    wide = min(first.x + first.side, second.x + second.side) - max(first.x, second.x)
    high = min(first.y + first.side, second.y + second.side) - max(first.y, second.y)
    return max(wide, 0) * max(high, 0) / min(first.side, second.side) ** 2


def _stray(difference: torch.Tensor, founds: Sequence[Sequence[Found]]) -> list[bool]:
    """Whether something differs from the ground outside the squares of the things found."""
    rest = difference.clone()
    for index, found in enumerate(founds):
        for each in found:
            rows = slice(max(each.y, 0), each.y + each.side)
            columns = slice(max(each.x, 0), each.x + each.side)
            rest[index, :, rows, columns] = 0
    means = functional.avg_pool2d(rest, STRAY_PATCH, 1)
    return (means.abs().amax((1, 2, 3)) > STRAY).tolist()
