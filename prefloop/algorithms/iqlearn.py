"""Inverse soft Q-learning for language. Garg et al. 2021, https://arxiv.org/abs/2106.12142; Wulfmeier et al. 2024

Behaviour cloning, with one term more. The policy's logits are taken for soft Q-values, whose V is their logsumexp, so
every policy implies a reward r = Q - gamma V(next); the term keeps those rewards small, which makes the policy mind
where a token leads and not only that token. Without it the loss is the negative log-likelihood. With `own` the policy's
own answers take part in it: what they say of people's tokens is nothing, but their states have values, too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field, NonNegativeFloat, PositiveInt
from torch import Tensor

from prefloop.datasets.rows import TextRow, demonstration_rows
from prefloop.functional.temporal_difference import chosen, following, inverse_soft_q, soft_values
from prefloop.generation.sampler import Sampler, Sampling
from prefloop.models.adapters import save_trained
from prefloop.models.device import pick_device
from prefloop.models.load import base_of, load_tokenizer
from prefloop.models.template import Encoded, Template
from prefloop.models.value_heads import CompletionStates
from prefloop.records import content_hash
from prefloop.training.method import Inputs
from prefloop.training.metrics import Measured
from prefloop.training.offline import Loss
from prefloop.training.reading import Reading
from prefloop.training.roles import trained_policy
from prefloop.training.run import Run, generator

DEFAULTS: dict[str, Any] = {"lr": 2e-5, "epochs": 2.0, "schedule": "cosine"}


@dataclass(frozen=True, kw_only=True)
class IQLearnConfig:
    """Settings of `train iqlearn`, beside those every run has."""

    chi: NonNegativeFloat = 0.1
    """Weight of the squared implied rewards, 1 / (4 alpha) of the paper; 0 is supervised fine-tuning."""
    gamma: Annotated[float, Field(ge=0, le=1)] = 0.99
    """Discount per token."""
    own: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the policy's own answers, sampled anew for each batch, in what is not about people's tokens (online)."""
    max_new_tokens: PositiveInt = 128
    """Those answers are cut off after so many tokens; used with own."""


class IQLearn:
    """Rows are demonstrations; the loss has one value per completion token."""

    name = "iqlearn"

    def __init__(self, config: IQLearnConfig, run: Run, inputs: Inputs) -> None:
        s = run.settings
        self.config, self.seed, self.device = config, s.seed, pick_device(s.device)
        self.tokenizer = load_tokenizer(inputs.policy)
        self.template = Template(self.tokenizer)
        reading = Reading(run, inputs, self.template)
        self.longest = reading.longest
        self.train_rows, self.eval_rows = reading.rows(demonstration_rows)
        self.model = trained_policy(inputs.policy, s)
        self.states = CompletionStates(self.model, run.log)
        self.sampler = Sampler(base_of(self.model), self.template, log=run.log)
        self._own: dict[int, tuple[Encoded, float]] = {}

    def length(self, row: TextRow) -> int:
        return row.text.length + (self.config.max_new_tokens if self.config.own else 0)

    def weight(self, row: TextRow) -> float:
        return row.weight * row.completion_tokens

    def identity(self, row: TextRow) -> str:
        return row.identity

    def prepare(self, rows: Sequence[TextRow]) -> None:
        """Let the policy answer as many of the batch's prompts as make up its share, one at least."""
        self._own = {}
        if self.config.own == 0 or not rows:
            return
        asked, training = rows[: math.ceil(self.config.own * len(rows))], self.model.training
        prompts = [row.text.ids[: row.text.prompt_length] for row in asked]
        drawn = self.sampler(
            prompts,
            1,
            Sampling(max_new_tokens=self.config.max_new_tokens),
            # A function of the seed and the batch: a run that goes on draws the same.
            generator(self.seed, "own", content_hash([row.text.ids for row in rows])),
            limits=[max(1, min(self.config.max_new_tokens, self.longest - len(prompt))) for prompt in prompts],
        )
        self.model.train(training)  # sampling has turned dropout off
        answers = [Encoded([*p, *one.ids], len(p)) for p, (one,) in zip(prompts, drawn, strict=True)]
        each = sum(self.weight(row) for row in rows) / sum(answer.completion_length for answer in answers)
        self._own = {id(row): (answer, each) for row, answer in zip(asked, answers, strict=True)}

    def loss(self, rows: Sequence[TextRow]) -> Loss:
        """-r + (V - gamma V') + chi r^2 per token, r = Q - gamma V' and V' = 0 behind the last (Wulfmeier, eq. 14).

        With `own` a, the two terms that any states have are (1 - a) times people's and a times the policy's mean.
        """
        share = self.config.own if self._own else 0.0
        v, implied, follows = self._implied([row.text for row in rows])
        weights = torch.cat([torch.full_like(row_v, row.weight) for row, row_v in zip(rows, v, strict=True)])
        found, rewards, ahead = torch.cat(v), torch.cat(implied), torch.cat(follows)
        values = (1 - share) * inverse_soft_q(found, ahead, rewards, self.config.chi) - rewards
        metrics: dict[str, Measured] = {
            "nll": (found - ahead - rewards).detach(),
            "rewards/implied": rewards.detach(),
        }
        if own := [self._own[id(row)] for row in rows if id(row) in self._own]:
            v, implied, follows = self._implied([answer for answer, _ in own])
            counts = torch.cat([torch.full_like(row_v, each) for (_, each), row_v in zip(own, v, strict=True)])
            found, rewards, ahead = torch.cat(v), torch.cat(implied), torch.cat(follows)
            values = torch.cat([values, share * inverse_soft_q(found, ahead, rewards, self.config.chi)])
            metrics = {name: (value, weights) for name, value in metrics.items() if isinstance(value, Tensor)}
            metrics["rewards/implied_own"] = (rewards.detach(), counts)
            weights = torch.cat([weights, counts])
        return Loss(values, weights, metrics)

    def _implied(self, texts: Sequence[Encoded]) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """(V, implied reward, gamma V') at each completion token of each text."""
        _, logits, actions, valid = self.states.of(texts)
        q, v = chosen(logits, actions), soft_values(logits, 1.0)
        placed = torch.zeros(valid.shape, device=self.device).masked_scatter(valid, v)
        ahead = self.config.gamma * following(placed, valid)[valid]
        counts = [text.completion_length for text in texts]
        return list(v.split(counts)), list((q - ahead).split(counts)), list(ahead.split(counts))

    def save(self, folder: Path) -> None:
        save_trained(self.model, self.tokenizer, folder)
