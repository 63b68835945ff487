"""The judge of the world: which things stand in an image, in which style, where and how large.

It is no network. All drawings are known, so they are looked for: some 6,000 of them, at six sizes,
at every second pixel. First coarsely: every window is averaged to 8 × 8 points, and one matrix
product compares all windows of a size with all drawings at that size. The best drawings of the best
windows are then compared pixel by pixel, a pixel around, and must agree as a whole, in each half
and in the differences between neighbouring pixels, by the same score as in `train.stickers.judge`.
What explains most of the image is taken first; what it covers is then no longer looked at. Outside
of all that is found, the image must be background. `facts.holds` gives the verdict.

Some drawings are nearly the same, the more so when small. A thing found keeps those that fit within
`TIE` of the best, and a caption is right if any of them makes it so.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice, product

import numpy as np
import torch
from torch.nn import functional

from train.stickers.judge import cut, detail_score, worse_half
from train.world import renderer
from train.world.facts import Told, holds
from train.world.scene import CELLS, Scene, Sprite
from train.world.vocabulary import BACKGROUNDS, SHAPE_NUMBERS, SIZES, STYLES, THINGS

POINTS = 8  # a side, to which a window is averaged
STRIDE = 2  # pixels between windows
COARSE_SCORE = 0.5  # windows with less are not looked at closely
WINDOWS = 40  # of an image that are, at most
LIKELY = 8  # drawings that are compared closely at a window
REACH = 1  # pixels around a window
SCORE, HALF_SCORE, DETAIL_SCORE = 0.8, 0.62, 0.3
TIE = 0.02  # of the score: drawings that fit as well as the best
TIED = 4  # of them, at most
BACKGROUND_DISTANCE = 0.1  # largest difference of a channel, of 1, from the named colour
BACKGROUND_SHARE = 0.12  # of the pixels, at least
STRAY = 0.14  # mean difference of a channel from the background over STRAY_PATCH × STRAY_PATCH
STRAY_PATCH = 4
OVERLAP = 0.2  # two things that share more of the smaller one's square are one
READINGS = 64  # of the tied drawings of an image that a caption is tried with
SIDES = tuple(cells for sides in SIZES.values() for cells in sides)
TOGETHER = 16


@dataclass(frozen=True)
class Drawing:
    """One drawing that can be found: a thing in a style; shapes have none."""

    thing: int
    style: str | None


@dataclass(frozen=True)
class Found:
    """What stands at a place: the drawings that fit (best first), left, top and side in pixels."""

    drawings: tuple[Drawing, ...]
    x: int
    y: int
    side: int
    score: float

    @property
    def thing(self) -> int:
        """The thing that fits best."""
        return self.drawings[0].thing


@dataclass(frozen=True)
class Sight:
    """All that the judge sees in one image. `background` is None for no known one; `stray` says
    that something is there which is no known drawing."""

    found: tuple[Found, ...]
    background: str | None
    stray: bool
    cell: int

    def scenes(self) -> Iterator[Scene]:
        """Yield the scenes that the image may show: one, or more where drawings are tied."""
        if self.background is None or self.stray or not self.found:
            return
        for drawings in islice(product(*(each.drawings for each in self.found)), READINGS):
            styles = {drawing.style for drawing in drawings} - {None}
            sprites = tuple(
                Sprite(
                    drawing.thing,
                    each.x / self.cell,
                    each.y / self.cell,
                    round(each.side / self.cell),
                )
                for drawing, each in zip(drawings, self.found, strict=True)
            )
            for style in sorted(str(style) for style in styles) or ["plain"]:
                yield Scene("seen", style, self.background, sprites)


@dataclass(frozen=True)
class Verdict:
    """Whether an image is right, and if not, what is wrong with it."""

    right: bool
    reason: str


def judge(images: torch.Tensor, told: Sequence[Told]) -> list[Verdict]:
    """Return the verdict on each of (B, 3, 64, 64) uint8 images, by what was asked for each."""
    return [verdict(sight, each) for sight, each in zip(find(images), told, strict=True)]


def verdict(sight: Sight, told: Told) -> Verdict:
    """Tell whether exactly what is told is seen, and nothing else."""
    scenes = list(sight.scenes())
    if not scenes:
        return Verdict(False, _unclear(sight))
    if any(_holds(told, scene, sight) for scene in scenes):
        return Verdict(True, "right")
    for name in ("background", "style", "size", "place", "relation"):
        rest = replace(told, **{name: None})  # type: ignore[arg-type]
        if any(_holds(rest, scene, sight) for scene in scenes):
            return Verdict(False, f"{name} is wrong")
    names = sorted(THINGS[each.thing].name for each in sight.found)
    return Verdict(False, f"it shows {', '.join(names)}")


def _holds(told: Told, scene: Scene, sight: Sight) -> bool:
    """Tell whether what is told is so; shapes have no style, so none is wrong."""
    if all(each.drawings[0].style is None for each in sight.found):
        told = replace(told, style=None)
    return holds(told, scene)


def _unclear(sight: Sight) -> str:
    if sight.background is None:
        return "the background has none of the known colours"
    return "something in it is no known drawing" if sight.stray else "it shows nothing"


@dataclass(frozen=True)
class _Drawings:
    """All drawings at one side, whole and averaged. A drawing without the background g is
    rgb − αg; its product with a window d is ⟨d, rgb⟩ − ⟨g·d, α⟩."""

    drawings: tuple[Drawing, ...]
    whole: torch.Tensor  # (K, 4, side, side) uint8: rgb times α, α
    coarse: torch.Tensor  # (K, 4 · POINTS²) float32 in [0, 1]
    squares: torch.Tensor  # (K, 5): of the coarse ones ⟨rgb, rgb⟩, ⟨α, rgb⟩ by channel, ⟨α, α⟩


@functools.cache
def _drawings(side: int, device: torch.device) -> _Drawings:
    drawings = [
        Drawing(thing, style)
        for style in STYLES
        for thing in range(SHAPE_NUMBERS[0])
        if THINGS[thing].key in renderer.atlas_of(style).row
    ]
    drawings += [Drawing(thing, None) for thing in SHAPE_NUMBERS]
    pixels = [renderer.sprite_pixels(each.thing, each.style or "plain", side) for each in drawings]
    whole = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).contiguous()
    small = functional.avg_pool2d(whole.float() / 255, side // POINTS)
    rgb, alpha = small[:, :3], small[:, 3:]
    squares = [
        rgb.square().sum((1, 2, 3))[:, None],
        (rgb * alpha).sum((2, 3)),
        alpha.square().sum((2, 3)),
    ]
    return _Drawings(
        tuple(drawings),
        whole.to(device),
        small.flatten(1).to(device),
        torch.cat(squares, dim=1).to(device),
    )


@torch.no_grad()
def find(images: torch.Tensor) -> list[Sight]:
    """Return what is seen in each of (B, 3, H, H) uint8 images, H a multiple of 64; larger ones are
    averaged down to 64 pixels first, in which all places are given.

    Raises
    ------
    ValueError : images of another shape or type.
    """
    if images.ndim != 4 or images.shape[1] != 3 or images.dtype != torch.uint8:
        raise ValueError(f"images are {tuple(images.shape)} {images.dtype}, not (B, 3, H, H) uint8")
    if images.shape[2] != images.shape[3] or images.shape[2] % (CELLS * POINTS):
        raise ValueError(f"images are {tuple(images.shape)}: the side must be a multiple of 64")
    shrink = images.shape[2] // (CELLS * POINTS)
    parts = (functional.avg_pool2d(part.float() / 255, shrink) for part in images.split(TOGETHER))
    return [sight for part in parts for sight in _find(part)]


def _find(images: torch.Tensor) -> list[Sight]:
    names, background = _backgrounds(images)
    difference = images - background[:, :, None, None]
    founds: list[list[tuple[float, Found]]] = [[] for _ in images]
    for window in _windows(difference, background):
        for picture, gain, found in _look_closely(window, difference, background):
            founds[picture].append((gain, found))
    kept = [_without_overlaps(each) for each in founds]
    strays = _strays(difference, kept)
    cell = images.shape[-1] // CELLS
    return [
        Sight(tuple(found), name, stray, cell)
        for found, name, stray in zip(kept, names, strays, strict=True)
    ]


def _backgrounds(images: torch.Tensor) -> tuple[list[str | None], torch.Tensor]:
    """Return the background that most pixels of the border are close to: its name, and the mean
    colour (B, 3) of these pixels."""
    colours = torch.tensor(list(BACKGROUNDS.values()), device=images.device) / 255
    distance = (images[:, None] - colours[:, :, None, None]).abs().amax(2)  # (B, G, H, H)
    nearest = distance == distance.amin(1, keepdim=True)
    close = ((distance < BACKGROUND_DISTANCE) & nearest).float()
    shares, most = close.mean((2, 3)).max(1)
    mask = close[torch.arange(len(images)), most][:, None]
    mean = (images * mask).sum((2, 3)) / mask.sum((2, 3)).clamp(min=1)
    known = (shares >= BACKGROUND_SHARE).tolist()
    names = tuple(BACKGROUNDS)
    return [names[i] if ok else None for i, ok in zip(most.tolist(), known, strict=True)], mean


@dataclass(frozen=True)
class _Windows:
    """Squares of one side to look at closely, W of them, with their likeliest drawings."""

    side: int
    picture: torch.Tensor  # (W,)
    top: torch.Tensor
    left: torch.Tensor
    likely: torch.Tensor  # (W, LIKELY)


def _windows(difference: torch.Tensor, background: torch.Tensor) -> list[_Windows]:
    """Return the local maxima of the best coarse score at each place."""
    size = difference.shape[-1]
    cell, stride = size // CELLS, STRIDE * size // 64
    peaks, likely = [], []
    for cells in SIDES:
        best, drawings = _coarse(difference, background, cells * cell, stride)
        is_peak = best == functional.max_pool2d(best[:, None], 3, 1, 1)[:, 0]
        peaks.append(torch.where(is_peak & (best >= COARSE_SCORE), best, 0.0))
        likely.append(drawings)
    scores = torch.cat([peak.flatten(1) for peak in peaks], dim=1)
    limit = scores.topk(min(WINDOWS, scores.shape[1]), dim=1).values[:, -1:].clamp(min=1e-6)
    windows = []
    for cells, peak, drawings in zip(SIDES, peaks, likely, strict=True):
        picture, row, column = (peak >= limit[:, :, None]).nonzero(as_tuple=True)
        if len(picture):
            chosen = drawings[picture, row, column]
            windows.append(_Windows(cells * cell, picture, row * stride, column * stride, chosen))
    return windows


def _coarse(
    difference: torch.Tensor, background: torch.Tensor, side: int, stride: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the best coarse score (B, h, w) of the windows of a side, and the numbers of the
    drawings that have the LIKELY best ones (B, h, w, LIKELY)."""
    known = _drawings(side, difference.device)
    point = side // POINTS
    dimmed = -(difference * background[:, :, None, None]).sum(1, keepdim=True)
    means = functional.avg_pool2d(torch.cat([difference, dimmed], dim=1), point, stride=1)
    width = (difference.shape[-1] - side) // stride + 1
    starts = torch.arange(width, device=difference.device) * stride
    at = starts[:, None] + torch.arange(POINTS, device=difference.device) * point  # (w, P)
    rows = means[:, :, at]  # (B, 4, h, P, ·)
    windows = rows[..., at].permute(0, 2, 4, 1, 3, 5)  # (B, h, w, 4, P, P)
    flat = windows.flatten(3)  # (B, h, w, 4 P²)
    power = windows[:, :, :, :3].square().sum((3, 4, 5))
    ones, bright = torch.ones_like(background[:, :1]), background.square().sum(1, keepdim=True)
    squares = torch.cat([ones, -2 * background, bright], dim=1) @ known.squares.T  # (B, K)
    best, drawings = [], []
    for row, energy, square in zip(flat, power, squares, strict=True):
        scores = (2 * row.flatten(0, 1) @ known.coarse.T) / (energy.flatten()[:, None] + square)
        top = scores.topk(LIKELY, dim=1)
        best.append(top.values[:, 0].view(width, width))
        drawings.append(top.indices.view(width, width, LIKELY))
    return torch.stack(best), torch.stack(drawings)


