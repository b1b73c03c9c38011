"""Proximal Policy Optimization. Schulman et al. 2017, https://arxiv.org/abs/1707.06347; for language Ziegler et al.

REINFORCE, with two changes: each rollout serves several epochs, and the ratio pi / pi_old is clipped so that the later
epochs stay close to the first. The score of a completion sits on its last token; every token pays a KL penalty
against the reference.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import torch
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat

from prefloop.functional.returns import generalized_advantages, penalised_rewards, whiten
from prefloop.functional.surrogates import clipped_surrogate, clipped_value_error, policy_change
from prefloop.rewards.attention_credit import Credit, CreditSettings
from prefloop.training.method import Inputs
from prefloop.training.offline import Loss
from prefloop.training.online_roles import Roles, roles_of
from prefloop.training.reward import credit_rule
from prefloop.training.rollout import Rollout
from prefloop.training.run import Run

Fraction = Annotated[float, Field(ge=0, le=1)]

DEFAULTS: dict[str, Any] = {
    "lr": 3e-6,
    "batch_size": 64,
    "schedule": "linear",
    "log_every": 1,
    "rollout_epochs": 4,
    "minibatches": 4,
}


@dataclass(frozen=True, kw_only=True)
class PPOConfig:
    """Settings of `train ppo`, beside those of every run and of every online run."""

    gamma: Fraction = 1.0
    """Discount per token."""
    gae_lambda: Fraction = 0.95
    """0 trusts only the critic; 1 only the return."""
    clip_range: PositiveFloat = 0.2
    """pi / pi_old is clipped to [1 - clip_range, 1 + clip_range]."""
    value_clip_range: PositiveFloat = 0.2
    """The critic's new value is clipped to within this of its old one."""
    value_coef: NonNegativeFloat = 0.1
    """Weight of the critic's loss."""
    whiten_rewards: bool = False
    """Scale the rewards of a rollout to variance 1, their mean kept."""
    credit: CreditSettings | None = None
    """Spread the score over the tokens that earned it; without it the last token has all of it. See credit.md."""
    entropy_coef: NonNegativeFloat = 0.0
    """What a nat of entropy per decision is worth in the loss: exploration against exploitation."""
    critic_warmup: NonNegativeInt = 0
    """Rollouts at the start from which only the critic learns."""


class PPO:
    """The loss has one value per decision."""

    name = "ppo"

    def __init__(self, config: PPOConfig, roles: Roles, credit: Credit | None = None) -> None:
        self.config, self.roles, self.credit = config, roles, credit

    @torch.no_grad()
    def prepare(self, rollout: Rollout) -> Rollout:
        """Rewards, then advantages and returns by GAE; the advantages are whitened."""
        c, valid, seen = self.config, rollout.valid, rollout.added
        shares = None if self.credit is None else self.roles.shares(self.credit, rollout)
        rewards = penalised_rewards(rollout.scores, seen["logprobs"], seen["reference"], valid, rollout.beta, shares)
        if c.whiten_rewards:
            rewards = whiten(rewards, valid, shift_mean=False)
        advantages, returns = generalized_advantages(rewards, seen["values"], valid, c.gamma, c.gae_lambda)
        return rollout.adding(advantages=whiten(advantages, valid, shift_mean=True), returns=returns)

    def loss(self, minibatch: Rollout) -> Loss:
        """Eq. 9, one value per decision."""
        c = self.config
        old, old_values, advantages, returns = minibatch.decisions("logprobs", "values", "advantages", "returns")
        values = self.roles.values(minibatch)
        value_loss = clipped_value_error(values, old_values, returns, c.value_clip_range)
        metrics = {
            "loss/value_avg": value_loss.detach(),
            "val/clipfrac_avg": ((values - old_values).detach().abs() > c.value_clip_range).float(),
        }
        if minibatch.weight_version < c.critic_warmup:
            return Loss(c.value_coef * value_loss, torch.ones_like(old), metrics | policy_change(old, old, 0.2, 0.2))
        logprobs, entropy = self.roles.logprobs_and_entropy(minibatch, wanted=c.entropy_coef > 0)
        policy_loss = clipped_surrogate(logprobs, old, advantages, c.clip_range)
        metrics |= {"loss/policy_avg": policy_loss.detach()} | policy_change(logprobs, old, c.clip_range, c.clip_range)
        total = policy_loss + c.value_coef * value_loss - c.entropy_coef * entropy
        return Loss(total, torch.ones_like(total), metrics)

    def divisor(self, minibatch: Rollout) -> float:
        """The mean over decisions."""
        return float(minibatch.valid.sum())


def build(config: PPOConfig, run: Run, inputs: Inputs) -> PPO:
    """PPO from what a run names."""
    roles = roles_of(run, inputs, critic=True)
    credit = None if config.credit is None else credit_rule(config.credit, roles.reward, roles.template, inputs)
    return PPO(config, roles, credit)
