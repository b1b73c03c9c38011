"""Online DPO. Guo et al. 2024 (direct alignment from AI feedback), https://arxiv.org/abs/2402.04792

DPO, whose pairs are the policy's own: of its answers to a prompt the best and the worst, as the reward has it. So the
comparisons are always about what the policy would say now.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch

from prefloop.errors import InputError
from prefloop.functional.preference import bradley_terry
from prefloop.functional.surrogates import policy_change
from prefloop.training.method import Inputs
from prefloop.training.offline import Loss
from prefloop.training.online_roles import Roles, roles_of
from prefloop.training.rollout import Rollout
from prefloop.training.run import Run

DEFAULTS: dict[str, Any] = {
    "lr": 5e-6,
    "batch_size": 64,
    "schedule": "linear",
    "log_every": 1,
    "beta": 0.1,
    "group_size": 2,
}


@dataclass(frozen=True, kw_only=True)
class OnlineDPOConfig:
    """Settings of `train online_dpo`, beside those of every run and of every online run."""

    soft: bool = False
    """Take sigmoid(difference of the scores) for the probability that the better one is, and not 1."""


class OnlineDPO:
    """The loss has one value per pair; equal scores are a tie, whose label is 1/2."""

    name = "online_dpo"

    def __init__(self, config: OnlineDPOConfig, roles: Roles) -> None:
        self.config, self.roles = config, roles
        if roles.settings.group_size < 2:
            raise InputError("online_dpo compares completions of one prompt: group_size 2 or more, got 1")

    def prepare(self, rollout: Rollout) -> Rollout:
        """The best and the worst of each group, next to each other; `label` says how sure the reward is."""
        size = self.roles.settings.group_size
        order = rollout.scores.view(-1, size).argsort(dim=1, descending=True, stable=True)[:, [0, -1]]
        first = torch.arange(len(order), device=order.device)[:, None] * size
        pairs = replace(rollout.rows((first + order).flatten().tolist()), together=2, grouped=2)
        apart = pairs.scores[0::2] - pairs.scores[1::2]
        label = apart.sigmoid() if self.config.soft else 0.5 + 0.5 * (apart > 0).float()
        return pairs.adding(label=label.repeat_interleave(2))

    def loss(self, minibatch: Rollout) -> Loss:
        """-p log sigmoid(beta z) - (1 - p) log sigmoid(-beta z), z of the sums of log pi - log reference."""
        valid = minibatch.valid
        each = torch.zeros(valid.shape, device=valid.device).masked_scatter(valid, self.roles.logprobs(minibatch))
        logprobs = each.sum(1)
        old, reference = ((minibatch.added[name] * valid).sum(1) for name in ("logprobs", "reference"))
        best, worst = (minibatch.beta * (logprobs - reference)).view(-1, 2).unbind(1)
        values = bradley_terry(best - worst, minibatch.added["label"][0::2])
        metrics = {
            "loss/policy_avg": values.detach(),
            "rewards/margins": (best - worst).detach(),
            "rewards/accuracies": (best > worst).float(),
            **{name: value.view(-1, 2).mean(1) for name, value in policy_change(logprobs, old, 0.2, 0.2).items()},
        }
        return Loss(values, torch.ones_like(values), metrics)

    def divisor(self, minibatch: Rollout) -> float:
        """The mean over pairs."""
        return len(minibatch) / 2


def build(config: OnlineDPOConfig, run: Run, inputs: Inputs) -> OnlineDPO:
    """Online DPO from what a run names."""
    return OnlineDPO(config, roles_of(run, inputs, critic=False))
