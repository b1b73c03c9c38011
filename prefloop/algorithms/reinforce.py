"""REINFORCE with a baseline. Williams 1992, https://doi.org/10.1007/BF00992696; for RLAIF Lee et al. 2023

The gradient of the expected reward, and nothing else: each decision is made likelier by the reward that came after it,
less a baseline, which is the mean over the other completions of the rollout. No critic, no ratio.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch

from prefloop.functional.baselines import leave_one_out
from prefloop.functional.returns import generalized_advantages, penalised_rewards
from prefloop.functional.surrogates import policy_change
from prefloop.training.method import Inputs
from prefloop.training.offline import Loss
from prefloop.training.online_roles import Roles, roles_of
from prefloop.training.rollout import Rollout
from prefloop.training.run import Run

DEFAULTS: dict[str, Any] = {"lr": 3e-6, "batch_size": 64, "schedule": "linear", "log_every": 1}


@dataclass(frozen=True, kw_only=True)
class ReinforceConfig:
    """Settings of `train reinforce`, beside those of every run and of every online run."""

    baseline: Literal["rollout", "none"] = "rollout"
    """rollout: the mean return of the rollout's other completions; none: nothing, for comparison."""


class Reinforce:
    """The loss has one value per decision; it is summed over a sequence and averaged over sequences."""

    name = "reinforce"

    def __init__(self, config: ReinforceConfig, roles: Roles) -> None:
        self.config, self.roles = config, roles

    @torch.no_grad()
    def prepare(self, rollout: Rollout) -> Rollout:
        """Rewards still to come, KL penalties included, less the baseline."""
        valid, seen = rollout.valid, rollout.added
        rewards = penalised_rewards(rollout.scores, seen["logprobs"], seen["reference"], valid, rollout.beta)
        to_come, _ = generalized_advantages(rewards, torch.zeros_like(rewards), valid, 1.0, 1.0)
        if self.config.baseline == "rollout":
            whole = to_come[:, 0][None]
            to_come = (to_come - (whole - leave_one_out(whole))[0, :, None]) * valid
        return rollout.adding(advantages=to_come)

    def loss(self, minibatch: Rollout) -> Loss:
        """-A log pi per decision."""
        old, advantages = minibatch.decisions("logprobs", "advantages")
        logprobs = self.roles.logprobs(minibatch)
        values = -advantages * logprobs
        metrics = {"loss/policy_avg": values.detach(), **policy_change(logprobs, old, 0.2, 0.2)}
        return Loss(values, torch.ones_like(values), metrics)

    def divisor(self, minibatch: Rollout) -> float:
        """The sum over a sequence's decisions, the mean over sequences."""
        return float(len(minibatch))


def build(config: ReinforceConfig, run: Run, inputs: Inputs) -> Reinforce:
    """REINFORCE from what a run names."""
    return Reinforce(config, roles_of(run, inputs, critic=False))
