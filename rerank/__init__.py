"""Judge pictures against text with CLIP.

    from rerank import Reranker

    jury = Reranker.load()
    best = jury.top_k("a panda to the left of a red balloon", ["a.png", "b.png"], k=1)

Importing this package loads no torch; `Reranker.load` does.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from rerank.specs import WeightsError

if TYPE_CHECKING:
    from rerank.preprocessing import BadImageError
    from rerank.reranker import Ranked, Reranker, rank

__all__ = ["BadImageError", "Ranked", "Reranker", "WeightsError", "rank"]

_MODULE_OF = {
    "BadImageError": "rerank.preprocessing",
    "Ranked": "rerank.reranker",
    "Reranker": "rerank.reranker",
    "rank": "rerank.reranker",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULE_OF[name]), name)
