"""Group Relative Policy Optimization. Shao et al. 2024 (DeepSeekMath), https://arxiv.org/abs/2402.03300

PPO without a critic: a completion's advantage is its score against those of the other completions of its prompt, the
same for each of its tokens; and the KL from the reference stands in the loss, not in the reward. Dr. GRPO is
`scale: false` with `reduction: constant`, DAPO's loss `reduction: token` with a higher `clip_range_high`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from pydantic import PositiveFloat

from prefloop.errors import InputError
from prefloop.functional.baselines import group_relative
from prefloop.functional.reduction import Reduction, decision_weights, divisor
from prefloop.functional.surrogates import MAX_LOG_RATIO, clipped_surrogate, kl_estimate, policy_change
from prefloop.training.method import Inputs
from prefloop.training.offline import Loss
from prefloop.training.online_roles import Roles, roles_of
from prefloop.training.rollout import Rollout
from prefloop.training.run import Run

DEFAULTS: dict[str, Any] = {
    "lr": 1e-6,
    "batch_size": 64,
    "schedule": "linear",
    "log_every": 1,
    "beta": 0.04,
    "group_size": 8,
}


@dataclass(frozen=True, kw_only=True)
class GRPOConfig:
    """Settings of `train grpo`, beside those of every run and of every online run."""

    scale: bool = True
    """Divide a group's advantages by their standard deviation; false is Dr. GRPO's."""
    reduction: Reduction = "sequence"
    """sequence: the paper's, each completion counts alike; token: DAPO's, each token; constant: Dr. GRPO's; or sum."""
    kl_estimator: Literal["k1", "k2", "k3"] = "k3"
    """How the KL of a token is estimated; k3 is the paper's."""
    kl_ratio: bool = False
    """Weigh the KL of a token by pi / pi_old: k3's gradient is then that of KL(pi || reference). TRL's default."""
    clip_range: PositiveFloat = 0.2
    """pi / pi_old is clipped from below at 1 - clip_range."""
    clip_range_high: PositiveFloat | None = None
    """And from above at 1 + this; without it at 1 + clip_range. DAPO has 0.28."""


class GRPO:
    """The loss has one value per decision."""

    name = "grpo"

    def __init__(self, config: GRPOConfig, roles: Roles) -> None:
        self.config, self.roles = config, roles
        if roles.settings.group_size < 2:
            raise InputError("grpo compares completions of one prompt: group_size 2 or more, got 1")

    @torch.no_grad()
    def prepare(self, rollout: Rollout) -> Rollout:
        """One advantage per completion, on each of its decisions."""
        groups = rollout.scores.view(-1, self.roles.settings.group_size)
        advantages = group_relative(groups, scale=self.config.scale).flatten()
        return rollout.adding(advantages=advantages[:, None] * rollout.valid)

    def loss(self, minibatch: Rollout) -> Loss:
        """Eq. 3 of the paper: -min(w A, clip(w) A) + beta KL per decision."""
        c = self.config
        high = c.clip_range if c.clip_range_high is None else c.clip_range_high
        old, reference, advantages = minibatch.decisions("logprobs", "reference", "advantages")
        logprobs = self.roles.logprobs(minibatch)
        policy_loss = clipped_surrogate(logprobs, old, advantages, c.clip_range, high)
        kl = kl_estimate(logprobs, reference, c.kl_estimator)
        if c.kl_ratio:
            kl = kl * (logprobs - old).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()
        values = policy_loss + minibatch.beta * kl
        weights = decision_weights(minibatch.valid, c.reduction, self.roles.settings.max_new_tokens)
        metrics = {"loss/policy_avg": policy_loss.detach(), **policy_change(logprobs, old, c.clip_range, high)}
        return Loss(values, weights, metrics)

    def divisor(self, minibatch: Rollout) -> float:
        return divisor(minibatch.valid, self.config.reduction)


def build(config: GRPOConfig, run: Run, inputs: Inputs) -> GRPO:
    """GRPO from what a run names."""
    return GRPO(config, roles_of(run, inputs, critic=False))
