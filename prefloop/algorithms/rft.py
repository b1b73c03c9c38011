"""Rejection fine-tuning: best of n, learned. Touvron et al. 2023 (Llama 2), sect. 3.2.3; trlx's RFT

The policy answers each prompt several times, and is trained on the best answers as if people had written them. No
reference, no critic, no ratio: what keeps it near the start is that it only ever learns what it wrote itself.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from pydantic import PositiveInt

from prefloop.errors import InputError
from prefloop.functional.surrogates import policy_change
from prefloop.training.method import Inputs
from prefloop.training.offline import Loss
from prefloop.training.online_roles import Roles, roles_of
from prefloop.training.rollout import Rollout
from prefloop.training.run import Run

DEFAULTS: dict[str, Any] = {"lr": 1e-5, "batch_size": 64, "schedule": "linear", "log_every": 1, "group_size": 8}


@dataclass(frozen=True, kw_only=True)
class RFTConfig:
    """Settings of `train rft`, beside those of every run and of every online run."""

    keep: PositiveInt = 1
    """So many of the group_size answers to a prompt are learned, the best ones; of equal ones the first."""


class RFT:
    """The loss has one value per decision of the answers that were kept."""

    name = "rft"

    def __init__(self, config: RFTConfig, roles: Roles) -> None:
        self.config, self.roles = config, roles
        if config.keep >= roles.settings.group_size:
            raise InputError(
                f"keep must be less than group_size, or nothing is rejected, got {config.keep} and "
                f"{roles.settings.group_size}"
            )

    def prepare(self, rollout: Rollout) -> Rollout:
        """The best `keep` of each group."""
        size = self.roles.settings.group_size
        order = rollout.scores.view(-1, size).argsort(dim=1, descending=True, stable=True)[:, : self.config.keep]
        first = torch.arange(len(order), device=order.device)[:, None] * size
        return replace(rollout.rows((first + order).flatten().tolist()), grouped=self.config.keep)

    def loss(self, minibatch: Rollout) -> Loss:
        """-log pi per decision."""
        (old,) = minibatch.decisions("logprobs")
        logprobs = self.roles.logprobs(minibatch)
        metrics = {"loss/policy_avg": -logprobs.detach(), **policy_change(logprobs, old, 0.2, 0.2)}
        return Loss(-logprobs, torch.ones_like(logprobs), metrics)

    def divisor(self, minibatch: Rollout) -> float:
        """The mean over decisions."""
        return float(minibatch.valid.sum())


def build(config: RFTConfig, run: Run, inputs: Inputs) -> RFT:
    """Rejection fine-tuning from what a run names."""
    return RFT(config, roles_of(run, inputs, critic=False))
