"""Q-learning on tokens, from a log or online: DQN (Mnih et al. 2015; double, van Hasselt 2016; dueling, Wang 2016)

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
from jaxtyping import Bool, Float
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor, nn

from prefloop.datasets.rows import RewardedRow
from prefloop.errors import InputError
from prefloop.functional.logprobs import token_logprobs
from prefloop.functional.returns import penalised_rewards
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
from prefloop.models.template import Encoded, Template
from prefloop.models.trees import texts_of
from prefloop.models.value_heads import CompletionStates
from prefloop.training.logged import logged_rows
from prefloop.training.method import Inputs
from prefloop.training.offline import Loss
from prefloop.training.online_roles import Roles, prompt_room, roles_of
from prefloop.training.replay import Replay
from prefloop.training.roles import trained_policy
from prefloop.training.rollout import Rollout
from prefloop.training.run import Run

DEFAULTS: dict[str, Any] = {"lr": 2e-5, "epochs": 2.0, "schedule": "cosine"}
ONLINE_DEFAULTS: dict[str, Any] = {
    "lr": 1e-5,
    "batch_size": 64,
    "schedule": "linear",
    "log_every": 1,
    "rollout_epochs": 2,
    "minibatches": 4,
}


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


@dataclass(frozen=True, kw_only=True)
class DQNConfig:
    """Settings of `train dqn`, beside those of every run and of every online run."""

    gamma: Annotated[float, Field(ge=0, le=1)] = 0.99
    """Discount per token."""
    per_nat: PositiveFloat = 0.1
    """Q = per_nat * logits: how much reward a nat of log-probability stands for, and how much is explored."""
    double: bool = True
    """The live network chooses the next token and the copy appraises it; without it the copy does both."""
    dueling: bool = True
    """Q = V + A - mean A, with A from the logits and a head for V; without it the logits alone."""
    conservative: NonNegativeFloat = 0.0
    """Weight of the replayed tokens' negative log-likelihood under softmax(Q / per_nat)."""
    renew_every: PositiveInt = 4
    """Rollouts between two renewals of the copy."""
    replay: PositiveInt = 4096
    """So many of the last completions are remembered; each rollout is followed by passes over as many of them."""


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


class Appraisal:
    """The network that learns, and the copy that appraises what comes next."""

    def __init__(self, live: QNetwork, gamma: float, double: bool) -> None:
        self.live, self.gamma, self.double = live, gamma, double
        self.target = deepcopy(live).eval().requires_grad_(False)
        self._states, self._target_states = CompletionStates(live.policy), CompletionStates(self.target.policy)

    def losses(
        self, texts: Sequence[Encoded], rewards: Float[Tensor, "n T"]
    ) -> tuple[Float[Tensor, "m"], Float[Tensor, "m"], Bool[Tensor, "n T"], dict[str, Tensor]]:
        """((r + gamma Q'(s', a') - Q(s, a))^2, -log softmax(Q / temperature)[a], which tokens these are, metrics)."""
        hidden, logits, actions, valid = self._states.of(texts)
        q = self.live.q_values(hidden, logits)
        with torch.no_grad():
            there, there_logits, _, _ = self._target_states.of(texts)
            appraised = self.target.q_values(there, there_logits)
            best = double_q_values(q, appraised) if self.double else appraised.max(-1).values
        placed = torch.zeros(valid.shape, device=valid.device).masked_scatter(valid, best)
        targets = td_targets(rewards[:, : valid.shape[1]], placed, valid, self.gamma)[valid]
        taken = chosen(q, actions)
        error, nll = (targets - taken).square(), -token_logprobs(logits, actions)
        metrics = {"loss/q": error.detach(), "nll": nll.detach(), "q": taken.detach(), "q/target": targets}
        return error, nll, valid, metrics

    def renew(self) -> None:
        """The copy becomes what the network is now."""
        polyak_(self.target.parameters(), self.live.parameters(), 1.0)


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
        c = self.config
        self.model = QNetwork(policy, c.temperature, c.dueling).to(self.device)
        self.appraisal = Appraisal(self.model, c.gamma, c.double)
        self.target = self.appraisal.target

    def length(self, row: RewardedRow) -> int:
        return row.text.length

    def weight(self, row: RewardedRow) -> float:
        return row.weight * row.completion_tokens

    def identity(self, row: RewardedRow) -> str:
        return row.identity

    def loss(self, rows: Sequence[RewardedRow]) -> Loss:
        """The squared error + conservative * -log softmax(Q / temperature)[a] per token; the reward is the last's."""
        counts = torch.tensor([row.completion_tokens for row in rows], device=self.device)
        made = torch.arange(int(counts.max()), device=self.device) < counts[:, None]
        rewards = final_rewards(torch.tensor([row.reward for row in rows], device=self.device), made)
        error, nll, valid, metrics = self.appraisal.losses([row.text for row in rows], rewards)
        weights = torch.tensor([row.weight for row in rows], device=self.device)[:, None].expand(valid.shape)[valid]
        return Loss(error + self.config.conservative * nll, weights, metrics)

    def followers(self) -> dict[str, Tensor]:
        return dict(self.target.named_parameters())

    def follow(self, step: int) -> None:
        if step % self.config.renew_every == 0:
            self.appraisal.renew()

    def save(self, folder: Path) -> None:
        save_trained(self.model.policy, self.tokenizer, folder)


