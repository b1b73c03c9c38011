"""What a sequence's reward is compared with, where there is no critic."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor


def leave_one_out(rewards: Float[Tensor, "n k"]) -> Float[Tensor, "n k"]:
    """A_i = R_i - mean of the other k - 1 rewards of its row: RLOO (Kool et al. 2019; Ahmadian et al. 2024, eq. 8).

    The same as k / (k - 1) (R_i - mean R). k is at least 2.
    """
    k = rewards.shape[1]
    return (rewards - rewards.mean(1, keepdim=True)) * (k / (k - 1))


def group_relative(rewards: Float[Tensor, "n k"], *, scale: bool, eps: float = 1e-4) -> Float[Tensor, "n k"]:
    """A_i = R_i - mean R of its row, divided by std R + eps where `scale`: GRPO (Shao et al. 2024, sect. 4.1.2).

    The standard deviation has k - 1 for its divisor, and eps is 1e-4, as in TRL. Without `scale` it is Dr. GRPO's
    (Liu et al. 2025).
    """
    centred = rewards - rewards.mean(1, keepdim=True)
    return centred / (rewards.std(1, keepdim=True) + eps) if scale else centred
