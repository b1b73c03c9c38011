"""Implicit Language Q-Learning. Snell et al. 2022, https://arxiv.org/abs/2206.11871

Behaviour cloning, with values beside it: from logged completions and their rewards, heads on the policy's trunk learn
Q(s, a) and V(s) of the best that the log supports (an expectile instead of a maximum, so that no token outside the log
is ever asked about). The policy itself only learns to write what was written; when it samples, its log-probabilities
are moved by beta (min Q - V).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from jaxtyping import Float
from pydantic import Field, NonNegativeFloat
from torch import Tensor, nn

from prefloop.datasets.rows import RewardedRow
from prefloop.functional.logprobs import token_logprobs
from prefloop.functional.temporal_difference import chosen, expectile_error, final_rewards, polyak_, td_targets
from prefloop.models.adapters import save_trained
from prefloop.models.device import pick_device
from prefloop.models.load import base_of, load_tokenizer
from prefloop.models.template import Template
from prefloop.models.value_heads import CompletionStates, ValueHeads
from prefloop.training.logged import logged_rows
from prefloop.training.method import Inputs
from prefloop.training.offline import Loss
from prefloop.training.roles import trained_policy
from prefloop.training.run import Run

DEFAULTS: dict[str, Any] = {"lr": 5e-5, "epochs": 2.0, "schedule": "cosine"}
LARGEST_WEIGHT = 20.0
"""A token's weight in the cloning term is cut off there when `policy_beta` is not 0."""


@dataclass(frozen=True, kw_only=True)
class ILQLConfig:
    """Settings of `train ilql`, beside those every run has."""

    reward_model: str | None = None
    """Rewards come from this reward model (an artifact, or a directory), not from the rows."""
    expectile: Annotated[float, Field(gt=0, lt=1)] = 0.7
    """0.5 values what the log did on average, towards 1 the best that it did."""
    gamma: Annotated[float, Field(ge=0, le=1)] = 0.99
    """Discount per token."""
    cql: NonNegativeFloat = 0.1
    """Weight of the conservative term: the cross-entropy of each Q, taken for logits, against the logged token."""
    polyak: Annotated[float, Field(gt=0, le=1)] = 0.005
    """The target Qs move this share of the way to the Qs after each step."""
    cloning: NonNegativeFloat = 1.0
    """Weight of the policy's own loss, the cross-entropy of the logged tokens."""
    policy_beta: NonNegativeFloat = 0.0
    """Tokens count exp(policy_beta (Q - V)) in that loss (advantage-weighted); 0 is plain cloning."""
    standardise: bool = True
    """Rewards are shifted and scaled to mean 0 and variance 1 over the training rows."""
    beta: NonNegativeFloat = 1.0
    """Kept with the heads: how far Q - V moves the log-probabilities when the policy samples."""


class ILQL:
    """Rows are completions with a reward; the loss has one value per completion token."""

    name = "ilql"

    def __init__(self, config: ILQLConfig, run: Run, inputs: Inputs) -> None:
        s = run.settings
        self.config, self.device = config, pick_device(s.device)
        self.tokenizer = load_tokenizer(inputs.policy)
        self.template = Template(self.tokenizer)
        self.train_rows, self.eval_rows = logged_rows(run, inputs, self.template, config.reward_model)
        policy = trained_policy(inputs.policy, s)
        vocabulary, width = base_of(policy).get_output_embeddings().weight.shape
        heads = ValueHeads(width, vocabulary, s.seed, config.beta).to(self.device)
        self.use(policy, heads)
        rewards = [row.reward for row in self.train_rows] if config.standardise else []
        self.shift, self.scale = _standard(rewards)

    def use(self, policy: nn.Module, heads: ValueHeads) -> None:
        """Train these two."""
        self.policy, self.heads = policy, heads
        self.model = nn.ModuleDict({"policy": policy, "heads": heads})
        self.states = CompletionStates(policy)

    def length(self, row: RewardedRow) -> int:
        return row.text.length

    def weight(self, row: RewardedRow) -> float:
        return row.weight * row.completion_tokens

    def identity(self, row: RewardedRow) -> str:
        return row.identity

    def loss(self, rows: Sequence[RewardedRow]) -> Loss:
        """L_Q + L_V + cql L_CQL + cloning L_BC per token (Snell et al. 2022, sect. 4; both Qs are added up)."""
        c = self.config
        hidden, logits, actions, valid = self.states.of([row.text for row in rows])

        values = self.heads.values(hidden)
        target_q = chosen(self.heads.target_q(hidden), actions)
        targets = self._targets(rows, values, valid)
        q_loss, cql_loss = torch.zeros_like(values), torch.zeros_like(values)
        for q in self.heads.q_values(hidden):
            q_loss = q_loss + (targets - chosen(q, actions)).square()
            cql_loss = cql_loss - token_logprobs(q, actions)
        value_loss = expectile_error(target_q - values, c.expectile)
        advantage = (target_q - values).detach()
        cloning_loss = -token_logprobs(logits, actions)
        preferred = (c.policy_beta * advantage).exp().clamp_max(LARGEST_WEIGHT)

        weights = torch.tensor([row.weight for row in rows], device=self.device)[:, None].expand(valid.shape)[valid]
        metrics = {
            "loss/q": q_loss.detach(),
            "loss/value": value_loss.detach(),
            "loss/cql": cql_loss.detach(),
            "loss/cloning": cloning_loss.detach(),
            "value": values.detach(),
            "advantage": advantage,
        }
        return Loss(q_loss + value_loss + c.cql * cql_loss + c.cloning * preferred * cloning_loss, weights, metrics)

    def followers(self) -> dict[str, Tensor]:
        return dict(self.heads.target.named_parameters())

    def follow(self, step: int) -> None:
        polyak_(self.heads.target.parameters(), self.heads.q.parameters(), self.config.polyak)

    def save(self, folder: Path) -> None:
        """The policy that was cloned, and beside it the heads that move its log-probabilities."""
        save_trained(self.policy, self.tokenizer, folder)
        self.heads.save(folder)

    def _targets(self, rows: Sequence[RewardedRow], values: Float[Tensor, "n"], valid: Tensor) -> Float[Tensor, "n"]:
        """r + gamma V(s'), the reward of a completion being its last token's."""
        rewards = torch.tensor([(row.reward - self.shift) / self.scale for row in rows], device=self.device)
        placed = torch.zeros(valid.shape, device=self.device).masked_scatter(valid, values.detach())
        return td_targets(final_rewards(rewards, valid), placed, valid, self.config.gamma)[valid]


def _standard(rewards: Sequence[float]) -> tuple[float, float]:
    """Mean and standard deviation, (0, 1) of none; rewards that are all alike are only shifted."""
    values = torch.tensor(rewards, dtype=torch.double)
    if len(values) == 0:
        return 0.0, 1.0
    std = float(values.std(correction=0))
    return float(values.mean()), std if std > 1e-6 else 1.0
