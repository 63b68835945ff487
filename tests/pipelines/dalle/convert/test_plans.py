"""What a transformer's plan says is what is allocated, for each kind of folder."""

import pytest
import torch

from pipelines.dalle.cache import Cache
from pipelines.dalle.memory import MemoryPlan
from pipelines.dalle.pipeline import Dalle
from pipelines.families import weights_memory


@pytest.fixture(params=["tiny_dalle_folder", "rudalle_folder", "min_dalle_folder"])
def pipeline(request: pytest.FixtureRequest) -> Dalle:
    """One reads hidden states as a prefix, one text tokens, one a context by cross-attention."""
    return Dalle.from_pretrained(request.getfixturevalue(request.param), device="cpu")


def allocated(tensors: list[torch.Tensor]) -> int:
    """Bytes of all that these lie in, each once."""
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
    return sum(size for pointer, size in storages.items() if pointer)


def own(cache: Cache) -> int:
    return allocated([layer.image for layer in cache.layers])


def shared(cache: Cache) -> int:
    contexts = [layer.context for layer in cache.layers if layer.context is not None]
    keys = [tensor for context in contexts for tensor in (context.k, context.v)]
    return allocated([*(tensor for layer in cache.layers for tensor in layer.text), *keys])


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_caches(pipeline: Dalle, guidance: float) -> None:
    plan = MemoryPlan.of_model(pipeline.spec, 4, guidance)
    for seeds in ([1], [1, 2, 3]):
        with pipeline.begin("a panda", seeds=seeds, guidance=guidance) as draft:
            draft.step(2)
            assert own(draft._cache) == len(seeds) * plan.cache_per_candidate
            assert shared(draft._cache) == plan.cache_shared > 0
    half = MemoryPlan.of_model(pipeline.spec, 2, guidance)
    assert 2 * half.cache_shared == plan.cache_shared


def test_weights(pipeline: Dalle) -> None:
    networks = [pipeline.transformer, pipeline.dvae, pipeline.text_encoder]
    taken = sum(p.nbytes for n in networks if n is not None for p in n.parameters())
    assert weights_memory(pipeline.spec, 4).weights == taken
    plan = MemoryPlan.of_model(pipeline.spec, 4, 1.0)
    assert plan.weights == sum(p.nbytes for p in pipeline.transformer.parameters())
