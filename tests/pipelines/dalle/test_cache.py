"""Decoding with a cache is teacher forcing done slowly: the same logits, whatever the mask."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from pipelines.dalle.cache import advance, bytes_per_candidate, plan_slots, prefill
from pipelines.dalle.layers import Context
from pipelines.dalle.masks import Mask, image_visible
from pipelines.dalle.transformer import Transformer, TransformerConfig

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")
CONFIG = TransformerConfig(
    grid=5,
    image_vocabulary=11,
    text_length=4,
    text_vocabulary=7,
    width=16,
    heads=2,
    masks=(Mask.FULL,),
    reach=1,
)
EVERY_MASK = pytest.mark.parametrize("mask", Mask)
TOLERANCE = 1e-5


def make(config: TransformerConfig) -> Transformer:
    torch.manual_seed(0)
    transformer = Transformer(config).eval().requires_grad_(False)
    for parameter in transformer.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return transformer


def draw_inputs(P: int, N: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    text = torch.randint(0, 7, (P, 4), generator=generator)
    present = torch.arange(4) < torch.tensor([[4], [2]])[:P]
    return text, present, torch.randint(0, 11, (P * N, 25), generator=generator)


@EVERY_MASK
@pytest.mark.parametrize(("width", "reach"), [(5, 1), (6, 2), (4, 5)])
def test_slots_hold_what_a_position_sees(mask: Mask, width: int, reach: int) -> None:
    """Played through: each position writes its slot, then finds the visible ones and no others."""
    slots = plan_slots(mask, width, reach, CPU)
    holds = torch.full((slots.count,), -1)
    for position, row in enumerate(image_visible(mask, width, reach)):
        holds[slots.of[position]] = position
        assert sorted(holds[slots.seen[position]].tolist()) == row.nonzero()[:, 0].tolist()


@pytest.mark.parametrize(
    ("mask", "slots"),
    [(Mask.ROW, 33), (Mask.COLUMN, 1024), (Mask.CONVOLUTION, 166), (Mask.CONVOLUTION_TORUS, 1024)],
)
def test_layers_keep_no_more_than_can_be_seen(mask: Mask, slots: int) -> None:
    assert plan_slots(mask, 32, 5, CPU).count == slots


LIKE_BART = {
    "text_length": 1,
    "text_vocabulary": None,
    "cross_attention_width": 6,
    "extra_norms": True,
    "gated_mlp": True,
    "mlp_width": 20,
    "activation": "gelu",
    "embedding_norm": True,
    "raster_positions": True,
}
LIKE_RUDALLE = {"extra_norms": True, "head_norm": True, "masks_begin_in_text": True}
LIKE_LLAMAGEN = {
    "text_vocabulary": None,
    "prefix_width": 6,
    "prefix_mlp": True,
    "null_prefix": True,
    "rotary": True,
    "rms_norm": True,
    "gated_mlp": True,
    "activation": "silu",
}
CROSSED = {"cross_attention_width": 6}


@EVERY_MASK
@pytest.mark.parametrize("changes", [{}, CROSSED, LIKE_BART, LIKE_RUDALLE, LIKE_LLAMAGEN])
def test_every_position_as_in_one_pass(mask: Mask, changes: dict[str, Any]) -> None:
    """Two prompts, three candidates each, in two layers of each kind of mask."""
    transformer = make(replace(CONFIG, masks=(mask, Mask.FULL, mask), **changes))
    P, N = 2, 3
    text, present, image = draw_inputs(P, N)
    T = transformer.config.text_length
    text, present = text[:, :T], present[:, :T]
    if transformer.config.rotary:  # of any length, and never padded
        text, present = torch.randn(P, 3, 6), torch.ones(P, 3, dtype=torch.bool)
    context = each_context = None
    if transformer.config.cross_attention_width is not None:
        context = Context(torch.randn(P, 3, 6), torch.tensor([[True] * 3, [True, False, False]]))
        each_context = Context(
            context.states.repeat_interleave(N, dim=0), context.present.repeat_interleave(N, dim=0)
        )
    whole = transformer(
        text.repeat_interleave(N, dim=0),
        present.repeat_interleave(N, dim=0),
        image,
        each_context,
    ).image
    cache, first = prefill(transformer, text, present, image[:P, :0], N, context)
    assert torch.allclose(first.repeat_interleave(N, dim=0), whole[:, 0], atol=TOLERANCE)
    for position in range(24):
        logits = advance(transformer, cache, image[:, position], position)
        assert torch.allclose(logits, whole[:, position + 1], atol=TOLERANCE)


def test_absent_context_is_not_read() -> None:
    """Two prompts of different lengths in one batch, against each alone and without padding."""
    transformer = make(replace(CONFIG, masks=(Mask.FULL,), **LIKE_BART))
    text, present, image = draw_inputs(2, 1)
    text, present = text[:, :1], present[:, :1]
    states = torch.randn(2, 3, 6)
    shown = torch.tensor([[True] * 3, [True, False, False]])
    together = transformer(text, present, image, Context(states, shown)).image
    for row, length in ((0, 3), (1, 1)):
        rows = slice(row, row + 1)
        alone = Context(states[rows, :length], torch.ones(1, length, dtype=torch.bool))
        found = transformer(text[rows], present[rows], image[rows], alone).image
        assert torch.allclose(found, together[rows], atol=TOLERANCE)


@EVERY_MASK
@pytest.mark.parametrize("given", [1, 7, 12, 24])
@pytest.mark.parametrize("shifted", [False, True])
def test_given_tokens_are_read_in_one_pass(mask: Mask, given: int, shifted: bool) -> None:
    """Also where a ring has gone round: what follows is as if they had been fed one by one."""
    transformer = make(replace(CONFIG, masks=(mask, mask), masks_begin_in_text=shifted))
    text, present, image = draw_inputs(1, 1)
    whole = transformer(text, present, image).image
    cache, logits = prefill(transformer, text, present, image[:, :given], candidates=2)
    assert torch.allclose(logits, whole[:, given], atol=TOLERANCE)
    for position in range(given, 24):
        logits = advance(transformer, cache, image[:, position].repeat(2), position)
        assert torch.allclose(logits, whole[:, position + 1].expand(2, -1), atol=TOLERANCE)


def test_hidden_states_as_a_prefix() -> None:
    config = replace(CONFIG, text_vocabulary=None, prefix_width=6, masks=(Mask.ROW, Mask.COLUMN))
    transformer = make(config)
    _, present, image = draw_inputs(1, 1)
    hidden = torch.randn(1, 4, 6)
    output = transformer(hidden, present, image)
    assert output.text is None
    cache, logits = prefill(transformer, hidden, present, image[:, :0], candidates=1)
    for position in range(24):
        assert torch.allclose(logits, output.image[:, position], atol=TOLERANCE)
        logits = advance(transformer, cache, image[:, position], position)


def test_kept_candidates_go_on_as_if_alone() -> None:
    """keep() takes their rows of both prompts, leaves the shared text, and frees the rest."""
    transformer = make(replace(CONFIG, masks=(Mask.ROW, Mask.CONVOLUTION)))
    text, present, image = draw_inputs(2, 4)
    cache, _ = prefill(transformer, text, present, image[:2, :0], candidates=4)
    for position in range(9):
        advance(transformer, cache, image[:, position], position)
    before, shared = cache.own_bytes, cache.layers[0].text
    cache.keep(torch.tensor([1, 3]))
    rows = torch.tensor([1, 3, 4 + 1, 4 + 3])
    assert cache.own_bytes == before // 2
    assert cache.layers[0].text is shared
    other, _ = prefill(transformer, text, present, image[:2, :0], candidates=2)
    for position in range(9):
        advance(transformer, other, image[rows, position], position)
    found = advance(transformer, cache, image[rows, 9], 9)
    assert torch.allclose(found, advance(transformer, other, image[rows, 9], 9), atol=TOLERANCE)


def test_memory_grows_by_the_private_part() -> None:
    transformer = make(replace(CONFIG, masks=(Mask.ROW, Mask.COLUMN, Mask.CONVOLUTION)))
    text, present, image = draw_inputs(2, 1)
    sizes = []
    for N in (1, 2, 64):
        cache, _ = prefill(transformer, text, present, image[:, :0], candidates=N)
        sizes.append((cache.own_bytes, cache.shared_bytes))
    each = bytes_per_candidate(transformer.config, prompts=2)
    assert [own for own, _ in sizes] == [each, 2 * each, 64 * each]
    assert len({shared for _, shared in sizes}) == 1
