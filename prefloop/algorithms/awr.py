"""Advantage-weighted regression. Peng et al. 2019, https://arxiv.org/abs/1910.00177; and filtered behaviour cloning

Behaviour cloning of a log, with one change: each completion counts exp(advantage / temperature), or only the best ones
count at all, or each counts its reward. A completion is one action; its advantage is its reward less the mean reward
of its prompt's completions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, PositiveFloat

from prefloop.datasets.rows import RewardedRow
from prefloop.errors import InputError
from prefloop.models.adapters import save_trained
from prefloop.models.device import pick_device
from prefloop.models.heads import CompletionLogprobs
from prefloop.models.load import load_tokenizer
from prefloop.models.template import Template
from prefloop.training.logged import logged_rows
from prefloop.training.method import Inputs
from prefloop.training.offline import Loss
from prefloop.training.roles import trained_policy
from prefloop.training.run import Run

DEFAULTS: dict[str, Any] = {"lr": 2e-5, "epochs": 2.0, "schedule": "cosine"}


@dataclass(frozen=True, kw_only=True)
class AWRConfig:
    """Settings of `train awr`, beside those every run has."""

    reward_model: str | None = None
    """Rewards come from this reward model (an artifact, or a directory), not from the rows."""
    weighting: Literal["exponential", "filter", "reward"] = "exponential"
    """exponential: exp(advantage / temperature); filter: 1 for the best `share`, 0 for the rest; reward: the reward."""
    temperature: PositiveFloat = 1.0
    """In standard deviations of the reward: large is behaviour cloning, small learns from the best alone."""
    largest_weight: PositiveFloat = 20.0
    """No completion counts more than this; used with exponential."""
    share: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Completions that are kept, by advantage; used with filter."""


@dataclass(frozen=True)
class CountedRow(RewardedRow):
    """A completion, and how much it counts."""

    count: float


class AWR:
    """Rows are completions with a reward; the loss has one value per completion token."""

    name = "awr"

    def __init__(self, config: AWRConfig, run: Run, inputs: Inputs) -> None:
        s = run.settings
        self.config, self.device = config, pick_device(s.device)
        self.tokenizer = load_tokenizer(inputs.policy)
        self.template = Template(self.tokenizer)
        sides = [self._counted(rows) for rows in logged_rows(run, inputs, self.template, config.reward_model)]
        self.train_rows, self.eval_rows = ([row for row in side if row.count > 0] for side in sides)
        inputs.ledger.drop("filtered out", sum(row.count == 0 for side in sides for row in side))
        self.model = trained_policy(inputs.policy, s)
        self.logprobs = CompletionLogprobs(self.model, run.log)

    def length(self, row: CountedRow) -> int:
        return row.text.length

    def weight(self, row: CountedRow) -> float:
        return row.weight * row.completion_tokens

    def identity(self, row: CountedRow) -> str:
        return row.identity

    def loss(self, rows: Sequence[CountedRow]) -> Loss:
        """-w log pi per token, in nats (Peng et al. 2019, eq. 9)."""
        logprobs, valid = self.logprobs.of([row.text for row in rows])
        logprobs = logprobs[valid]
        counts, weights = (
            torch.tensor(numbers, device=self.device)[:, None].expand(valid.shape)[valid]
            for numbers in ([row.count for row in rows], [row.weight for row in rows])
        )
        return Loss(-counts * logprobs, weights, {"nll": -logprobs.detach(), "weight": counts})

    def save(self, folder: Path) -> None:
        save_trained(self.model, self.tokenizer, folder)

    def _counted(self, rows: Sequence[RewardedRow]) -> list[CountedRow]:
        counts = torch.tensor(self.counts(rows)) if rows else torch.zeros(0)
        return [CountedRow(r.text, r.weight, r.identity, r.reward, float(c)) for r, c in zip(rows, counts, strict=True)]

    def counts(self, rows: Sequence[RewardedRow]) -> list[float]:
        """How much each completion counts. Raises InputError when a reward that should be a weight is negative."""
        c = self.config
        if c.weighting == "reward":
            if (low := min(row.reward for row in rows)) < 0:
                raise InputError(f"a weight cannot be negative, got the reward {low}; use weighting=exponential")
            return [row.reward for row in rows]
        gains = _advantages(rows)
        if c.weighting == "filter":
            kept = max(1, round(c.share * len(rows)))
            best = set(sorted(range(len(rows)), key=lambda i: -gains[i])[:kept])
            return [float(i in best) for i in range(len(rows))]
        std = max(float(torch.tensor(gains, dtype=torch.double).std(correction=0)), 1e-6)
        scaled = torch.tensor(gains, dtype=torch.double) / (std * c.temperature)
        weights: list[float] = scaled.exp().clamp_max(c.largest_weight).tolist()
        return weights


def _advantages(rows: Sequence[RewardedRow]) -> list[float]:
    """Reward less the mean over the same prompt's completions; of a prompt with one, less the mean of all."""
    groups: dict[tuple[int, ...], list[float]] = {}
    prompts = [tuple(row.text.ids[: row.text.prompt_length]) for row in rows]
    for prompt, row in zip(prompts, rows, strict=True):
        groups.setdefault(prompt, []).append(row.reward)
    overall = sum(row.reward for row in rows) / len(rows)
    means = {prompt: sum(found) / len(found) if len(found) > 1 else overall for prompt, found in groups.items()}
    return [row.reward - means[prompt] for prompt, row in zip(prompts, rows, strict=True)]
