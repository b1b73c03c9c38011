"""Contrastive Preference Learning. Hejna et al. 2024, https://arxiv.org/abs/2310.13639

DPO with another model of what people prefer: not the completion with the higher reward, but the one with less regret,
whose advantages under the best policy, alpha log pi of each token, add up to more. Two changes follow: no reference is
needed, and `bias` keeps a policy from pleasing by making both completions unlikely. A ranking is all of its pairs.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from jaxtyping import Float
from pydantic import Field, PositiveFloat
from torch import Tensor
from torch.nn.functional import softplus

from prefloop.datasets.feedback import Compared, FeedbackRow, Ranked, feedback_rows
from prefloop.models.adapters import save_trained
from prefloop.models.device import pick_device
from prefloop.models.heads import CompletionLogprobs
from prefloop.models.load import load_tokenizer
from prefloop.models.template import Template
from prefloop.records import Ledger
from prefloop.training.method import Inputs
from prefloop.training.offline import Loss
from prefloop.training.reading import Reading
from prefloop.training.reference import reference_logprobs
from prefloop.training.roles import trained_policy
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
    """Rows are comparisons, or rankings of the completions of one prompt; the loss has one value per row."""

    name = "cpl"

    def __init__(self, config: CPLConfig, run: Run, inputs: Inputs) -> None:
        s = run.settings
        self.config, self.device = config, pick_device(s.device)
        self.tokenizer = load_tokenizer(inputs.policy)
        self.template = Template(self.tokenizer)
        sides = Reading(run, inputs, self.template).feedback(feedback_rows)
        self.train_rows, self.eval_rows = (_ordered(side, inputs.ledger) for side in sides)
        self.model = trained_policy(inputs.policy, s)
        self.logprobs = CompletionLogprobs(self.model, run.log)
        self._reference: dict[int, Tensor] = {}
        if config.reference:
            texts = [text for row in (*self.train_rows, *self.eval_rows) for text in row.texts]
            found = reference_logprobs(self.logprobs, texts, run, inputs)
            self._reference = {id(text): self._sums(each[None])[0] for text, each in zip(texts, found, strict=True)}

    def length(self, row: FeedbackRow) -> int:
        return row.length

    def weight(self, row: FeedbackRow) -> float:
        return row.weight

    def identity(self, row: FeedbackRow) -> str:
        return row.identity

    def loss(self, rows: Sequence[FeedbackRow]) -> Loss:
        """The mean over a row's pairs; of a comparison there is one, with the consensus as a soft label."""
        texts = [text for row in rows for text in row.texts]
        sums = self._sums(self.logprobs.of(texts)[0])
        if self.config.reference:
            sums = sums - torch.stack([self._reference[id(text)] for text in texts]).to(self.device)
        advantages, bias = self.config.alpha * sums, self.config.bias
        starts = itertools.accumulate((len(row.texts) for row in rows), initial=0)
        pairs = [
            (start + a, start + b, label, i)
            for i, (row, start) in enumerate(zip(rows, starts, strict=False))
            for a, b, label in _pairs(row)
        ]
        first, second, label, place = (torch.tensor(column, device=self.device) for column in zip(*pairs, strict=True))
        chosen, rejected = advantages[first], advantages[second]
        values = label * regret_loss(chosen, rejected, bias) + (1 - label) * regret_loss(rejected, chosen, bias)
        share = 1.0 / place.bincount(minlength=len(rows))
        weight = torch.tensor([row.weight for row in rows], device=self.device)
        right = ((chosen > rejected) == (label > 0.5)).float()
        counts = (weight * share)[place]
        metrics = {
            "rewards/accuracies": (right.where(label != 0.5, torch.full_like(right, 0.5)), counts),
            "rewards/margins": ((chosen - rejected).detach(), counts),
            "rewards/chosen": (chosen.detach(), counts),
            "rewards/rejected": (rejected.detach(), counts),
        }
        return Loss(torch.zeros_like(weight).index_add(0, place, values * share[place]), weight, metrics)

    def save(self, folder: Path) -> None:
        save_trained(self.model, self.tokenizer, folder)

    def _sums(self, logprobs: Float[Tensor, "b T"]) -> Float[Tensor, "b"]:
        """sum_t gamma^t log pi(a_t) of each completion."""
        return (self.config.gamma ** torch.arange(logprobs.shape[1], device=logprobs.device) * logprobs).sum(1)


def _ordered(rows: Sequence[FeedbackRow], ledger: Ledger) -> list[FeedbackRow]:
    """Comparisons and rankings; the rest is dropped as "no ranking"."""
    kept = [row for row in rows if isinstance(row.said, Compared | Ranked)]
    ledger.drop("no ranking", len(rows) - len(kept))
    return kept


def _pairs(row: FeedbackRow) -> list[tuple[int, int, float]]:
    """(better, worse, probability of that) of every two of a row's completions about which something was said."""
    if isinstance(row.said, Compared):
        return [(0, 1, row.said.label)]
    assert isinstance(row.said, Ranked)
    ranks = row.said.ranks
    return [(a, b, 1.0) for a, b in itertools.permutations(range(len(ranks)), 2) if ranks[a] < ranks[b]]
