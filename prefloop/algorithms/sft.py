"""Supervised fine-tuning: the policy learns to write what people wrote (behaviour cloning).

The offline loop with demonstrations for rows; the loss is the cross-entropy of the completion's tokens, EOS
included, and nothing of the prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from prefloop.datasets.rows import TextRow, demonstration_rows
from prefloop.models.adapters import save_trained
from prefloop.models.device import pick_device
from prefloop.models.heads import CompletionLogprobs
from prefloop.models.load import load_tokenizer
from prefloop.models.template import Template
from prefloop.training.method import Inputs
from prefloop.training.offline import Loss
from prefloop.training.reading import Reading
from prefloop.training.roles import trained_policy
from prefloop.training.run import Run

DEFAULTS: dict[str, Any] = {"lr": 2e-5, "epochs": 2.0, "schedule": "cosine"}


@dataclass(frozen=True, kw_only=True)
class SFTConfig:
    """Settings of `train sft`, beside those every run has."""

    reduction: Literal["token", "sequence"] = "token"
    """token: every token counts alike; sequence: every demonstration does, however long."""


class SFT:
    """Rows are demonstrations; the loss has one value per completion token."""

    name = "sft"

    def __init__(self, config: SFTConfig, run: Run, inputs: Inputs) -> None:
        s = run.settings
        self.config, self.device = config, pick_device(s.device)
        self.tokenizer = load_tokenizer(inputs.policy)
        self.template = Template(self.tokenizer)
        self.train_rows, self.eval_rows = Reading(run, inputs, self.template).rows(demonstration_rows)
        self.model = trained_policy(inputs.policy, s)
        self.logprobs = CompletionLogprobs(self.model, run.log)

    def length(self, row: TextRow) -> int:
        return row.text.length

    def weight(self, row: TextRow) -> float:
        return row.weight * (row.completion_tokens if self.config.reduction == "token" else 1)

    def identity(self, row: TextRow) -> str:
        return row.identity

    def loss(self, rows: Sequence[TextRow]) -> Loss:
        """Negative log-likelihood per completion token, in nats."""
        logprobs, valid = self.logprobs.of([row.text for row in rows])
        each = torch.tensor([self.weight(row) / row.completion_tokens for row in rows], device=self.device)
        return Loss(-logprobs[valid], each[:, None].expand(valid.shape)[valid])

    def save(self, folder: Path) -> None:
        save_trained(self.model, self.tokenizer, folder)
