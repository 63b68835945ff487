"""The models that can draw, and what can be wrong with weights: what a front end must know of both
packages below."""

import rerank.specs
from pipelines.specs import DEFAULT_MODEL, SPECS, Spec, WeightsError, find

WEIGHTS_ERRORS = (WeightsError, rerank.specs.WeightsError)

__all__ = ["DEFAULT_MODEL", "SPECS", "WEIGHTS_ERRORS", "Spec", "find"]
