"""How an image token is drawn from its logits: by the inverse of the cumulative distribution at a
uniform number that is the candidate's own, so that nothing depends on who else is in the batch."""

import torch


def draw_tokens(
    logits: torch.Tensor,
    uniforms: torch.Tensor,
    temperature: float,
    top_k: int | None = None,
    top_p: float | None = None,
) -> torch.Tensor:
    """Draw tokens (N,) from logits (N, V) with uniforms (N,) in [0, 1).

    temperature : at least 0, which takes the likeliest.
    top_k : draw from the k likeliest only, and those as likely as the last of them.
    top_p : draw from the fewest likeliest tokens only that together have this probability, and
        those as likely as the last of them; at least one is left.
    """
    if temperature == 0:
        return logits.argmax(dim=-1)
    logits = logits.float() / temperature
    if top_k is not None and top_k < logits.shape[-1]:
        logits = logits.masked_fill(logits < logits.topk(top_k).values[:, -1:], -torch.inf)
    p = logits.softmax(dim=-1)
    if top_p is not None and top_p < 1:
        p = p.masked_fill(p < _least_likely(p, top_p), 0)
    cumulative = p.cumsum(dim=-1)
    total = cumulative[:, -1:]
    # Below the total, or rounding might choose a last token that was filtered out.
    wanted = torch.minimum(uniforms[:, None] * total, total.nextafter(torch.zeros_like(total)))
    tokens = torch.searchsorted(cumulative, wanted, right=True)[:, 0]
    return tokens.clamp(max=logits.shape[-1] - 1)  # not finite: any token, the candidate has failed


def _least_likely(p: torch.Tensor, top_p: float) -> torch.Tensor:
    """Return the probability (N, 1) of the last token that is needed to reach `top_p`."""
    falling = p.sort(dim=-1, descending=True).values
    needed = falling.cumsum(dim=-1) - falling < top_p  # what comes before does not reach it
    needed[:, 0] = True
    return falling.masked_fill(~needed, torch.inf).amin(dim=-1, keepdim=True)
