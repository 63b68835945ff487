"""How likely an unfinished image is to become right, from what a reranker sees of it half-way.

Previews are blurred or half empty, and a score that compares whole images tells little of them. A
logistic regression for each look says how much the cosine tells there, and how much the likelihood
of the image tokens so far, where there are some. Both are taken apart into the mean of the prompt's
candidates, which says how hard the prompt is, and each one's distance from it.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from pipelines.checkpoints.configs import read_json
from pipelines.checkpoints.errors import WeightsError
from rerank.calibration.calibration import Logistic

FILE = "previews.json"  # in the folder of the model that draws
NEAR = 0.04  # of the way: a look is judged by what was learned no farther away


@dataclass(frozen=True)
class PreviewHead:
    """What was learned for one model and one reranker, at each share of the way."""

    reranker: str  # the hash of its weights
    looks: Mapping[float, Logistic]

    def probabilities(
        self, share: float, cosines: Sequence[float], likelihoods: Sequence[float] | None
    ) -> list[float] | None:
        """Return how likely each candidate of a prompt will be right; None so far from all looks.

        `likelihoods` are those of the tokens so far, in nats per token.
        """
        nearest = min(self.looks, key=lambda known: abs(known - share))
        if abs(nearest - share) > NEAR:
            return None
        look = self.looks[nearest]
        x = evidence(
            torch.tensor(cosines), None if likelihoods is None else torch.tensor(likelihoods)
        )
        if x.shape[1] != len(look.weights):
            return None
        return look(x.float()).tolist()

    def save(self, path: Path) -> None:
        """Write as JSON."""
        looks = [{"share": share, **asdict(look)} for share, look in self.looks.items()]
        content = {"reranker": self.reranker, "looks": looks}
        path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> "PreviewHead":
        """Read what `save` wrote. Raises WeightsError for a file that is none."""
        try:
            content = read_json(path)
            looks = {float(look.pop("share")): _logistic(look) for look in content["looks"]}
            if not looks:
                raise ValueError("no looks")
            return cls(str(content["reranker"]), looks)
        except (OSError, ArithmeticError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise WeightsError(f"{path}: not a head for previews ({error})") from error


def evidence(cosines: torch.Tensor, likelihoods: torch.Tensor | None) -> torch.Tensor:
    """Return the columns (N, 2) or (N, 4) of all candidates of one prompt at one look."""
    columns = []
    for values in (cosines, likelihoods):
        if values is not None:
            finite = values.double().nan_to_num(nan=float(values[values.isfinite()].mean()))
            columns += [finite - finite.mean(), finite.mean().expand(len(values))]
    return torch.stack(columns, dim=1)


def _logistic(content: Mapping[str, Any]) -> Logistic:
    mean, std, weights = (tuple(map(float, content[name])) for name in ("mean", "std", "weights"))
    return Logistic(mean, std, weights, float(content["bias"]))
