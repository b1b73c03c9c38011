"""The clipped losses of policy-gradient methods; one value per decision."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

MAX_LOG_RATIO = 20.0
"""exp of more overflows where the policies have drifted far apart; such a decision is clipped anyway."""


def clipped_surrogate(
    logprobs: Float[Tensor, "*n"],
    old_logprobs: Float[Tensor, "*n"],
    advantages: Float[Tensor, "*n"],
    clip_range: float,
) -> Float[Tensor, "*n"]:
    """Pessimistic policy-gradient loss per decision (PPO, eq. 7), negated: lower is better."""
    ratio = (logprobs - old_logprobs).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()
    clipped = ratio.clamp(1 - clip_range, 1 + clip_range)
    return -torch.minimum(ratio * advantages, clipped * advantages)


def clipped_value_error(
    values: Float[Tensor, "*n"],
    old_values: Float[Tensor, "*n"],
    returns: Float[Tensor, "*n"],
    clip_range: float,
) -> Float[Tensor, "*n"]:
    """1/2 max((V - G)^2, (clip(V, V_old +- clip_range) - G)^2) per decision (lm-human-preferences)."""
    clipped = old_values + (values - old_values).clamp(-clip_range, clip_range)
    return 0.5 * torch.maximum((values - returns).square(), (clipped - returns).square())
