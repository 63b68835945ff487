"""The attention kernels of the transformer: one meaning, several implementations.

`sdpa` is PyTorch's, on every device; `xformers` its package's kernel on CUDA; `flex` PyTorch's
FlexAttention, which skips blocks of the mask that are empty and so pays on CUDA for long sequences.
They agree within 1e-5 on a CPU, 1e-4 on CUDA in float32 and 2e-2 in bfloat16.
"""

import importlib.util
from functools import lru_cache

import torch
from torch.nn import functional
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention

KERNELS = ("sdpa", "xformers", "flex")


def choose_kernel(choice: str | None, device: torch.device) -> str:
    """Choose the kernel that "auto" (or None), "sdpa", "xformers" or "flex" means on a device.

    "auto" is xformers on CUDA where it is installed, else sdpa. Raises ValueError for another
    choice, and for one that needs what is not there.
    """
    choice = "auto" if choice is None else choice
    if choice != "auto" and choice not in KERNELS:
        raise ValueError(f"no attention {choice!r}; choose from auto, {', '.join(KERNELS)}")
    cuda = device.type == "cuda"
    installed = importlib.util.find_spec("xformers") is not None
    if choice == "auto":
        return "xformers" if cuda and installed else "sdpa"
    if choice == "xformers" and not (cuda and installed):
        raise ValueError(
            "attention 'xformers' needs a CUDA device and pip install 'salon[gpu]'; choose 'sdpa'"
        )
    if choice == "flex" and not cuda:
        raise ValueError("attention 'flex' needs a CUDA device; choose 'sdpa'")
    return choice


def attend(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, visible: torch.Tensor, kernel: str
) -> torch.Tensor:
    """Compute softmax(q kᵀ / √c) v over the visible positions.

    q, k and v are (B, H, L, c), visible (L, L) bool with something in every row.
    """
    if kernel == "xformers":
        return _xformers(q, k, v, visible)
    if kernel == "flex":
        compiled = _compiled_flex() if q.is_cuda else flex_attention
        return compiled(q, k, v, block_mask=_blocks(visible))
    if q.dtype == torch.bfloat16 and not q.is_cuda:
        # PyTorch's kernels take 1.3 to 2.7 times as long, forward and backward together.
        bias = torch.zeros_like(visible, dtype=q.dtype).masked_fill_(~visible, -torch.inf)
        return ((q * q.shape[-1] ** -0.5) @ k.mT + bias).softmax(dim=-1) @ v
    return functional.scaled_dot_product_attention(q, k, v, attn_mask=visible)


def _xformers(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, visible: torch.Tensor
) -> torch.Tensor:
    from xformers.ops import memory_efficient_attention

    B, H, L, _ = q.shape
    rows = -(-L // 8) * 8  # its kernels want the bias in rows of a multiple of eight
    bias = q.new_full((L, rows), -torch.inf)
    bias[:, :L].masked_fill_(visible, 0)
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))  # (B, L, H, c)
    shown = bias[:, :L].expand(B, H, L, L)
    return memory_efficient_attention(q, k, v, attn_bias=shown).transpose(1, 2)


@lru_cache(maxsize=1)
def _compiled_flex():  # type: ignore[no-untyped-def]
    return torch.compile(flex_attention)


@lru_cache(maxsize=32)
def _blocks(visible: torch.Tensor) -> BlockMask:
    """Find the blocks of a mask in which anything is visible. Masks are cached, so this is too."""

    def seen(
        b: torch.Tensor, h: torch.Tensor, query: torch.Tensor, key: torch.Tensor
    ) -> torch.Tensor:
        return visible[query, key]

    L = len(visible)
    return create_block_mask(seen, None, None, L, L, device=str(visible.device))


def attend_shared(q: torch.Tensor, shared: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
    """Attend with one query for each of P · N candidates, over shared and private positions.

    q (P·N, H, 1, c); shared (2, P, H, T, c) and own (2, P·N, H, S, c) are keys, then values; all
    of them are visible. What is shared is read once for all candidates, and not copied for each.
    """
    _, P, H, T, c = shared.shape
    N, S = len(q) // P, own.shape[3]
    if N == 1:  # nobody to share with
        k, v = torch.cat([shared, own], dim=3)
        return functional.scaled_dot_product_attention(q, k, v)
    q = q * c**-0.5
    together = q.view(P, N, H, c).transpose(1, 2)  # (P, H, N, c)
    scores = q.new_empty(P, N, H, T + S)
    scores[..., :T] = (together @ shared[0].mT).transpose(1, 2)
    scores[..., T:] = (q @ own[0].mT).view(P, N, H, S)
    weights = scores.softmax(dim=-1)
    from_shared = weights[..., :T].transpose(1, 2) @ shared[1]  # (P, H, N, c)
    from_own = weights[..., T:].reshape(P * N, H, 1, S) @ own[1]
    return from_shared.transpose(1, 2).reshape(P * N, H, 1, c) + from_own
