import pytest
import torch

from pipelines.dalle.token_sampling import draw_tokens

LOGITS = torch.tensor([0.5, 0.25, 0.125, 0.0625, 0.0625]).log()


def shares(number: int = 20_000, **settings: float) -> list[float]:
    """How often each token comes, for uniforms evenly spread."""
    uniforms = (torch.arange(number) + 0.5) / number
    tokens = draw_tokens(LOGITS.expand(number, 5), uniforms, **{"temperature": 1.0, **settings})
    return (torch.bincount(tokens, minlength=5) / number).tolist()


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, [0.5, 0.25, 0.125, 0.0625, 0.0625]),
        ({"temperature": 0.5}, [256 / 344, 64 / 344, 16 / 344, 4 / 344, 4 / 344]),
        ({"temperature": 0.0}, [1, 0, 0, 0, 0]),
        ({"top_k": 1}, [1, 0, 0, 0, 0]),
        ({"top_k": 2}, [2 / 3, 1 / 3, 0, 0, 0]),
        ({"top_k": 4}, [0.5, 0.25, 0.125, 0.0625, 0.0625]),  # the last two are as likely
        ({"top_k": 99}, [0.5, 0.25, 0.125, 0.0625, 0.0625]),
        ({"top_p": 0.7}, [2 / 3, 1 / 3, 0, 0, 0]),
        ({"top_p": 0.76}, [4 / 7, 2 / 7, 1 / 7, 0, 0]),
        ({"top_p": 0.0}, [1, 0, 0, 0, 0]),
        ({"top_p": 1.0}, [0.5, 0.25, 0.125, 0.0625, 0.0625]),
        ({"top_k": 3, "top_p": 0.6}, [2 / 3, 1 / 3, 0, 0, 0]),
    ],
)
def test_shares(settings: dict[str, float], expected: list[float]) -> None:
    assert shares(**settings) == pytest.approx(expected, abs=2e-4)


def test_the_ends_of_the_uniform_numbers() -> None:
    """No first token without probability, none that is filtered away, none beyond the last."""
    logits = torch.tensor([[-torch.inf, 0.0, 0.0, -9.0, -9.0]]).expand(2, 5)
    ends = torch.tensor([0.0, 1 - 2**-24])
    assert draw_tokens(logits, ends, 1.0, top_k=2).tolist() == [1, 2]
    many = torch.zeros(1, 8192)
    assert draw_tokens(many, ends[1:], 1.0).tolist() == [8191]


def test_a_candidate_does_not_depend_on_its_batch() -> None:
    generator = torch.Generator().manual_seed(0)
    logits, uniforms = (
        torch.randn(16, 512, generator=generator),
        torch.rand(16, generator=generator),
    )
    together = draw_tokens(logits, uniforms, 0.9, top_k=100, top_p=0.9)
    for i in range(16):
        alone = draw_tokens(logits[i : i + 1], uniforms[i : i + 1], 0.9, top_k=100, top_p=0.9)
        assert alone[0] == together[i]


def test_what_is_not_finite_is_a_token_all_the_same() -> None:
    logits = torch.full((2, 5), torch.nan)
    for settings in ({}, {"top_k": 2}, {"top_p": 0.5}):
        tokens = draw_tokens(logits, torch.tensor([0.1, 0.9]), 1.0, **settings)
        assert ((tokens >= 0) & (tokens < 5)).all()
