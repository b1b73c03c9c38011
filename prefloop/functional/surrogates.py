"""The clipped losses of policy-gradient methods; one value per decision."""

from __future__ import annotations

from typing import Literal

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
    clip_range_high: float | None = None,
) -> Float[Tensor, "*n"]:
    """Pessimistic policy-gradient loss per decision (PPO, eq. 7), negated: lower is better.

    The ratio is clipped to [1 - clip_range, 1 + clip_range_high]; without the latter both sides are alike (a higher
    upper side is DAPO's, Yu et al. 2025, sect. 3.1).
    """
    ratio = (logprobs - old_logprobs).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()
    clipped = ratio.clamp(1 - clip_range, 1 + (clip_range if clip_range_high is None else clip_range_high))
    return -torch.minimum(ratio * advantages, clipped * advantages)


def kl_estimate(
    logprobs: Float[Tensor, "*n"], reference: Float[Tensor, "*n"], estimator: Literal["k1", "k2", "k3"]
) -> Float[Tensor, "*n"]:
    """KL(pi || reference) from one sample of pi, in nats (Schulman 2020, http://joschu.net/blog/kl-approx.html).

    With d = log pi - log reference: k1 = d, k2 = d^2 / 2, k3 = exp(-d) - 1 + d. In a loss it is their gradients that
    count, on decisions that pi made: k1's has mean 0, and holds nothing back; k2's is that of KL(pi || reference);
    k3's is that of KL(reference || pi).
    """
    d = (logprobs - reference).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
    if estimator == "k1":
        return d
    return 0.5 * d.square() if estimator == "k2" else torch.expm1(-d) + d


def policy_change(
    logprobs: Float[Tensor, "*n"], old_logprobs: Float[Tensor, "*n"], low: float, high: float
) -> dict[str, Float[Tensor, "*n"]]:
    """How far a policy has moved from the one that sampled, by TRL's names: 1/2 d^2, what is clipped, and the ratio."""
    change = (logprobs - old_logprobs).detach()
    ratio = change.exp()
    return {
        "policy/approxkl_avg": 0.5 * change.square(),
        "policy/clipfrac_avg": ((ratio < 1 - low) | (ratio > 1 + high)).float(),
        "val/ratio": ratio,
    }


def clipped_value_error(
    values: Float[Tensor, "*n"],
    old_values: Float[Tensor, "*n"],
    returns: Float[Tensor, "*n"],
    clip_range: float,
) -> Float[Tensor, "*n"]:
    """1/2 max((V - G)^2, (clip(V, V_old +- clip_range) - G)^2) per decision (lm-human-preferences)."""
    clipped = old_values + (values - old_values).clamp(-clip_range, clip_range)
    return 0.5 * torch.maximum((values - returns).square(), (clipped - returns).square())
