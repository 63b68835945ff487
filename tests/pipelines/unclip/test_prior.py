"""The prior reads a text once, and then says what diffusers' forward pass says of all of it."""

from types import SimpleNamespace
from typing import Any

import diffusers
import pytest
import torch

from pipelines.unclip.prior import Prior
from pipelines.unclip.text import Read

WIDTH, CONTEXT = 16, 9


def read(words: int, generator: torch.Generator) -> Read:
    """A text of so many tokens, filled up."""
    present = torch.arange(CONTEXT)[None] < words
    hidden = torch.randn(1, CONTEXT, WIDTH, generator=generator)
    return Read(hidden, torch.randn(1, WIDTH, generator=generator), present)


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"added_emb_type": None, "additional_embeddings": 3},
        {"norm_in_type": "layer", "embedding_proj_norm_type": "layer"},
        {"encoder_hid_proj_type": None, "num_attention_heads": 2, "attention_head_dim": 8},
    ],
)
@pytest.mark.parametrize("guidance", [1.0, 4.0])
@torch.inference_mode()
def test_what_is_known_of_texts_changes_nothing(config: dict[str, Any], guidance: float) -> None:
    torch.manual_seed(0)
    sizes = {"num_attention_heads": 2, "attention_head_dim": 12, "num_layers": 3}
    network = diffusers.PriorTransformer(
        embedding_dim=WIDTH, num_embeddings=CONTEXT, **{**sizes, **config}
    ).eval()
    for parameter in network.parameters():  # some begin as zeros
        parameter.normal_(std=0.3)
    generator = torch.Generator().manual_seed(1)
    texts = [read(words, generator) for words in (2, 7)]  # the first is led away from
    if guidance == 1:
        texts = texts[1:]
    prior = Prior(network, {}, SimpleNamespace(encoder=None))  # type: ignore[arg-type]
    known = prior.read(texts)
    for t in (0, 730):
        x = torch.randn(5, WIDTH, generator=generator)
        outputs = [
            network(
                x,
                torch.tensor(t),
                text.embedding.expand(5, -1),  # type: ignore[union-attr]
                text.hidden.expand(5, -1, -1),
                text.present.expand(5, -1),
                return_dict=False,
            )[0].view(5, WIDTH)
            for text in texts
        ]
        whole = outputs[0] + guidance * (outputs[-1] - outputs[0]) if guidance > 1 else outputs[0]
        told = prior.predict(x, torch.tensor(t), known, guidance)
        assert torch.allclose(told, whole, atol=1e-4, rtol=1e-4)
        assert not torch.allclose(told[0], told[1], atol=1e-2)
