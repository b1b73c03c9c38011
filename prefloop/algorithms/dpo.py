"""Direct Preference Optimization. Rafailov et al. 2023, https://arxiv.org/abs/2305.18290

A reward model and a policy in one: the score of an answer is beta * log(pi / reference), so the Bradley-Terry loss of
the reward model trains the policy itself, and nothing is sampled. The reference is the policy at the start; its
log-probabilities are computed once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from jaxtyping import Float
from pydantic import Field, PositiveFloat
from torch import Tensor

from prefloop.datasets.collate import completion_mask, micro_batches, pad
from prefloop.datasets.rows import PairRow, comparison_rows
from prefloop.functional.preference import bradley_terry
from prefloop.models.adapters import save_trained
from prefloop.models.device import pick_device
from prefloop.models.heads import CompletionLogprobs
from prefloop.models.load import load_tokenizer
from prefloop.models.template import Encoded, Template
from prefloop.training.method import Inputs
from prefloop.training.offline import Loss
from prefloop.training.roles import longest_row, trained_policy
from prefloop.training.run import Run

DEFAULTS: dict[str, Any] = {"lr": 5e-6, "epochs": 1.0, "schedule": "linear"}


@dataclass(frozen=True, kw_only=True)
class DPOConfig:
    """Settings of `train dpo`, beside those every run has."""

    beta: PositiveFloat = 0.1
    """How dear it is to leave the reference: small follows the preferences, large stays close."""
    label_smoothing: Annotated[float, Field(ge=0, lt=0.5)] = 0.0
    """Share of answers taken to be wrong (conservative DPO): labels p become (1 - e) p + e (1 - p)."""


class DPO:
    """Rows are pairs; the loss has one value per pair."""

    name = "dpo"

    def __init__(self, config: DPOConfig, run: Run, inputs: Inputs) -> None:
        s = run.settings
        self.config, self.device = config, pick_device(s.device)
        self.tokenizer = load_tokenizer(inputs.policy)
        self.template = Template(self.tokenizer)
        assert inputs.data is not None
        longest = longest_row(inputs.policy, s, run.log)
        self.train_rows, self.eval_rows = comparison_rows(
            inputs.data, self.template, longest, inputs.ledger, test_share=s.test_share, max_dropped=s.max_dropped
        )
        self.model = trained_policy(inputs.policy, s)
        self.logprobs = CompletionLogprobs(self.model)
        run.log("reference log-probabilities")
        self._reference = self._reference_logprobs([*self.train_rows, *self.eval_rows], s.micro_batch_tokens)

    def length(self, row: PairRow) -> int:
        return row.length

    def weight(self, row: PairRow) -> float:
        return row.weight

    def identity(self, row: PairRow) -> str:
        return row.identity

    def loss(self, rows: Sequence[PairRow]) -> Loss:
        """Equation 7, one value per pair, with the consensus as a soft label."""
        logprobs = self._sums(rows)
        rewards = self.config.beta * (logprobs - self._reference_of(rows))
        chosen, rejected = rewards.unbind(1)
        label, weight = (torch.tensor([getattr(r, n) for r in rows], device=self.device) for n in ("label", "weight"))
        smoothed = (1 - 2 * self.config.label_smoothing) * label + self.config.label_smoothing
        right = ((chosen > rejected) == (label > 0.5)).float()
        metrics = {
            "rewards/accuracies": right.where(label != 0.5, torch.full_like(right, 0.5)),
            "rewards/margins": (chosen - rejected).detach(),
            "rewards/chosen": chosen.detach(),
            "rewards/rejected": rejected.detach(),
            "logps/chosen": logprobs[:, 0].detach(),
            "logps/rejected": logprobs[:, 1].detach(),
        }
        return Loss(bradley_terry(chosen - rejected, smoothed), weight, metrics)

    def save(self, folder: Path) -> None:
        save_trained(self.model, self.tokenizer, folder)

    def _sums(self, rows: Sequence[PairRow]) -> Float[Tensor, "n 2"]:
        """log pi(chosen) and log pi(rejected), summed over the completion's tokens."""
        texts: list[Encoded] = [r.chosen for r in rows] + [r.rejected for r in rows]
        ids = pad([t.ids for t in texts], self.template.pad_id).to(self.device)
        starts = torch.tensor([t.prompt_length for t in texts], device=self.device)
        tokens = [t.length - t.prompt_length for t in texts]
        valid = completion_mask([0] * len(texts), tokens, max(tokens)).to(self.device)
        logprobs, _ = self.logprobs(ids, starts, valid)
        return torch.stack(logprobs.sum(1).chunk(2), dim=1)

    @torch.no_grad()
    def _reference_logprobs(self, rows: Sequence[PairRow], budget: int) -> dict[int, Float[Tensor, "2"]]:
        self.model.eval()
        found: dict[int, Tensor] = {}
        for micro in micro_batches(rows, self.length, budget):
            found |= dict(zip(map(id, micro), self._sums(micro).cpu(), strict=True))
        return found

    def _reference_of(self, rows: Sequence[PairRow]) -> Float[Tensor, "n 2"]:
        return torch.stack([self._reference[id(row)] for row in rows]).to(self.device)
