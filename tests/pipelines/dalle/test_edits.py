"""Edits of image tokens: which tokens stay, which are drawn, and that pixels stay with them."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pipelines.dalle import draft as drafts_of_tokens
from pipelines.dalle.draft import DalleDraft
from pipelines.dalle.pipeline import Dalle
from pipelines.dalle.ways import choose_ways
from pipelines.drafts import draw
from pipelines.editing import Edit, Start, prepare

SEEDS = (1, 2, 3)


@pytest.fixture(scope="module")
def dalle(tiny_dalle_folder: Path) -> Dalle:
    return Dalle.from_pretrained(tiny_dalle_folder, device="cpu")


def picture() -> Image.Image:
    colours = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    return Image.fromarray(colours)


def mask_of(*box: int) -> Image.Image:
    mask = Image.new("L", (32, 32), 0)
    mask.paste(255, box)
    return mask


def finished(draft: DalleDraft) -> torch.Tensor:
    draft.step(16)
    return draft._open.tokens


@pytest.mark.parametrize(("strength", "drawn"), [(0.25, 4), (0.3, 5), (1.0, 16)])
def test_strength_is_the_share_of_tokens_that_are_drawn(
    dalle: Dalle, strength: float, drawn: int
) -> None:
    before = dalle.tokens(picture()).flatten()
    draft = dalle.begin("a", seeds=SEEDS, start=Start((picture(),), strength))
    is_given = draft._open.is_given
    assert (~is_given).sum(dim=1).tolist() == [drawn] * 3
    tokens = finished(draft)
    assert torch.equal(tokens[is_given], before.expand(3, -1)[is_given])
    if drawn < 16:
        assert not torch.equal(is_given[0], is_given[1]), "each candidate draws others"


def test_tokens_outside_a_mask_are_given_and_their_pixels_equal(dalle: Dalle) -> None:
    before, mask = dalle.tokens(picture()), mask_of(8, 8, 24, 20)
    start = prepare(picture(), mask, Edit(1.0), (32, 32), 8)
    with dalle.begin("a", seeds=SEEDS, start=start) as draft:
        tokens = finished(draft).view(3, 4, 4)
        drawn = torch.zeros(4, 4, dtype=torch.bool)
        drawn[1:3, 1:3] = True
        assert torch.equal(tokens[:, ~drawn], before[~drawn].expand(3, -1))
        outside = np.asarray(mask) == 0
        for image in draft.images():
            assert np.array_equal(np.asarray(image)[outside], np.asarray(picture())[outside])


WAYS = prepare(picture(), mask_of(0, 0, 20, 20), Edit(1.0, mask_resampling=4), (32, 32), 8)


@pytest.mark.parametrize("start", [Start((picture(),), 0.5), WAYS])
def test_candidates_of_an_edit_are_the_same_in_a_batch_and_alone(
    dalle: Dalle, start: Start
) -> None:
    together = draw(dalle.begin("a", seeds=SEEDS, start=start))
    for seed, image in zip(SEEDS, together, strict=True):
        [alone] = draw(dalle.begin("a", seeds=[seed], start=start))
        assert np.array_equal(np.asarray(alone), np.asarray(image))
    draft = dalle.begin("a", seeds=SEEDS, start=start)
    draft.step(3)
    first, second = draft.split()
    first.join(second)
    first.step(16)
    for half, image in zip(first.images(), together, strict=True):
        assert np.array_equal(np.asarray(half), np.asarray(image))


def test_a_start_has_the_size_of_the_model(dalle: Dalle) -> None:
    with pytest.raises(ValueError, match="32x32"):
        dalle.begin("a", seeds=[1], start=Start((picture().resize((64, 64)),), 0.5))


def test_ways_that_do_not_fit_give_way_to_those_that_do() -> None:
    even, one, two = [0.0, -1.0, -0.5, 0.0], [-9.0, 0.0, -9.0, -9.0], [0.0, 0.5, -9.0, -9.0]
    weights = torch.tensor([even, one, two])
    uniforms = torch.tensor([0.1, 0.1, 0.1])
    rows, after = choose_ways(weights, uniforms)
    assert rows[:4].tolist() == [0, 1, 2, 3], "most of them carry the weight"
    assert torch.equal(after[0], weights[0])
    assert rows[4:8].tolist() == [5] * 4
    assert after[1].tolist() == [0] * 4
    assert set(rows[8:].tolist()) == {8, 9}
    alone, _ = choose_ways(weights[1:2], uniforms[1:2])
    assert (alone + 4).tolist() == rows[4:8].tolist()


def drawn_first(dalle: Dalle, start: Start, candidates: int) -> torch.Tensor:
    """How often each token was drawn for the one cell that the mask frees, (V,)."""
    cell = int(start.drawn_cells(8).flatten().nonzero())  # type: ignore[union-attr]
    with dalle.begin("a", seeds=range(candidates), start=start, guidance=1.0) as draft:
        draft.step(16)
        drawn = draft._shown(range(candidates)).tokens[:, cell]
    return drawn.bincount(minlength=dalle.transformer.config.image_vocabulary) / candidates


@torch.inference_mode()
def told_by_all(dalle: Dalle, start: Start) -> torch.Tensor:
    """How likely each token is there, to a transformer that knows all others, (V,)."""
    V = dalle.transformer.config.image_vocabulary
    codes = dalle.tokens(picture()).flatten().repeat(V, 1)
    codes[:, start.drawn_cells(8).flatten()] = torch.arange(V)[:, None]  # type: ignore[union-attr]
    text = dalle.encode("a")
    read, present = (each.expand(V, *each.shape[1:]) for each in (text.read, text.present))
    logits = dalle.transformer(read, present, codes).image / dalle.spec.defaults["temperature"]
    nats = logits.log_softmax(dim=-1).gather(-1, codes[..., None]).sum(dim=(1, 2))
    return nats.softmax(dim=0)


def test_with_many_ways_tokens_are_drawn_as_if_all_around_were_known(
    tiny_dalle_folder: Path,
) -> None:
    dalle = Dalle.from_pretrained(tiny_dalle_folder, device="cpu")
    for weights in (dalle.transformer.head.weight, dalle.transformer.image_embedding.weight):
        weights.data *= 4  # or what comes later would hardly depend on what came before
    mask = mask_of(0, 0, 8, 8)
    ways = {k: prepare(picture(), mask, Edit(1.0, mask_resampling=k), (32, 32), 8) for k in (1, 32)}
    known = told_by_all(dalle, ways[1])
    distance = {k: (drawn_first(dalle, s, 600) - known).abs().sum() / 2 for k, s in ways.items()}
    assert distance[32] < 0.5 * distance[1]


def test_ways_go_on_where_a_call_was_given_up(
    dalle: Dalle, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = dalle.begin("a", seeds=SEEDS, start=WAYS)
    expected = finished(whole)
    draft = dalle.begin("a", seeds=SEEDS, start=WAYS)
    draft.step(5)
    calls = []

    def failing(weights: torch.Tensor, uniforms: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        calls.append(1)
        if len(calls) == 6:
            raise KeyboardInterrupt
        return choose_ways(weights, uniforms)

    monkeypatch.setattr(drafts_of_tokens, "choose_ways", failing)
    with pytest.raises(KeyboardInterrupt):
        draft.step(16)
    assert draft.done == 5
    assert torch.equal(finished(draft), expected)
    assert draft.log_likelihoods == pytest.approx(whole.log_likelihoods, abs=1e-4)


def test_one_way_is_left_where_chance_has_no_part(dalle: Dalle) -> None:
    draft = dalle.begin("a", seeds=[1], start=WAYS, temperature=0.0)
    assert len(finished(draft)) == 1
