"""Recipes that make our networks from the tensors of a download, and account for both sides."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from pipelines.checkpoints.errors import WeightsError


@dataclass(frozen=True)
class Rows:
    """Rows `start` to `stop` of a tensor of the download, which may be `shared` with others."""

    key: str
    start: int
    stop: int
    shared: bool = False


@dataclass(frozen=True)
class Fill:
    """Rows that the download does not have, because they are constant there or never read."""

    rows: int
    value: float


Piece = Rows | Fill
Recipe = Mapping[str, tuple[Piece, ...]]  # our key → what it is made of, one below the other


@dataclass(frozen=True)
class Plan:
    """The recipe of one network, and what of the download has no place in ours.

    `dropped` are rows that are left out, `ignored` whole tensors, which need not be there.
    """

    recipe: Recipe
    dropped: tuple[Rows, ...] = ()
    ignored: frozenset[str] = frozenset()


Shape = tuple[int, ...]


def carry_out(
    plan: Plan, source: Mapping[str, torch.Tensor], path: Path, network: torch.nn.Module
) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the tensors for `network`, built without weights, one by one, in the precision of the
    download.

    Raises WeightsError, before the first one, naming the keys of the download at `path` that are
    missing, have another shape, or are neither used nor ignored; and for one that is not finite.
    """
    ours = {key: tuple(value.shape) for key, value in network.state_dict().items()}
    expected = source_shapes(plan, ours)
    unknown = source.keys() - expected.keys() - plan.ignored
    misshapen = [
        f"{key} is {list(source[key].shape)}, not {list(shape)}"
        for key, shape in expected.items()
        if key in source and tuple(source[key].shape) != shape
    ]
    refuse(path, "is missing keys", expected.keys() - source.keys())
    refuse(path, "has keys that no network of this kind has", unknown)
    refuse(path, "has keys of the wrong shape", misshapen)
    return ((key, _make(pieces, source, path, ours[key])) for key, pieces in plan.recipe.items())


def source_shapes(plan: Plan, ours: Mapping[str, Shape]) -> dict[str, Shape]:
    """Return the shapes that a download has if each of its rows is used, or dropped, exactly once.

    Raises ValueError if the plan itself does not account for all rows on both sides.
    """
    if plan.recipe.keys() != ours.keys():
        raise ValueError(f"not planned, or not ours: {sorted(plan.recipe.keys() ^ ours.keys())}")
    used: dict[str, list[Rows]] = {}
    behind: dict[str, Shape] = {}
    for key, pieces in plan.recipe.items():
        sizes = [p.rows if isinstance(p, Fill) else p.stop - p.start for p in pieces]
        if sum(sizes) != ours[key][0]:
            raise ValueError(f"{key} has {ours[key][0]} rows, its recipe {sum(sizes)}")
        for piece in pieces:
            if isinstance(piece, Rows) and not piece.shared:
                used.setdefault(piece.key, []).append(piece)
                behind[piece.key] = ours[key][1:]
    for rows in plan.dropped:
        used[rows.key].append(rows)
    shapes: dict[str, Shape] = {}
    for key, parts in used.items():
        parts.sort(key=lambda rows: rows.start)
        ends = [0, *(rows.stop for rows in parts)]
        if [rows.start for rows in parts] != ends[:-1]:
            raise ValueError(f"the rows of {key} are not used exactly once")
        shapes[key] = (ends[-1], *behind[key])
    return shapes


def shape_of(source: Mapping[str, torch.Tensor], path: Path, key: str, dimensions: int) -> Shape:
    """Return the shape of a tensor that determines a config. Raises WeightsError without it."""
    if key not in source:
        refuse(path, "is missing keys", [key])
    shape = tuple(source[key].shape)
    if len(shape) != dimensions or 0 in shape:
        refuse(path, "has keys of the wrong shape", [f"{key} is {list(shape)}"])
    return shape


def choose_heads(
    known: Mapping[tuple[int, int], int], layers: int, width: int, path: Path, heads: int | None
) -> int:
    """Choose the number of attention heads, which no shape tells: `heads`, or what is known for
    that many layers of that width. Raises WeightsError if neither says."""
    if heads is None and (layers, width) not in known:
        raise WeightsError(f"{path} has {layers} layers of width {width}: say how many --heads")
    return known[layers, width] if heads is None else heads


def refuse(path: Path, what: str, keys: Collection[str], shown: int = 3) -> None:
    """Raise WeightsError naming the first of `keys`, if there are any."""
    if keys:
        more = f" and {len(keys) - shown} more" if len(keys) > shown else ""
        raise WeightsError(f"{path} {what}: {', '.join(sorted(keys)[:shown])}{more}")


def _make(
    pieces: tuple[Piece, ...], source: Mapping[str, torch.Tensor], path: Path, shape: Shape
) -> torch.Tensor:
    """Make one of our tensors."""
    named = [piece for piece in pieces if isinstance(piece, Rows)]
    for piece in named:
        values = source[piece.key]
        if not values.is_floating_point() or not values.isfinite().all():
            refuse(path, "has keys that are no finite numbers", [piece.key])
    dtype = source[named[0].key].dtype if named else torch.float32
    parts = [
        source[piece.key][piece.start : piece.stop]
        if isinstance(piece, Rows)
        else torch.full((piece.rows, *shape[1:]), piece.value, dtype=dtype)
        for piece in pieces
    ]
    return torch.cat(parts).contiguous() if len(parts) > 1 else parts[0].clone()
