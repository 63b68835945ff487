"""What an evaluation finds, and how it is told."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw

from train.sheets import tile
from train.worlds import CAPTIONS, Asked

SHEET_PROMPTS = 48
SHEET_SCALE = 4
SHEET_COLUMNS = 8
RESAMPLES = 2000


@dataclass(frozen=True)
class Plan:
    """How much is drawn, and how. Settings that are None are the model's defaults."""

    prompts: int = 240
    seeds: int = 4
    best_prompts: int = 240  # that many are drawn with all candidates, to choose the best from
    candidates: int = 16
    scenes: int = 500  # on which CLIP picks captions and the autoencoder is tried
    steps: int | None = None
    guidance: float | None = None
    sampler: str | None = None
    temperature: float | None = None
    token_top_k: int | None = None
    token_top_p: float | None = None
    prior_candidates: int | None = None

    def settings(self, taken: Sequence[str]) -> dict[str, Any]:
        """Return what is said of how to draw, as far as a model takes it."""
        said = {f.name: getattr(self, f.name) for f in fields(self) if f.name in taken}
        return {name: value for name, value in said.items() if value is not None}


@dataclass(frozen=True)
class Drawn:
    """The candidates of one prompt; candidate i has seed i."""

    prompt: Asked
    pictures: torch.Tensor  # (N, 3, H, W) uint8 on the CPU; black where none could be made
    right: list[bool]
    scores: list[float]  # cosines by CLIP
    seen: tuple[Any, ...] = ()  # what the judge saw in each


@dataclass(frozen=True)
class Estimate:
    """A figure, not a number if it cannot be told, with its 95 % interval over `number` units."""

    value: float
    low: float
    high: float
    number: int

    def __str__(self) -> str:
        return f"{self.value:6.1%} [{self.low:6.1%}, {self.high:6.1%}]"


@dataclass(frozen=True)
class Choice:
    """What choosing among candidates brings, as shares of prompts.

    `captured` is how far `top_1` gets from `mean` to `oracle`: (top_1 − mean) / (oracle − mean).
    """

    mean: Estimate
    top_1: Estimate
    oracle: Estimate
    captured: Estimate


@dataclass(frozen=True)
class Report:
    """All that is measured: `overall`, and by category of prompt, kind of fact or of scene."""

    model: str
    clip: str
    plan: Plan
    one_candidate: dict[str, Estimate]
    same_as_twin: Estimate | None  # where words mean nothing
    best_of: dict[str, Choice]
    true_caption: dict[str, Estimate]
    true_caption_held_out: dict[str, Estimate]
    ceiling: dict[str, Estimate]


def bootstrap(rows: np.ndarray, figure: Callable[[np.ndarray], np.ndarray]) -> Estimate:
    """Return a `figure` of the column means (…, C) of `rows` (N, C), each row one prompt or scene,
    with the interval in which 95 % of resamplings of the rows lie."""
    if len(rows) == 0:
        return Estimate(math.nan, math.nan, math.nan, 0)
    chosen = np.random.default_rng(0).integers(len(rows), size=(RESAMPLES, len(rows)))
    with np.errstate(invalid="ignore", divide="ignore"):
        value = float(figure(rows.mean(0)))
        values = figure(rows[chosen].mean(1))
    values = values[np.isfinite(values)]
    low, high = np.quantile(values, (0.025, 0.975)) if len(values) else (math.nan, math.nan)
    return Estimate(value, float(low), float(high), len(rows))


def share(truths: Sequence[bool] | Sequence[float]) -> Estimate:
    """Return the mean of `truths`, with the exact binomial interval where all are the same, since
    then there is nothing to resample."""
    rows = np.array(truths, dtype=float).reshape(-1, 1)
    estimate = bootstrap(rows, lambda means: means[..., 0])
    if estimate.value == 1:
        return replace(estimate, low=0.025 ** (1 / len(rows)))
    if estimate.value == 0:
        return replace(estimate, high=1 - 0.025 ** (1 / len(rows)))
    return estimate


def sheet(drawn: Sequence[Drawn]) -> Image.Image:
    """Return the first candidates of the first prompts, unpicked, enlarged, with the judge's
    mark."""
    shown = drawn[:SHEET_PROMPTS]
    pictures = torch.stack([_marked(each.pictures[0], each.right[0]) for each in shown])
    return tile(pictures, SHEET_COLUMNS, 1, [each.prompt.text for each in shown])


def _marked(picture: torch.Tensor, right: bool) -> torch.Tensor:
    """`picture` (3, H, W) enlarged, with a tick or a cross in its lower right corner."""
    large = picture.repeat_interleave(SHEET_SCALE, 1).repeat_interleave(SHEET_SCALE, 2)
    image = Image.fromarray(large.permute(1, 2, 0).numpy())
    draw = ImageDraw.Draw(image)
    x, y = image.width - 16, image.height - 16
    draw.rectangle((x - 2, y - 2, x + 14, y + 14), fill="white")
    if right:
        draw.line([(x + 1, y + 7), (x + 4, y + 11), (x + 11, y + 2)], fill="green", width=2)
    else:
        draw.line([(x + 2, y + 2), (x + 10, y + 10)], fill="red", width=2)
        draw.line([(x + 10, y + 2), (x + 2, y + 10)], fill="red", width=2)
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def to_text(report: Report) -> str:
    """Return the report as lines for people."""
    plan = report.plan
    lines = [
        f"model {report.model}, CLIP {report.clip}; [95 % interval]",
        f"one candidate right, {plan.prompts} prompts × {plan.seeds} seeds",
        *_estimates(report.one_candidate),
        *_twins(report.same_as_twin),
        f"best of {plan.candidates} by CLIP, {plan.best_prompts} prompts",
        *_choices(report.best_of),
        f"CLIP picks the true caption among {CAPTIONS} with one fact changed, {plan.scenes} scenes",
        *_estimates(report.true_caption),
        f"the same, {plan.scenes} scenes with held-out combinations",
        *_estimates(report.true_caption_held_out),
        f"the judge on what the autoencoder makes of {plan.scenes} scenes (the ceiling)",
        *_estimates(report.ceiling),
    ]
    return "\n".join(lines)


def pool_to_text(models: Sequence[str], pool: dict[str, Choice], plan: Plan) -> str:
    """Return the pool's section, likewise."""
    title = f"pool of {', '.join(models)}: best of {plan.candidates} by CLIP, "
    return "\n".join([f"{title}{plan.best_prompts} prompts", *_choices(pool)])


def _choices(choices: dict[str, Choice]) -> list[str]:
    return [
        f"  {'':<16}{'mean':<26}{'top-1':<26}{'oracle':<26}captured",
        *(
            f"  {name:<16}{choice.mean!s:<26}{choice.top_1!s:<26}{choice.oracle!s:<26}"
            f"{choice.captured}"
            for name, choice in choices.items()
        ),
    ]


def _estimates(estimates: dict[str, Estimate]) -> list[str]:
    return [f"  {name:<16}{estimate}  of {estimate.number}" for name, estimate in estimates.items()]


def _twins(estimate: Estimate | None) -> list[str]:
    if estimate is None:
        return []
    title = "the same things as without the words that mean nothing, seed by seed"
    return [title, *_estimates({"unknown": estimate})]


def to_json(report: Report) -> dict[str, Any]:
    """Return the report as a JSON object; figures that cannot be told are null."""
    return _without_nan(asdict(report))


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(each) for key, each in value.items()}
    return None if isinstance(value, float) and math.isnan(value) else value
