"""Contrastive Preference Learning. Hejna et al. 2024, https://arxiv.org/abs/2310.13639

DPO with another model of what people prefer: not the completion with the higher reward, but the one with less regret,
whose advantages under the best policy, alpha log pi of each token, add up to more. Two changes follow: no reference is
needed, and `bias` keeps a policy from pleasing by making both completions unlikely.
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
from torch.nn.functional import softplus

from prefloop.datasets.rows import PairRow, comparison_rows
from prefloop.models.adapters import save_trained
from prefloop.models.device import pick_device
from prefloop.models.heads import CompletionLogprobs
from prefloop.models.load import load_tokenizer
from prefloop.models.template import Template
from prefloop.training.method import Inputs
from prefloop.training.offline import Loss
from prefloop.training.reference import reference_logprobs
from prefloop.training.roles import longest_row, trained_policy
from prefloop.training.run import Run

DEFAULTS: dict[str, Any] = {"lr": 1e-5, "epochs": 1.0, "schedule": "linear"}


@dataclass(frozen=True, kw_only=True)
class CPLConfig:
    """Settings of `train cpl`, beside those every run has."""

    alpha: PositiveFloat = 0.1
    """Temperature of people's choices: an advantage is alpha log pi."""
    bias: Annotated[float, Field(gt=0, le=1)] = 0.5
    """lambda: below 1 the loss also asks that the chosen completion stays likely by itself."""
    gamma: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Discount per token."""
    reference: bool = False
    """Measure log pi against the policy at the start (CPL-KL); with bias 1 and gamma 1 it is DPO."""


def regret_loss(chosen: Float[Tensor, "n"], rejected: Float[Tensor, "n"], bias: float) -> Float[Tensor, "n"]:
    """-log [e^S+ / (e^S+ + e^(bias S-))] per pair (Hejna et al. 2024, eq. 6), stable for any S."""
    return softplus(bias * rejected - chosen)


class CPL:
    """Rows are pairs; the loss has one value per pair."""

    name = "cpl"

    def __init__(self, config: CPLConfig, run: Run, inputs: Inputs) -> None:
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
        self.logprobs = CompletionLogprobs(self.model, run.log)
        self._reference: dict[int, Tensor] = {}
        if config.reference:
            used = [*self.train_rows, *self.eval_rows]
            texts = [text for row in used for text in (row.chosen, row.rejected)]
            sums = [self._sums(found[None]) for found in reference_logprobs(self.logprobs, texts, run, inputs)]
            self._reference = {id(row): torch.cat(sums[2 * i : 2 * i + 2]) for i, row in enumerate(used)}

    def length(self, row: PairRow) -> int:
        return row.length

    def weight(self, row: PairRow) -> float:
        return row.weight

    def identity(self, row: PairRow) -> str:
        return row.identity

    def loss(self, rows: Sequence[PairRow]) -> Loss:
        """One value per pair, with the consensus as a soft label."""
        logprobs, _ = self.logprobs.of([r.chosen for r in rows] + [r.rejected for r in rows])
        sums = torch.stack(self._sums(logprobs).chunk(2), dim=1)
        if self.config.reference:
            sums = sums - torch.stack([self._reference[id(row)] for row in rows]).to(self.device)
        advantages = self.config.alpha * sums
        chosen, rejected = advantages.unbind(1)
        label, weight = (torch.tensor([getattr(r, n) for r in rows], device=self.device) for n in ("label", "weight"))
        bias = self.config.bias
        values = label * regret_loss(chosen, rejected, bias) + (1 - label) * regret_loss(rejected, chosen, bias)
        right = ((chosen > rejected) == (label > 0.5)).float()
        metrics = {
            "rewards/accuracies": right.where(label != 0.5, torch.full_like(right, 0.5)),
            "rewards/margins": (chosen - rejected).detach(),
            "rewards/chosen": chosen.detach(),
            "rewards/rejected": rejected.detach(),
        }
        return Loss(values, weight, metrics)

    def save(self, folder: Path) -> None:
        save_trained(self.model, self.tokenizer, folder)

    def _sums(self, logprobs: Float[Tensor, "b T"]) -> Float[Tensor, "b"]:
        """sum_t gamma^t log pi(a_t) of each completion."""
        return (self.config.gamma ** torch.arange(logprobs.shape[1], device=logprobs.device) * logprobs).sum(1)
