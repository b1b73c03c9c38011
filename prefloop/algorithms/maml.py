"""Preference MAML: a reward model that a few comparisons turn into one person's. Hejna, Sadigh 2022, arXiv 2212.03363

Bradley-Terry, with one change: each annotator is a task of their own. The loss is that of comparisons (the query) after
a few gradient steps on others of the same annotator (the support), so what is learned is a starting point from which
such steps go far. As simple as it gets: only the head takes the steps, for which the second order is exact and cheap.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from pydantic import NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor, nn

from prefloop.datasets.rows import PairRow, annotated_rows
from prefloop.functional.adaptation import adapted_head
from prefloop.functional.preference import bradley_terry
from prefloop.models.adapters import save_trained
from prefloop.models.device import pick_device
from prefloop.models.feedback import ADAPTATION_KEY, RATE, TEMPERATURE_KEY
from prefloop.models.heads import ScoreHead
from prefloop.models.load import base_of, load_tokenizer
from prefloop.models.template import Template
from prefloop.models.trees import tokens_of
from prefloop.training.method import Inputs
from prefloop.training.offline import Loss
from prefloop.training.reading import Reading
from prefloop.training.roles import trained_reward_model
from prefloop.training.run import Run, generator

DEFAULTS: dict[str, Any] = {"lr": 1e-5, "epochs": 2.0, "schedule": "linear", "batch_size": 4}


@dataclass(frozen=True, kw_only=True)
class MAMLConfig:
    """Settings of `train maml`, beside those every run has; a row of a batch is an episode of one annotator."""

    support: PositiveInt = 32
    """Comparisons that the head adapts to, as many as one will have of a new annotator."""
    query: PositiveInt = 32
    """Comparisons of the same annotator by which the adapted head is judged."""
    inner_steps: NonNegativeInt = 2
    """Gradient steps of the head on the support; 0 is one reward model for all."""
    inner_lr: PositiveFloat = 0.1
    """Their length at first; each of the head's parameters then learns its own."""


@dataclass(frozen=True)
class Episode:
    """Comparisons of one annotator: some to adapt to, some to judge by."""

    annotator: str
    support: tuple[PairRow, ...]
    query: tuple[PairRow, ...]

    @property
    def pairs(self) -> tuple[PairRow, ...]:
        return (*self.support, *self.query)

    @cached_property
    def length(self) -> int:
        """Tokens of all its texts, which go through the model together."""
        return tokens_of([text for pair in self.pairs for text in (pair.chosen, pair.rejected)])

    @property
    def weight(self) -> float:
        return sum(pair.weight for pair in self.query)


class MAML:
    """Rows are episodes; the loss has one value per episode."""

    name = "maml"

    def __init__(self, config: MAMLConfig, run: Run, inputs: Inputs) -> None:
        s = run.settings
        self.config, self.device = config, pick_device(s.device)
        self.tokenizer = load_tokenizer(inputs.policy)
        self.template = Template(self.tokenizer)
        sides = Reading(run, inputs, self.template).rows(annotated_rows)
        for side in sides:
            for who in [who for who, pairs in side.items() if len(pairs) < 2]:
                inputs.ledger.drop("alone of its annotator", len(side.pop(who)))
        self.train_rows, self.eval_rows = (episodes(side, config, s.seed) for side in sides)
        run.log(f"maml: {len(sides[0])} annotators to learn from, {len(sides[1])} held out")
        scorer = trained_reward_model(inputs.policy, s, self.template.pad_id)
        self.head = ScoreHead(scorer, run.log)
        self.log_rates = nn.Parameter(torch.zeros(self.head.weight.shape, device=self.device))
        self.model = nn.ModuleDict({"scorer": scorer, "rates": nn.ParameterList([self.log_rates])})

    @property
    def rates(self) -> Float[Tensor, "d"]:
        """Length of an inner step for each of the head's parameters, always positive."""
        return self.config.inner_lr * (RATE * self.log_rates).exp()

    def length(self, row: Episode) -> int:
        return row.length

    def weight(self, row: Episode) -> float:
        return row.weight

    def identity(self, row: Episode) -> str:
        return repr(row.annotator)

    def loss(self, rows: Sequence[Episode]) -> Loss:
        """Bradley-Terry of each episode's query under the head adapted to its support, in nats per comparison."""
        pairs = [pair for row in rows for pair in row.pairs]
        states = self.head.states([text for pair in pairs for text in (pair.chosen, pair.rejected)]).float()
        differences = (states[0::2] - states[1::2]).split([len(row.pairs) for row in rows])
        values, before, after = [], [], []
        for row, each in zip(rows, differences, strict=True):
            label, weight = (
                torch.tensor([getattr(pair, name) for pair in row.pairs], device=self.device)
                for name in ("label", "weight")
            )
            shown, asked = slice(len(row.support)), slice(len(row.support), None)
            steps = self.config.inner_steps
            head = adapted_head(self.head.weight, each[shown], label[shown], weight[shown], self.rates, steps)
            logits = each[asked] @ head
            values.append((weight[asked] * bradley_terry(logits, label[asked])).sum() / weight[asked].sum())
            before.append(_right(each[asked] @ self.head.weight, label[asked]))
            after.append(_right(logits, label[asked]))
        weights = torch.tensor([row.weight for row in rows], device=self.device)
        metrics = {
            "rewards/accuracies": torch.stack(after),
            "rewards/accuracies_before": torch.stack(before),
            "inner_lr": self.rates.detach().mean().expand(len(rows)),
        }
        return Loss(torch.stack(values), weights, metrics)

    def save(self, folder: Path) -> None:
        """The reward model for everybody, with what `prefloop.adapt` needs to make it one person's."""
        config = base_of(self.model["scorer"]).config
        setattr(config, TEMPERATURE_KEY, 1.0)
        setattr(config, ADAPTATION_KEY, {"steps": self.config.inner_steps, "rates": self.rates.tolist()})
        save_trained(self.model["scorer"], self.tokenizer, folder)


def episodes(annotators: dict[str, list[PairRow]], config: MAMLConfig, seed: int) -> list[Episode]:
    """Every comparison is asked about in one episode; the support is drawn from the others of its annotator.

    An annotator with few comparisons is asked about half of them at a time.
    """
    found = []
    for who, pairs in annotators.items():
        stream = generator(seed, "episodes", who)
        mixed = [pairs[i] for i in torch.randperm(len(pairs), generator=stream).tolist()]
        size = min(config.query, len(mixed) // 2)
        for first in range(0, len(mixed), size):
            query, others = mixed[first : first + size], mixed[:first] + mixed[first + size :]
            order = torch.randperm(len(others), generator=stream).tolist()[: config.support]
            found.append(Episode(who, tuple(others[i] for i in order), tuple(query)))
    return found


def _right(logits: Float[Tensor, "n"], label: Float[Tensor, "n"]) -> Float[Tensor, ""]:
    """Share of the comparisons whose better side has the higher score; a tie counts half."""
    right = ((logits.detach() > 0) == (label > 0.5)).float()
    return right.where(label != 0.5, torch.full_like(right, 0.5)).mean()
