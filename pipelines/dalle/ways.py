"""Several ways of drawing what is under a mask, of which those go on that fit what stays there.

Tokens are drawn in raster order, blind to those that are given further on. So a candidate is drawn
in K ways at once. Each is weighted by how likely the given tokens are after what it has drawn, and
when few of them carry the weight, all go on from those: sequential Monte Carlo (Gordon et al.,
1993; of language models Lew et al., arXiv 2306.03081). The more ways, the nearer it comes to what
the transformer would draw if it knew the whole image around.
"""

import torch


def draw_way(weights: torch.Tensor, uniforms: torch.Tensor) -> torch.Tensor:
    """Return one way (N,) of each candidate, as likely as its share of the weights (N, K) says."""
    shares = weights.softmax(dim=1).cumsum(dim=1)
    drawn = torch.searchsorted(shares, uniforms[:, None].contiguous(), right=True)[:, 0]
    return drawn.clamp(max=weights.shape[1] - 1)


def choose_ways(weights: torch.Tensor, uniforms: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the rows that go on, (N·K,) of N·K, and their weights (N, K).

    weights (N, K): log-likelihoods of what is given, by way. Candidates whose effective number of
    ways is below a half draw K of them anew, by systematic resampling (Kitagawa, 1996) at their own
    uniforms (N,) in [0, 1), and all weigh alike from there; the others stay as they are.
    """
    N, K = weights.shape
    p = weights.softmax(dim=1)
    few = (p.square().sum(dim=1) > 2 / K)[:, None]  # the inverse of the sum is that number
    own = torch.arange(K, device=weights.device)
    wanted = (own + uniforms[:, None]) / K
    drawn = torch.searchsorted(p.cumsum(dim=1), wanted, right=True).clamp(max=K - 1)
    first = K * torch.arange(N, device=weights.device)[:, None]
    return (first + drawn.where(few, own)).flatten(), weights.masked_fill(few, 0)
