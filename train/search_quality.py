"""What a search is worth: how often the best image is right, against what it cost.

`python -m train.evaluate --search prune,beam` draws each prompt plainly, of which the first n
candidates are a run of n, and by each search with several budgets. Costs are steps of the network,
or image tokens, in units of one candidate. Intervals are 95 % bootstrap intervals over prompts.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from gen.engine import Engine
from gen.plan import resolve
from gen.result import Outcome, Result
from gen.settings.request import Request
from train.report import Estimate
from train.worlds import Asked, World

SIZES = (1, 2, 4, 8, 16)  # candidates of a plain run
BUDGETS = (4, 6, 8, 16)  # of a search, in candidates of a plain run


@dataclass(frozen=True)
class Spent:
    """What each prompt came to at one cost."""

    search: str
    candidates: int  # whose cost is the budget
    costs: list[float]  # by prompt, in candidates
    right: list[bool]
    seconds: list[float]

    @property
    def cost(self) -> float:
        """The mean over prompts."""
        return float(np.mean(self.costs))


def measure_search(
    engine: Engine, model: str, prompts: Sequence[Asked], world: World, searches: Sequence[str]
) -> list[Spent]:
    """Draw all prompts plainly and by each search, and judge the best image of each."""
    rows: dict[tuple[str, int], Spent] = {}
    for number, prompt in enumerate(tqdm(prompts, unit="prompt", leave=False)):
        seed = number * SIZES[-1]  # no two prompts begin with the same noise
        plain, seconds = _drawn(engine, prompt, seed, model=model, candidates=SIZES[-1], top_k=1)
        made = sorted([*plain.best, *plain.rest], key=lambda result: result.index)
        for size in SIZES:
            best = max(made[:size], key=_score)
            share = seconds * size / SIZES[-1]
            _add(rows, "none", size, size, _is_right(best, prompt, world), share)
        for search in searches:
            for size in BUDGETS:
                found, seconds = _drawn(
                    engine, prompt, seed, model=model, candidates=size, top_k=1, search=search
                )
                [schedule] = found.plan.schedules
                cost = schedule.evaluations / (schedule.total - schedule.start)
                _add(rows, search, size, cost, _is_right(found.best[0], prompt, world), seconds)
    return list(rows.values())


def _drawn(engine: Engine, prompt: Asked, seed: int, **settings: Any) -> tuple[Outcome, float]:
    # The judge knows images as the network draws them: enlarged, a third are too soft for it.
    plan = resolve(Request(prompt.text, seed=seed, upscale=1, **settings))
    # All images stay in memory when all are returned.
    plan_of_all = resolve(plan.request.replace(top_k=plan.count)) if not plan.schedules else plan
    began = time.perf_counter()
    outcome = engine.draw(plan_of_all)
    return outcome, time.perf_counter() - began


def _score(result: Result) -> float:
    return -math.inf if result.score is None else result.score


def _is_right(result: Result, prompt: Asked, world: World) -> bool:
    image = result.open()
    assert image is not None
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None]
    return world.look(pixels, prompt.description)[0][0]


def _add(
    rows: dict[tuple[str, int], Spent],
    search: str,
    size: int,
    cost: float,
    right: bool,
    seconds: float,
) -> None:
    row = rows.setdefault((search, size), Spent(search, size, [], [], []))
    row.costs.append(cost)
    row.right.append(right)
    row.seconds.append(seconds)


def table(rows: Sequence[Spent], estimate: Any) -> str:
    """Return the figures as text; `estimate` makes an Estimate of truths."""
    best = next(row for row in rows if (row.search, row.candidates) == ("none", SIZES[-1]))
    lines = [f"{'search':8}{'cost':>7}{'of plain 16':>13}   right, of {len(best.right)} prompts"]
    for row in sorted(rows, key=lambda row: (row.search != "none", row.search, row.cost)):
        found: Estimate = estimate(row.right)
        per_cost = np.sum(row.seconds) / np.sum(best.seconds)
        lines.append(
            f"{row.search:8}{row.cost:7.1f}{row.cost / best.cost:12.2f}×   {found}"
            f"   {per_cost:5.2f} × the time"
        )
    return "\n".join(lines)


def plot(rows: Sequence[Spent], estimate: Any, out: Path) -> None:
    """Draw how often the best image is right against the cost."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for search in dict.fromkeys(row.search for row in rows):
        own = sorted((r for r in rows if r.search == search), key=lambda row: row.cost)
        found = [estimate(row.right) for row in own]
        values = np.array([each.value for each in found])
        errors = np.array([[e.value - e.low for e in found], [e.high - e.value for e in found]])
        axes.errorbar([r.cost for r in own], values, errors.clip(0), label=search, capsize=3)
    axes.set(xlabel="cost, in candidates", ylabel="the best image is right", xscale="log")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(out, dpi=120)
