"""One score spread over the tokens that earned it: shares of 1, [B, T], 0 where not valid."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def at_the_end(valid: Bool[Tensor, "B T"]) -> Float[Tensor, "B T"]:
    """All of it on the last valid token: the sparse reward."""
    position = torch.arange(valid.shape[1], device=valid.device)
    return (position == valid.sum(1, keepdim=True) - 1).float()


def evenly(valid: Bool[Tensor, "B T"]) -> Float[Tensor, "B T"]:
    """The same for every valid token."""
    return valid.float() / valid.sum(1, keepdim=True).clamp_min(1)


def in_proportion(weights: Float[Tensor, "B T"], valid: Bool[Tensor, "B T"]) -> Float[Tensor, "B T"]:
    """Non-negative weights scaled to a sum of 1 over each row's valid tokens; evenly where they are all 0."""
    kept = weights.float() * valid
    total = kept.sum(1, keepdim=True)
    return torch.where(total > 0, kept / total.clamp_min(torch.finfo(torch.float32).tiny), evenly(valid))


def blended(shares: Float[Tensor, "B T"], valid: Bool[Tensor, "B T"], beta: float) -> Float[Tensor, "B T"]:
    """beta of the score by `shares`, the rest on the last token (Chan et al. 2024, arXiv 2402.00782, eq. 4)."""
    return beta * shares + (1 - beta) * at_the_end(valid)