def _look_closely(
    windows: _Windows, difference: torch.Tensor, background: torch.Tensor
) -> Iterator[tuple[int, float, Found]]:
    """Yield the picture, what is explained of it, and what is found, for all that fit well."""
    known, side = _drawings(windows.side, difference.device), windows.side
    around = functional.pad(difference, (REACH,) * 4)
    patches = cut(around, windows.picture, windows.top, windows.left, side + 2 * REACH)
    drawn = known.whole[windows.likely].float() / 255  # (W, L, 4, s, s)
    ground = background[windows.picture][:, None, :, None, None]
    u = drawn[:, :, :3] - drawn[:, :, 3:] * ground
    span = 2 * REACH + 1
    shifts = torch.stack(
        [patches[:, :, y : y + side, x : x + side] for y in range(span) for x in range(span)],
        dim=1,
    )  # (W, S, 3, s, s)
    dots = torch.einsum("wsn,wln->wsl", shifts.flatten(2), u.flatten(2))
    power_d, power_u = shifts.square().sum((2, 3, 4)), u.square().sum((2, 3, 4))
    scores = 2 * dots / (power_d[:, :, None] + power_u[:, None] + 1e-9)
    score, shift = scores.max(1)  # (W, L)
    best, which = score.max(1)
    one = torch.arange(len(best), device=best.device)
    d, sprite = shifts[one, shift[one, which]], u[one, which]
    half, detail = worse_half(d, sprite), detail_score(d, sprite)
    gain = 2 * dots[one, shift[one, which], which] - power_u[one, which]
    good = (best >= SCORE) & (half >= HALF_SCORE) & (detail >= DETAIL_SCORE)
    for number in good.nonzero()[:, 0].tolist():
        order = score[number].argsort(descending=True)[:TIED].tolist()
        fits = [n for n in order if score[number, n] >= best[number] - TIE]
        down, right = divmod(int(shift[number, which[number]]), span)
        found = Found(
            tuple(known.drawings[int(windows.likely[number, n])] for n in fits),
            int(windows.left[number]) + right - REACH,
            int(windows.top[number]) + down - REACH,
            side,
            float(best[number]),
        )
        yield int(windows.picture[number]), float(gain[number]), found


