"""Score images against text with CLIP and SigLIP.

    from rerank import Reranker

    reranker = Reranker.load()
    best = reranker.top_k("a panda to the left of a red balloon", ["a.png", "b.png"], k=1)

Importing this package loads no torch; `Reranker.load` does. Of Salon it needs only what reads and
runs weights of any kind: `pipelines.checkpoints` and `pipelines.runtime`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from pipelines.checkpoints.errors import WeightsError
from rerank.extras import MissingExtraError
from rerank.ranking import Ranked, Ranking, rank
from rerank.scorers import Scorer

if TYPE_CHECKING:
    from pipelines.images import BadImageError
    from rerank.aesthetic import AestheticHead
    from rerank.panel import Member, Panel
    from rerank.reranker import Reranker
    from rerank.search.collection import Collection
    from rerank.search.index import Index
    from rerank.search.probe import LinearProbe

__all__ = [
    "AestheticHead",
    "BadImageError",
    "Collection",
    "Index",
    "LinearProbe",
    "Member",
    "MissingExtraError",
    "Panel",
    "Ranked",
    "Ranking",
    "Reranker",
    "Scorer",
    "WeightsError",
    "rank",
]

_MODULE_OF = {
    "AestheticHead": "rerank.aesthetic",
    "BadImageError": "pipelines.images",
    "Collection": "rerank.search.collection",
    "Index": "rerank.search.index",
    "LinearProbe": "rerank.search.probe",
    "Member": "rerank.panel",
    "Panel": "rerank.panel",
    "Reranker": "rerank.reranker",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULE_OF[name]), name)
