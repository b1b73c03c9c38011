"""REINFORCE Leave-One-Out. Ahmadian et al. 2024, https://arxiv.org/abs/2402.14740; Kool et al. 2019

REINFORCE where the whole completion is one action, and the baseline is the mean reward of the other completions of the
same prompt. The KL penalty is part of the reward.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from pydantic import PositiveFloat

from prefloop.errors import InputError
from prefloop.functional.baselines import leave_one_out
from prefloop.functional.surrogates import clipped_surrogate, policy_change
from prefloop.training.method import Inputs
from prefloop.training.offline import Loss
from prefloop.training.online import sequence_kl
from prefloop.training.online_roles import Roles, roles_of
from prefloop.training.rollout import Rollout
from prefloop.training.run import Run

DEFAULTS: dict[str, Any] = {"lr": 3e-6, "batch_size": 64, "schedule": "linear", "log_every": 1, "group_size": 2}


@dataclass(frozen=True, kw_only=True)
class RLOOConfig:
    """Settings of `train rloo`, beside those of every run and of every online run."""

    clip_range: PositiveFloat = 0.2
    """The completion's pi / pi_old is clipped to within this of 1; of use where a rollout serves several steps."""


class RLOO:
    """The loss has one value per sequence."""

    name = "rloo"

    def __init__(self, config: RLOOConfig, roles: Roles) -> None:
        self.config, self.roles = config, roles
        if roles.settings.group_size < 2:
            raise InputError("rloo compares completions of one prompt: group_size 2 or more, got 1")

    @torch.no_grad()
    def prepare(self, rollout: Rollout) -> Rollout:
        """R = score - beta KL of each whole completion, less the mean of the others of its prompt."""
        rewards = rollout.scores - rollout.beta * sequence_kl(rollout)
        groups = rewards.view(-1, self.roles.settings.group_size)
        return rollout.adding(advantages=leave_one_out(groups).flatten())

    def loss(self, minibatch: Rollout) -> Loss:
        """-A pi / pi_old of the completion, clipped: at the first step its gradient is -A grad log pi."""
        clip, valid = self.config.clip_range, minibatch.valid
        each = torch.zeros(valid.shape, device=valid.device).masked_scatter(valid, self.roles.logprobs(minibatch))
        logprobs, old = each.sum(1), (minibatch.added["logprobs"] * valid).sum(1)
        values = clipped_surrogate(logprobs, old, minibatch.added["advantages"], clip)
        metrics = {"loss/policy_avg": values.detach(), **policy_change(logprobs, old, clip, clip)}
        return Loss(values, torch.ones_like(values), metrics)

    def divisor(self, minibatch: Rollout) -> float:
        """The mean over sequences."""
        return float(len(minibatch))


def build(config: RLOOConfig, run: Run, inputs: Inputs) -> RLOO:
    """RLOO from what a run names."""
    return RLOO(config, roles_of(run, inputs, critic=False))
