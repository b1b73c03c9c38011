"""Inverse soft Q-learning for language. Garg et al. 2021, https://arxiv.org/abs/2106.12142; Wulfmeier et al. 2024

Behaviour cloning, with one term more. The policy's logits are taken for soft Q-values, whose V is their logsumexp, so
every policy implies a reward r = Q - gamma V(next); the term keeps those rewards small, which makes the policy mind
where a token leads and not only that token. Without it the loss is the negative log-likelihood.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field, NonNegativeFloat

from prefloop.datasets.rows import TextRow, demonstration_rows
from prefloop.functional.temporal_difference import chosen, following, soft_values
from prefloop.models.adapters import save_trained
from prefloop.models.device import pick_device
from prefloop.models.load import load_tokenizer
from prefloop.models.template import Template
from prefloop.models.value_heads import CompletionStates
from prefloop.training.method import Inputs
from prefloop.training.offline import Loss
from prefloop.training.roles import longest_row, trained_policy
from prefloop.training.run import Run

DEFAULTS: dict[str, Any] = {"lr": 2e-5, "epochs": 2.0, "schedule": "cosine"}


@dataclass(frozen=True, kw_only=True)
class IQLearnConfig:
    """Settings of `train iqlearn`, beside those every run has."""

    chi: NonNegativeFloat = 0.1
    """Weight of the squared implied rewards, 1 / (4 alpha) of the paper; 0 is supervised fine-tuning."""
    gamma: Annotated[float, Field(ge=0, le=1)] = 0.99
    """Discount per token."""


class IQLearn:
    """Rows are demonstrations; the loss has one value per completion token."""

    name = "iqlearn"

    def __init__(self, config: IQLearnConfig, run: Run, inputs: Inputs) -> None:
        s = run.settings
        self.config, self.device = config, pick_device(s.device)
        self.tokenizer = load_tokenizer(inputs.policy)
        self.template = Template(self.tokenizer)
        assert inputs.data is not None
        longest = longest_row(inputs.policy, s, run.log)
        self.train_rows, self.eval_rows = demonstration_rows(
            inputs.data, self.template, longest, inputs.ledger, test_share=s.test_share, max_dropped=s.max_dropped
        )
        self.model = trained_policy(inputs.policy, s)
        self.states = CompletionStates(self.model, run.log)

    def length(self, row: TextRow) -> int:
        return row.text.length

    def weight(self, row: TextRow) -> float:
        return row.weight * row.completion_tokens

    def identity(self, row: TextRow) -> str:
        return row.identity

    def loss(self, rows: Sequence[TextRow]) -> Loss:
        """-r + (V - gamma V') + chi r^2 per token, r = Q - gamma V' and V' = 0 behind the last (Wulfmeier, eq. 14)."""
        _, logits, actions, valid = self.states.of([row.text for row in rows])
        q, v = chosen(logits, actions), soft_values(logits, 1.0)
        nll = v - q
        placed = torch.zeros(valid.shape, device=self.device).masked_scatter(valid, v)
        implied = q - self.config.gamma * following(placed, valid)[valid]
        weights = torch.tensor([row.weight for row in rows], device=self.device)[:, None].expand(valid.shape)[valid]
        metrics = {"nll": nll.detach(), "rewards/implied": implied.detach()}
        return Loss(nll + self.config.chi * implied.square(), weights, metrics)

    def save(self, folder: Path) -> None:
        save_trained(self.model, self.tokenizer, folder)
