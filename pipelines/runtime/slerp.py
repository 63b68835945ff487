"""What lies between two directions."""

import torch


def slerp(a: torch.Tensor, b: torch.Tensor, t: float) -> torch.Tensor:
    """Return what is t of the way from a to b along the arc between them (Shoemake, 1985).

    Noise on a straight line between two would be too weak. At 0 and 1 it is a and b, to the bit.
    """
    if t in (0, 1):
        return b if t else a
    cosine = (a * b).sum() / (a.norm() * b.norm())
    angle = cosine.clamp(-1, 1).acos()
    if angle < 1e-3:
        return torch.lerp(a, b, t)
    return (((1 - t) * angle).sin() * a + (t * angle).sin() * b) / angle.sin()
