"""A step inside a trust region: conjugate gradients for F^-1 g, and a line search back to where the bound holds."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor


def conjugate_gradient(
    product: Callable[[Tensor], Tensor], target: Float[Tensor, "n"], steps: int, tolerance: float = 1e-10
) -> Float[Tensor, "n"]:
    """x with F x = `target`, for the symmetric positive F of `product(v) = F v`, in at most `steps` products.

    Hestenes, Stiefel 1952. After n steps it is exact but for rounding; it ends early at a squared residual of
    `tolerance`.
    """
    x = torch.zeros_like(target)
    residual, direction = target.clone(), target.clone()
    size = residual @ residual
    for _ in range(steps):
        if float(size) <= tolerance:
            break
        image = product(direction)
        length = size / (direction @ image)
        x = x + length * direction
        residual = residual - length * image
        following = residual @ residual
        direction = residual + following / size * direction
        size = following
    return x


def backtrack(
    attempt: Callable[[float], tuple[float, float]], bound: float, shrink: float, tries: int
) -> tuple[float, float, float] | None:
    """The largest share 1, shrink, shrink^2, ... of a step with KL at most `bound` and a gain above 0.

    `attempt(share)` takes that share of the step and measures (KL, gain). Returns (share, KL, gain), or None when none
    of `tries` shares will do (Schulman et al. 2015, appendix C).
    """
    for number in range(tries):
        share = shrink**number
        kl, gain = attempt(share)
        if kl <= bound and gain > 0:
            return share, kl, gain
    return None
