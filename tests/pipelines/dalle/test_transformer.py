import math
from dataclasses import replace

import pytest
import torch
from torch.nn import functional

from pipelines.dalle.attention import attend, attend_shared, choose_kernel
from pipelines.dalle.layers import Context
from pipelines.dalle.masks import Mask, paper_masks, visible
from pipelines.dalle.memory import MemoryPlan
from pipelines.dalle.transformer import Output, Transformer, TransformerConfig, token_loss

pytestmark = pytest.mark.slow

TINY = TransformerConfig(
    grid=4,
    image_vocabulary=11,
    text_length=5,
    text_vocabulary=7,
    width=16,
    heads=2,
    masks=(Mask.ROW, Mask.COLUMN, Mask.CONVOLUTION),
    reach=1,
)
CPU = torch.device("cpu")
Inputs = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def make(config: TransformerConfig = TINY) -> Transformer:
    """A random transformer with weights large enough to tell positions apart."""
    torch.manual_seed(0)
    transformer = Transformer(config).eval()
    for parameter in transformer.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return transformer


@pytest.fixture
def inputs() -> Inputs:
    """Text with 5, 3 and 0 tokens, and images."""
    generator = torch.Generator().manual_seed(1)
    text = torch.randint(0, 7, (3, 5), generator=generator)
    present = torch.arange(5) < torch.tensor([[5], [3], [0]])
    return text, present, torch.randint(0, 11, (3, 16), generator=generator)


def test_the_papers_twelve_billion() -> None:
    config = TransformerConfig()
    with torch.device("meta"):
        paper = Transformer(config)
    d = config.width
    assert (d, config.heads, len(config.masks), config.length) == (3968, 62, 64, 1280)
    block = 12 * d**2 + 13 * d  # four d × d projections, an MLP of two 4 d × d; biases, two norms
    embeddings = (16384 + 8192 + 256 + 256 + 32 + 32) * d
    head = (16384 + 256 + 8192) * (d + 1)
    counted = sum(p.numel() for p in paper.parameters())
    assert counted == 64 * block + embeddings + 2 * d + head
    assert 64 * block == pytest.approx(12.09e9, rel=1e-3)


def test_memory_plan() -> None:
    plan = MemoryPlan.of(TransformerConfig(), bytes_per_value=2)
    assert plan.weights == 2 * plan.parameters
    assert plan.dense_cache_per_candidate == 64 * 2 * 1024 * 3968 * 2
    slots = 47 * 33 + 16 * 1024 + 166  # of 47 row layers, 16 column layers, one convolution
    assert plan.cache_per_candidate == slots * 2 * 3968 * 2
    assert plan.checkpointed_activations < plan.activations / 10
    text = str(plan)
    assert text.startswith("12.3 billion parameters")
    assert "24.6 GB" in text
    assert str(MemoryPlan.of(TINY)).startswith("0.01 million parameters")


def test_nothing_sees_what_comes_later(inputs: Inputs) -> None:
    """Changing a token changes only the predictions behind it; the last one changes nothing."""
    transformer = make()
    text, present, image = inputs
    before = transformer(text, present, image)
    for position in (0, 7, 15):
        changed = image.clone()
        changed[:, position] = (changed[:, position] + 1) % 11
        after = transformer(text, present, changed)
        assert torch.allclose(after.text, before.text, atol=1e-6)
        same = torch.isclose(after.image, before.image, atol=1e-6).all(dim=2).all(dim=0)
        assert same[: position + 1].all()
        assert same[position + 1 :].all() == (position == 15)


def test_padding_tokens_stand_where_text_is_absent(inputs: Inputs) -> None:
    """What is written there does not matter, but that nothing is does, and where."""
    transformer = make()
    text, present, image = inputs
    before = transformer(text, present, image).image
    rewritten = torch.where(present, text, (text + 1) % 7)
    assert torch.equal(transformer(rewritten, present, image).image, before)
    assert not torch.allclose(transformer(text, torch.ones_like(present), image).image, before)
    with torch.no_grad():
        transformer.padding.weight[4, 0] += 3
    after = transformer(text, present, image).image
    changed = ~torch.isclose(after, before).all(dim=2).all(dim=1)
    assert changed.tolist() == [False, True, True]


def test_loss_weighs_text_and_image() -> None:
    generator = torch.Generator().manual_seed(0)
    text_logits = torch.randn(2, 4, 7 + 5, generator=generator)
    image_logits = torch.randn(2, 16, 11, generator=generator)
    text = torch.tensor([[1, 2, 3, 4, 5], [6, 0, 0, 0, 0]])
    present = torch.tensor([[True] * 5, [True] + [False] * 4])
    image = torch.randint(0, 11, (2, 16), generator=generator)
    loss = token_loss(Output(text_logits, image_logits), text, present, image)
    wanted = [[2, 3, 4, 5], [7 + 1, 7 + 2, 7 + 3, 7 + 4]]  # padding tokens have ids of their own
    by_hand = [
        -text_logits[b, t].log_softmax(0)[wanted[b][t]].item() for b in range(2) for t in range(4)
    ]
    assert loss["text"].item() == pytest.approx(sum(by_hand) / 8, abs=1e-5)
    expected = loss["text"] / 8 + loss["image"] * 7 / 8
    assert torch.allclose(loss["loss"], expected)
    assert "text" not in token_loss(Output(None, image_logits), None, present, image)