class DQN:
    """The same on what the policy samples itself; the loss has one value per decision of replayed completions."""

    name = "dqn"

    def __init__(self, config: DQNConfig, roles: Roles, replay: Replay) -> None:
        self.config, self.roles, self.replay = config, roles, replay
        if roles.settings.target_kl is not None:
            raise InputError("dqn replays what older policies wrote, so target_kl says nothing of it: leave it out")
        device = next(roles.policy.parameters()).device
        network = QNetwork(roles.policy, config.per_nat, config.dueling).to(device)
        self.appraisal = Appraisal(network, config.gamma, config.double)
        roles.trained = [network]

    def prepare(self, rollout: Rollout) -> Rollout:
        """Remember what was written and what each token earned, KL included; as many are drawn from all remembered."""
        seen = rollout.added
        rewards = penalised_rewards(rollout.scores, seen["logprobs"], seen["reference"], rollout.valid, rollout.beta)
        self.replay.add(rollout.adding(rewards=rewards))
        return self.replay.draw(rollout)

    def loss(self, minibatch: Rollout) -> Loss:
        """The squared error per decision, and conservative times the negative log-likelihood."""
        texts = texts_of(minibatch.ids, minibatch.starts, minibatch.valid)
        error, nll, _, metrics = self.appraisal.losses(texts, minibatch.added["rewards"])
        values = error + self.config.conservative * nll
        return Loss(values, torch.ones_like(values), metrics)

    def divisor(self, minibatch: Rollout) -> float:
        """The mean over decisions."""
        return float(minibatch.valid.sum())

    def followers(self) -> dict[str, Tensor]:
        """The copy, and what is remembered."""
        copied = {f"target/{name}": tensor for name, tensor in self.appraisal.target.named_parameters()}
        return {**copied, **{f"replay/{name}": tensor for name, tensor in self.replay.tensors.items()}}

    def follow(self, step: int) -> None:
        if step % self.config.renew_every == 0:
            self.appraisal.renew()


def build_online(config: DQNConfig, run: Run, inputs: Inputs) -> DQN:
    """DQN from what a run names."""
    s, online = run.settings, inputs.online
    assert online is not None
    longest = prompt_room(s.max_length, online.max_new_tokens) + online.max_new_tokens
    replay = Replay(config.replay, longest, online.max_new_tokens, s.seed)
    return DQN(config, roles_of(run, inputs, critic=False), replay)
