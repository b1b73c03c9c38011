"""Token-level Q-learning from a log: DQN. Mnih et al. 2015; double, van Hasselt et al. 2016; dueling, Wang et al. 2016

The policy's logits are its Q-values, Q = temperature * logits, so a language model learns what each next token leads
to, and the result samples as any policy does: softmax(Q / temperature), or greedily. A copy that is renewed now and
then appraises the next state. From a log alone, tokens that nobody wrote would be overrated; a conservative term
(Kumar et al. 2020) keeps them down, and here it is the log's negative log-likelihood.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from jaxtyping import Float
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor, nn

from prefloop.datasets.rows import RewardedRow
from prefloop.functional.logprobs import token_logprobs
from prefloop.functional.temporal_difference import (
    chosen,
    double_q_values,
    dueling,
    final_rewards,
    polyak_,
    td_targets,
)
from prefloop.models.adapters import save_trained
from prefloop.models.device import pick_device
from prefloop.models.load import base_of, load_tokenizer
from prefloop.models.template import Template
from prefloop.models.value_heads import CompletionStates
from prefloop.training.logged import logged_rows
from prefloop.training.method import Inputs
from prefloop.training.offline import Loss
from prefloop.training.roles import trained_policy
from prefloop.training.run import Run

DEFAULTS: dict[str, Any] = {"lr": 2e-5, "epochs": 2.0, "schedule": "cosine"}


@dataclass(frozen=True, kw_only=True)
class QLearningConfig:
    """Settings of `train q_learning`, beside those every run has."""

    reward_model: str | None = None
    """Rewards come from this reward model (an artifact, or a directory), not from the rows."""
    gamma: Annotated[float, Field(ge=0, le=1)] = 0.99
    """Discount per token."""
    temperature: PositiveFloat = 0.1
    """Q = temperature * logits: how much reward a nat of log-probability stands for."""
    double: bool = True
    """The live network chooses the next token and the copy appraises it; without it the copy does both."""
    dueling: bool = True
    """Q = V + A - mean A, with A from the logits and a head for V; without it the logits alone."""
    conservative: NonNegativeFloat = 1.0
    """Weight of the logged tokens' negative log-likelihood under softmax(Q / temperature)."""
    renew_every: PositiveInt = 100
    """Optimizer steps between two renewals of the copy."""


class QNetwork(nn.Module):
    """A policy read as Q-values."""

    def __init__(self, policy: nn.Module, temperature: float, has_value: bool) -> None:
        super().__init__()
        self.policy, self.temperature = policy, temperature
        self.value = nn.Linear(base_of(policy).get_output_embeddings().weight.shape[1], 1) if has_value else None
        if self.value is not None:
            nn.init.zeros_(self.value.weight)
            nn.init.zeros_(self.value.bias)

    def q_values(self, hidden: Float[Tensor, "n d"], logits: Float[Tensor, "n V"]) -> Float[Tensor, "n V"]:
        """Q of every next token."""
        scaled = self.temperature * logits
        return scaled if self.value is None else dueling(self.value(hidden.float())[:, 0], scaled)


class QLearning:
    """Rows are completions with a reward; the loss has one value per completion token."""

    name = "q_learning"

    def __init__(self, config: QLearningConfig, run: Run, inputs: Inputs) -> None:
        s = run.settings
        self.config, self.device = config, pick_device(s.device)
        self.tokenizer = load_tokenizer(inputs.policy)
        self.template = Template(self.tokenizer)
        self.train_rows, self.eval_rows = logged_rows(run, inputs, self.template, config.reward_model)
        self.use(trained_policy(inputs.policy, s))

    def use(self, policy: nn.Module) -> None:
        """Train this one."""
        self.model = QNetwork(policy, self.config.temperature, self.config.dueling).to(self.device)
        self.target = deepcopy(self.model).eval().requires_grad_(False)
        self.states, self.target_states = CompletionStates(policy), CompletionStates(self.target.policy)

    def length(self, row: RewardedRow) -> int:
        return row.text.length

    def weight(self, row: RewardedRow) -> float:
        return row.weight * row.completion_tokens

    def identity(self, row: RewardedRow) -> str:
        return row.identity

    def loss(self, rows: Sequence[RewardedRow]) -> Loss:
        """(r + gamma Q'(s', a') - Q(s, a))^2 + conservative * -log softmax(Q / temperature)[a] per token."""
        texts = [row.text for row in rows]
        hidden, logits, actions, valid = self.states.of(texts)
        q = self.model.q_values(hidden, logits)
        with torch.no_grad():
            there, there_logits, _, _ = self.target_states.of(texts)
            appraised = self.target.q_values(there, there_logits)
            best = double_q_values(q, appraised) if self.config.double else appraised.max(-1).values
        placed = torch.zeros(valid.shape, device=self.device).masked_scatter(valid, best)
        rewards = torch.tensor([row.reward for row in rows], device=self.device)
        targets = td_targets(final_rewards(rewards, valid), placed, valid, self.config.gamma)[valid]
        taken = chosen(q, actions)
        error, nll = (targets - taken).square(), -token_logprobs(logits, actions)
        weights = torch.tensor([row.weight for row in rows], device=self.device)[:, None].expand(valid.shape)[valid]
        metrics = {"loss/q": error.detach(), "nll": nll.detach(), "q": taken.detach(), "q/target": targets}
        return Loss(error + self.config.conservative * nll, weights, metrics)

    def followers(self) -> dict[str, Tensor]:
        return dict(self.target.named_parameters())

    def follow(self, step: int) -> None:
        if step % self.config.renew_every == 0:
            polyak_(self.target.parameters(), self.model.parameters(), 1.0)

    def save(self, folder: Path) -> None:
        save_trained(self.model.policy, self.tokenizer, folder)