def test_a_fresh_network_knows_nothing(inputs: Inputs) -> None:
    torch.manual_seed(0)
    transformer = Transformer(TINY)
    text, present, image = inputs
    figures = token_loss(transformer(text, present, image), text, present, image)
    assert figures["image"].item() == pytest.approx(math.log(11), abs=0.1)
    assert figures["text"].item() == pytest.approx(math.log(7 + 5), abs=0.1)


def test_gradient_checkpointing_changes_no_gradient(inputs: Inputs) -> None:
    gradients = []
    for switched_on in (False, True):
        transformer = make(replace(TINY, cross_attention_width=6)).train()
        transformer.gradient_checkpointing = switched_on
        text, present, image = inputs
        context = Context(torch.ones(3, 2, 6), torch.ones(3, 2, dtype=torch.bool))
        output = transformer(text, present, image, context)
        token_loss(output, text, present, image)["loss"].backward()
        gradients.append([p.grad for p in transformer.parameters()])
    for without, with_it in zip(*gradients, strict=True):
        assert torch.allclose(without, with_it, atol=1e-6)


def naive(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, shown: torch.Tensor) -> torch.Tensor:
    scores = (q @ k.mT / q.shape[-1] ** 0.5).masked_fill(~shown, -torch.inf)
    return scores.softmax(-1) @ v


@pytest.mark.parametrize("mask", Mask)
@pytest.mark.parametrize("kernel", ["sdpa", "flex"])
def test_kernels_agree(kernel: str, mask: Mask) -> None:
    generator = torch.Generator().manual_seed(0)
    shown = visible(mask, 5, 4, 1, 5 + 16, CPU)
    q, k, v = torch.randn(3, 2, 2, 5 + 16, 16, generator=generator)
    assert torch.allclose(attend(q, k, v, shown, kernel), naive(q, k, v, shown), atol=1e-5)


def test_bfloat16_on_a_cpu_agrees() -> None:
    q, k, v = torch.randn(3, 2, 3, 11, 8).requires_grad_().unbind()
    shown = torch.ones(11, 11, dtype=torch.bool).tril()
    half = attend(*(each.bfloat16() for each in (q, k, v)), shown, "sdpa")
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), naive(q, k, v, shown), atol=2e-2, rtol=0)
    assert torch.autograd.grad(half.float().sum(), v)[0].isfinite().all()


@pytest.mark.gpu
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.bfloat16, 2e-2)])
@pytest.mark.parametrize("kernel", ["sdpa", "flex", "xformers"])
def test_kernels_agree_on_a_gpu(kernel: str, dtype: torch.dtype, tolerance: float) -> None:
    device = torch.device("cuda")
    if kernel == "xformers":
        pytest.importorskip("xformers", reason="no CUDA device with xformers")
    generator = torch.Generator().manual_seed(0)
    q, k, v = torch.randn(3, 2, 4, 32 + 256, 64, generator=generator).to(device)
    for mask in Mask:
        shown = visible(mask, 32, 16, 5, 32 + 256, device)
        expected = naive(q.double(), k.double(), v.double(), shown).float()
        found = attend(q.to(dtype), k.to(dtype), v.to(dtype), shown, kernel).float()
        assert torch.allclose(found, expected, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("candidates", [1, 3])
def test_shared_keys_are_as_good_as_copies(candidates: int) -> None:
    """Two prompts with some candidates each, against plain attention over copied keys."""
    generator = torch.Generator().manual_seed(0)
    q = torch.randn(2 * candidates, 4, 1, 8, generator=generator)
    shared = torch.randn(2, 2, 4, 5, 8, generator=generator)
    own = torch.randn(2, 2 * candidates, 4, 3, 8, generator=generator)
    k, v = torch.cat([shared.repeat_interleave(candidates, dim=1), own], dim=3)
    expected = functional.scaled_dot_product_attention(q, k, v)
    assert torch.allclose(attend_shared(q, shared, own), expected, atol=1e-5)


def test_choice_of_kernel() -> None:
    assert choose_kernel(None, CPU) == choose_kernel("auto", CPU) == "sdpa"
    for wanted, reason in (("xformers", "CUDA"), ("flex", "CUDA"), ("magic", "choose from auto")):
        with pytest.raises(ValueError, match=reason):
            choose_kernel(wanted, CPU)


def test_configs_that_cannot_be() -> None:
    for changes, reason in (
        ({"heads": 3}, "no multiple of 3 heads"),
        ({"text_vocabulary": None}, "one of text_vocabulary and prefix_width must be set, or"),
        ({"prefix_width": 4}, "one of text_vocabulary and prefix_width must be set, not both"),
        ({"masks": ()}, "must not be empty"),
        ({"rotary": True}, "prefix_mlp, null_prefix and rotary need a prefix_width"),
        ({"null_prefix": True}, "need a prefix_width"),
        (
            {"text_vocabulary": None, "prefix_width": 4, "rotary": True, "heads": TINY.width // 2},
            "heads whose width is a multiple of four",
        ),
    ):
        with pytest.raises(ValueError, match=reason):
            replace(TINY, **changes)
    assert TransformerConfig(masks=("row", "column")).masks == (Mask.ROW, Mask.COLUMN)  # type: ignore[arg-type]
    assert paper_masks(1) == (Mask.CONVOLUTION,)
