"""Drawing twice: the contract of drafts across both passes. test_editing.py compares the second."""

from functools import partial
from typing import Any

import pytest
import torch

from pipelines import LatentDiffusion
from pipelines.editing import SecondPass
from pipelines.upscale.enlarging import plain

LATENT = SecondPass((96, 80), 0.5, 3)
LARGER = SecondPass((96, 80), 0.6, 3, partial(plain, times=1.25))
SETTINGS: dict[str, Any] = {"steps": 3, "guidance": 2.0, "width": 64, "height": 64}


def pixels(draft: Any) -> torch.Tensor:
    while draft.done < draft.total:
        draft.step()
    return draft.pixels().int()


@pytest.mark.parametrize("second", [LATENT, LARGER], ids=["latent", "images"])
@pytest.mark.parametrize("sampler", ["euler", "euler_a", "dpmpp_2m", "heun"])
def test_candidates_are_the_same_alone_in_halves_and_when_others_are_dropped(
    pipeline: LatentDiffusion, sampler: str, second: SecondPass
) -> None:
    settings = {**SETTINGS, "sampler": sampler}
    begin = partial(pipeline.begin, "a red panda", second=second, **settings)
    with begin(seeds=[5, 6, 7]) as draft:
        first = draft.total
        assert first == (5 + 5 if sampler == "heun" else 3 + 3)
        whole = pixels(draft)
        assert draft.images()[0].size == (96, 80)
    with begin(seeds=[6]) as draft:
        assert (pixels(draft)[0] - whole[1]).abs().max() <= 2
    for at in (2, 3, 4):  # before, between and within
        draft = begin(seeds=[5, 6, 7])
        draft.step(at)
        assert draft.preview()[0].size == (96, 80)
        draft.keep([0, 2])
        halves = draft.split()
        halves[0].join(halves[1])
        assert (pixels(halves[0]) - whole[[0, 2]]).abs().max() <= 2


def test_between_the_passes_the_first_ones_images_are_seen(pipeline: LatentDiffusion) -> None:
    once = pipeline.begin("a red panda", seeds=[5], **SETTINGS)
    wanted = pixels(once)[0]
    with pipeline.begin("a red panda", seeds=[5], second=LATENT, **SETTINGS) as draft:
        draft.step(3)
        [seen] = draft.completed()
        assert seen is not None
        assert (seen.int() - wanted).abs().max() <= 1


def test_a_size_that_cannot_be_is_refused(pipeline: LatentDiffusion) -> None:
    with pytest.raises(ValueError, match="width is 97"):
        pipeline.begin("a", seeds=[1], second=SecondPass((97, 96), 0.5, 3), **SETTINGS)
    with pytest.raises(ValueError, match="strength is 0"):
        SecondPass((96, 96), 0, 3)
