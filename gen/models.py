"""The models that can draw, and what can be wrong with weights: what a front end must know of both
packages below."""

import rerank.model.specs
from pipelines.checkpoints.errors import WeightsError
from pipelines.checkpoints.specs import Spec
from pipelines.families import DEFAULT_MODEL, SPECS, find

WEIGHTS_ERRORS = (WeightsError, rerank.model.specs.WeightsError)

__all__ = ["DEFAULT_MODEL", "SPECS", "WEIGHTS_ERRORS", "Spec", "find"]
