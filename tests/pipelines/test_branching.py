"""What search asks of drafts beside `keep`: `join`, the opposite of `split`, and `branch`."""

from pathlib import Path
from typing import Any

import pytest
import torch

from pipelines.dalle.pipeline import Dalle
from pipelines.diffusion.pipeline import LatentDiffusion
from pipelines.diffusion.samplers import SAMPLERS

pytestmark = pytest.mark.slow

SEEDS = (11, 0, 5)
STEPS = 6


@pytest.fixture(scope="module")
def dalle(tiny_dalle_folder: Path) -> Dalle:
    return Dalle.from_pretrained(tiny_dalle_folder, device="cpu")


def rows(draft: Any) -> torch.Tensor:
    """The latents or the tokens of all candidates."""
    state = draft._open
    return state.latents if hasattr(state, "latents") else state.tokens.float()


def assert_same(found: torch.Tensor, expected: torch.Tensor) -> None:
    assert found.shape == expected.shape
    assert torch.allclose(found, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_halves_that_join_are_the_whole(pipeline: LatentDiffusion, sampler: str) -> None:
    whole = pipeline.begin("a", seeds=SEEDS, steps=STEPS, sampler=sampler)
    whole.step(whole.total)
    for at in (0, 1, 3):
        draft = pipeline.begin("a", seeds=SEEDS, steps=STEPS, sampler=sampler)
        if at:
            draft.step(at)
        first, second = draft.split()
        first.join(second)
        assert first.seeds == SEEDS
        with pytest.raises(RuntimeError, match="closed"):
            second.step()
        first.step(first.total)
        assert_same(rows(first), rows(whole))


@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_halves_of_tokens_that_join_are_the_whole(
    dalle: Dalle, guidance: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = dalle.begin("a panda", seeds=SEEDS, guidance=guidance)
    whole.step(whole.total)
    draft = dalle.begin("a panda", seeds=SEEDS, guidance=guidance)
    draft.step(5)
    first, second = draft.split()
    second._cache.fed += 4  # as if a longer call had been given up
    first.join(second)
    first.step(first.total)
    assert first.seeds == SEEDS
    assert torch.equal(rows(first), rows(whole))
    assert first.log_likelihoods == pytest.approx(whole.log_likelihoods, abs=1e-4)
    assert [image.tobytes() for image in first.images()] == [i.tobytes() for i in whole.images()]


def test_drafts_that_are_not_equally_far_do_not_join(dalle: Dalle) -> None:
    first, second = (dalle.begin("a", seeds=[seed]) for seed in (1, 2))
    second.step()
    with pytest.raises(ValueError, match="at token 0 cannot join one at 1"):
        first.join(second)
    with pytest.raises(ValueError, match="different"):
        first.join(dalle.begin("a", seeds=[1]))
    assert first.seeds == (1,)


@pytest.mark.parametrize("sampler", [name for name, row in SAMPLERS.items() if row.stochastic])
def test_a_branch_has_the_same_past_and_other_noise(
    pipeline: LatentDiffusion, sampler: str
) -> None:
    plain = pipeline.begin("a", seeds=SEEDS, steps=STEPS, sampler=sampler)
    plain.step(plain.total)
    draft = pipeline.begin("a", seeds=SEEDS, steps=STEPS, sampler=sampler)
    draft.step(3)
    before = rows(draft)
    draft.branch([1, 1, 2], [0, 40, 41])
    assert draft.seeds == (0, 40, 41)
    assert torch.equal(rows(draft), before[[1, 1, 2]])
    draft.step(draft.total)
    assert_same(rows(draft)[:1], rows(plain)[1:2])  # with its own seed it is the same candidate
    assert not torch.allclose(rows(draft)[1], rows(plain)[1], atol=1e-3)
    alone = pipeline.begin("a", seeds=[5], steps=STEPS, sampler=sampler)  # another batch
    alone.step(3)
    alone.branch([0], [41])
    alone.step(alone.total)
    assert_same(rows(alone), rows(draft)[2:])


def test_a_branch_of_tokens_has_the_same_past_and_other_tokens(dalle: Dalle) -> None:
    settings = {"guidance": 2.0, "temperature": 1.5}
    plain = dalle.begin("a panda", seeds=SEEDS, **settings)
    plain.step(plain.total)
    draft = dalle.begin("a panda", seeds=SEEDS, **settings)
    draft.step(8)
    draft.branch([1, 1, 2], [0, 40, 41])
    draft.step(draft.total)
    found = rows(draft)
    assert torch.equal(found[0], rows(plain)[1])
    assert torch.equal(found[1][:8], rows(plain)[1][:8])
    assert not torch.equal(found[1][8:], rows(plain)[1][8:])
    other = dalle.begin("a panda", seeds=[40], **settings)
    assert torch.equal(draft._open.uniforms[1][8:], other._open.uniforms[0][8:])
    assert draft.log_likelihoods[0] == pytest.approx(plain.log_likelihoods[1], abs=1e-4)


@pytest.mark.parametrize(("indices", "seeds"), [([0, 0], [1, 1]), ([3], [1]), ([0], [1, 2])])
def test_branches_need_seeds_of_their_own(
    dalle: Dalle, indices: list[int], seeds: list[int]
) -> None:
    draft = dalle.begin("a", seeds=SEEDS)
    with pytest.raises(ValueError, match=r"different|are not candidates"):
        draft.branch(indices, seeds)
    assert draft.seeds == SEEDS