def _without_overlaps(founds: list[tuple[float, Found]]) -> list[Found]:
    """Return what explains most, and then what does not claim the same place."""
    kept: list[Found] = []
    for _, found in sorted(founds, key=lambda each: -each[0]):
        if all(_shared(found, other) <= OVERLAP for other in kept):
            kept.append(found)
    return kept


def _shared(first: Found, second: Found) -> float:
    """Return the common part of two squares, as a share of the smaller one."""
    wide = min(first.x + first.side, second.x + second.side) - max(first.x, second.x)
    high = min(first.y + first.side, second.y + second.side) - max(first.y, second.y)
    return max(wide, 0) * max(high, 0) / min(first.side, second.side) ** 2


def _strays(difference: torch.Tensor, founds: Sequence[Sequence[Found]]) -> list[bool]:
    """Tell whether something differs from the background outside the squares of what is found."""
    rest = difference.clone()
    for index, found in enumerate(founds):
        for each in found:
            rows = slice(max(each.y, 0), each.y + each.side)
            columns = slice(max(each.x, 0), each.x + each.side)
            rest[index, :, rows, columns] = 0
    means = functional.avg_pool2d(rest, STRAY_PATCH, 1)
    return (means.abs().amax((1, 2, 3)) > STRAY).tolist()
