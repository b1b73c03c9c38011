"""Losses for what must not be done; one value per pair."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import logsigmoid


def cost_preference(
    worse: Float[Tensor, "n"],
    better: Float[Tensor, "n"],
    worse_sign: Float[Tensor, "n"],
    better_sign: Float[Tensor, "n"],
) -> Float[Tensor, "n"]:
    """-log s(C_w - C_l) - log s(s_w C_w) - log s(s_l C_l): costs that are ordered, and whose sign says what is unsafe.

    `worse` is the cost of the more harmful completion of a pair; a sign is +1 for an unsafe completion and -1 for a
    safe one, so that 0 becomes the border (Dai et al. 2023, Safe RLHF, arXiv 2310.12773, eq. 6).
    """
    order = -logsigmoid(worse - better)
    return order - logsigmoid(worse_sign * worse) - logsigmoid(better_sign * better)
