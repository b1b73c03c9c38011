"""Advantage Actor-Critic. Mnih et al. 2016, https://arxiv.org/abs/1602.01783; for language Ramamurthy et al. (RL4LMs)

PPO with one pass over each rollout, and so without a ratio to clip: each decision is made likelier by its advantage
over what a critic expected.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import torch
from pydantic import Field, NonNegativeFloat

from prefloop.functional.returns import generalized_advantages, penalised_rewards, whiten
from prefloop.functional.surrogates import policy_change
from prefloop.training.method import Inputs
from prefloop.training.offline import Loss
from prefloop.training.online_roles import Roles, roles_of
from prefloop.training.rollout import Rollout
from prefloop.training.run import Run

Fraction = Annotated[float, Field(ge=0, le=1)]

DEFAULTS: dict[str, Any] = {"lr": 3e-6, "batch_size": 64, "schedule": "linear", "log_every": 1}


@dataclass(frozen=True, kw_only=True)
class A2CConfig:
    """Settings of `train a2c`, beside those of every run and of every online run."""

    gamma: Fraction = 1.0
    """Discount per token."""
    gae_lambda: Fraction = 0.95
    """0 trusts only the critic; 1 only the return."""
    value_coef: NonNegativeFloat = 0.5
    """Weight of the critic's squared error."""
    entropy_coef: NonNegativeFloat = 0.0
    """What a nat of entropy per decision is worth in the loss: exploration against exploitation."""
    whiten_advantages: bool = True
    """Shift and scale the advantages of a rollout to mean 0 and variance 1."""


class A2C:
    """The loss has one value per decision."""

    name = "a2c"

    def __init__(self, config: A2CConfig, roles: Roles) -> None:
        self.config, self.roles = config, roles

    @torch.no_grad()
    def prepare(self, rollout: Rollout) -> Rollout:
        """Rewards, then advantages and returns by GAE."""
        c, valid, seen = self.config, rollout.valid, rollout.added
        rewards = penalised_rewards(rollout.scores, seen["logprobs"], seen["reference"], valid, rollout.beta)
        advantages, returns = generalized_advantages(rewards, seen["values"], valid, c.gamma, c.gae_lambda)
        if c.whiten_advantages:
            advantages = whiten(advantages, valid, shift_mean=True)
        return rollout.adding(advantages=advantages, returns=returns)

    def loss(self, minibatch: Rollout) -> Loss:
        """-A log pi + c_v (G - V)^2 - c_e H per decision."""
        c = self.config
        old, advantages, returns = minibatch.decisions("logprobs", "advantages", "returns")
        logprobs, entropy = self.roles.logprobs_and_entropy(minibatch, wanted=c.entropy_coef > 0)
        policy_loss = -advantages * logprobs
        value_loss = (self.roles.values(minibatch) - returns).square()
        metrics = {"loss/policy_avg": policy_loss.detach(), "loss/value_avg": value_loss.detach()}
        values = policy_loss + c.value_coef * value_loss - c.entropy_coef * entropy
        return Loss(values, torch.ones_like(values), {**metrics, **policy_change(logprobs, old, 0.2, 0.2)})

    def divisor(self, minibatch: Rollout) -> float:
        """The mean over decisions."""
        return float(minibatch.valid.sum())


def build(config: A2CConfig, run: Run, inputs: Inputs) -> A2C:
    """A2C from what a run names."""
    return A2C(config, roles_of(run, inputs, critic=True))
