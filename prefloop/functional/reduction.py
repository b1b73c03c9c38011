"""From one value per decision to one number: how much each decision counts, and what their sum is divided by.

| | a decision's weight | the sum is divided by | used by |
|---|---|---|---|
| token | 1 | decisions | PPO (Ziegler et al. 2019); DAPO (Yu et al. 2025) |
| sequence | 1 / decisions of its sequence | sequences | GRPO (Shao et al. 2024) |
| constant | 1 / the length limit | sequences | Dr. GRPO (Liu et al. 2025) |
| sum | 1 | sequences | REINFORCE: the gradient of the expected reward itself |
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

Reduction = Literal["token", "sequence", "constant", "sum"]


def decision_weights(valid: Bool[Tensor, "B T"], reduction: Reduction, limit: int) -> Float[Tensor, "n"]:
    """The weight of each valid decision; `limit` is the longest that a sequence may be."""
    if reduction == "sequence":
        each = 1 / valid.sum(1, keepdim=True)
    else:
        each = torch.full((len(valid), 1), 1 / limit if reduction == "constant" else 1.0, device=valid.device)
    return each.expand(valid.shape)[valid]


def divisor(valid: Bool[Tensor, "B T"], reduction: Reduction) -> float:
    """What the weighted sum over all decisions of a minibatch is divided by."""
    return float(valid.sum()) if reduction == "token" else float(len(valid))
