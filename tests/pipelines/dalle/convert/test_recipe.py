"""The account of both sides: what is made, what is used, and what neither side may leave open."""

from pathlib import Path

import pytest
import torch

from pipelines.checkpoints.errors import WeightsError
from pipelines.dalle.convert.recipe import Fill, Plan, Rows, carry_out, source_shapes

pytestmark = pytest.mark.slow

OURS = {"a": (5, 2), "b": (3,)}
RECIPE = {
    "a": (Rows("x", 2, 4), Fill(1, 0.5), Rows("x", 0, 2)),
    "b": (Rows("y", 0, 2), Rows("y", 1, 2, shared=True)),
}


def test_shapes_of_a_download() -> None:
    assert source_shapes(Plan(RECIPE), OURS) == {"x": (4, 2), "y": (2,)}
    dropped = (Rows("x", 4, 9),)
    assert source_shapes(Plan(RECIPE, dropped), OURS)["x"] == (9, 2)


@pytest.mark.parametrize(
    ("plan", "says"),
    [
        (Plan({"a": RECIPE["a"]}), r"not planned, or not ours: \['b'\]"),
        (Plan({**RECIPE, "b": (Rows("y", 0, 2),)}), "b has 3 rows, its recipe 2"),
        (Plan({**RECIPE, "b": (Rows("y", 0, 2), Rows("y", 1, 2))}), "rows of y are not used"),
        (Plan({**RECIPE, "b": (Rows("y", 1, 4),)}), "rows of y are not used exactly once"),
        (Plan(RECIPE, (Rows("x", 3, 5),)), "rows of x are not used exactly once"),
    ],
)
def test_plans_that_leave_something_open(plan: Plan, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        source_shapes(plan, OURS)


def test_tensors_are_put_together() -> None:
    network = torch.nn.Module()
    network.a = torch.nn.Parameter(torch.empty(5, 2, device="meta"))
    network.b = torch.nn.Parameter(torch.empty(3, device="meta"))
    source = {"x": torch.arange(8).view(4, 2).half(), "y": torch.tensor([1.0, 2.0])}
    plan = Plan(RECIPE, ignored=frozenset({"constant"}))
    made = dict(carry_out(plan, {**source, "constant": torch.ones(1)}, Path("file"), network))
    assert made["a"].tolist() == [[4, 5], [6, 7], [0.5, 0.5], [0, 1], [2, 3]]
    assert made["a"].dtype == torch.float16
    assert made["b"].tolist() == [1, 2, 2]
    with pytest.raises(WeightsError, match=r"^file has keys that no network of this kind has: z$"):
        carry_out(plan, {**source, "z": torch.ones(1)}, Path("file"), network)
