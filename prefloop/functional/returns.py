"""From rewards to advantages: estimation, whitening, and the KL penalty inside the reward."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from prefloop.functional.credit import at_the_end


def generalized_advantages(
    rewards: Float[Tensor, "B T"],
    values: Float[Tensor, "B T"],
    valid: Bool[Tensor, "B T"],
    gamma: float,
    gae_lambda: float,
) -> tuple[Float[Tensor, "B T"], Float[Tensor, "B T"]]:
    """(advantages, returns) by GAE (Schulman et al. 2016, eq. 16), 0 where not valid.

    delta_t = R_t + gamma V_{t+1} - V_t, A_t = delta_t + gamma lambda A_{t+1}, returns = A + V. Behind a row's last
    valid decision there is nothing: V = 0, whether the episode was terminated or truncated (a truncated
    completion has got its score too).
    """
    advantages = torch.zeros_like(rewards)
    following = torch.zeros_like(rewards[:, 0])
    next_value = torch.zeros_like(following)
    for t in reversed(range(rewards.shape[1])):
        here = valid[:, t]
        delta = rewards[:, t] + gamma * next_value - values[:, t]
        following = torch.where(here, delta + gamma * gae_lambda * following, 0.0)
        next_value = torch.where(here, values[:, t], 0.0)
        advantages[:, t] = following
    return advantages, (advantages + values) * valid


def whiten(values: Float[Tensor, "B T"], valid: Bool[Tensor, "B T"], *, shift_mean: bool) -> Float[Tensor, "B T"]:
    """Valid entries scaled to variance 1; their mean is removed (advantages) or added back (rewards).

    (x - mean) / sqrt(var + 1e-8) over valid entries only, with the population variance; 0 elsewhere
    (Ziegler et al. 2019).
    """
    chosen = values[valid]
    mean, variance = chosen.mean(), chosen.var(correction=0)
    whitened = (values - mean) * torch.rsqrt(variance + 1e-8)
    return (whitened if shift_mean else whitened + mean) * valid


def penalised_rewards(
    scores: Float[Tensor, "B"],
    logprobs: Float[Tensor, "B T"],
    reference_logprobs: Float[Tensor, "B T"],
    valid: Bool[Tensor, "B T"],
    beta: float,
    shares: Float[Tensor, "B T"] | None = None,
) -> Float[Tensor, "B T"]:
    """R_t = -beta (log pi(a_t) - log ref(a_t)), the score added on the last valid decision (Ziegler 2019, eq. 2).

    With `shares`, which sum to 1 in every row, the score is spread by them instead.
    """
    rewards = -beta * (logprobs - reference_logprobs) * valid
    return rewards + scores[:, None] * (at_the_end(valid) if shares is None else shares)
