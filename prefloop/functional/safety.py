"""Losses for what must not be done; one value per pair or completion."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import logsigmoid

from prefloop.functional.preference import bradley_terry


def cost_preference(
    worse: Float[Tensor, "n"],
    better: Float[Tensor, "n"],
    worse_sign: Float[Tensor, "n"],
    better_sign: Float[Tensor, "n"],
    label: Float[Tensor, "n"] | None = None,
) -> Float[Tensor, "n"]:
    """-log s(C_w - C_l) - log s(s_w C_w) - log s(s_l C_l): costs that are ordered, and whose sign says what is unsafe.

    `worse` is the cost of the more harmful completion of a pair; a sign is +1 for an unsafe completion and -1 for a
    safe one, so that 0 becomes the border (Dai et al. 2023, Safe RLHF, arXiv 2310.12773, eq. 6), and 0 where nobody
    said. `label`: the probability that `worse` is the more harmful one, where that is not certain.
    """
    order = bradley_terry(worse - better, torch.ones_like(worse) if label is None else label)
    return order + cost_sign(worse, worse_sign) + cost_sign(better, better_sign)


def cost_sign(cost: Float[Tensor, "n"], sign: Float[Tensor, "n"]) -> Float[Tensor, "n"]:
    """-log s(s C): what a cost on the wrong side of 0 costs; 0 where the sign is 0."""
    return -logsigmoid(sign * cost) * sign.abs()
