"""Advantage-Leftover-Lunch RL. Baheti et al. 2024, https://arxiv.org/abs/2305.14718

Behaviour cloning of a log, with three changes: a whole completion is one action, and counts as much as its reward
exceeds what the reference policy was expected to get for that prompt; completions without such an advantage are not
learned from at all; and each is weighted by how much likelier it has become since the reference (without a gradient).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from jaxtyping import Bool, Float
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor

from prefloop.datasets.rows import RewardedRow
from prefloop.errors import InputError
from prefloop.functional.surrogates import MAX_LOG_RATIO
from prefloop.generation.sampler import Sampler, Sampling
from prefloop.models.adapters import save_trained
from prefloop.models.device import pick_device
from prefloop.models.heads import CompletionLogprobs
from prefloop.models.load import base_of, load_tokenizer
from prefloop.models.template import Encoded, Template
from prefloop.training.logged import learned_reward, logged_rows
from prefloop.training.method import Inputs
from prefloop.training.offline import Loss
from prefloop.training.prompt_value import fit_prompt_value
from prefloop.training.reference import reference_logprobs
from prefloop.training.roles import trained_policy
from prefloop.training.run import Run, generator

DEFAULTS: dict[str, Any] = {"lr": 2e-4, "schedule": "constant", "batch_size": 16, "max_grad_norm": 0.3}

Ratio = Literal["sequence", "token", "none", "gold"]


@dataclass(frozen=True, kw_only=True)
class ALoLConfig:
    """Settings of `train alol`, beside those every run has."""

    reward_model: str | None = None
    """Rewards are the sigmoid of this reward model's scores (an artifact, or a directory), not those of the rows."""
    ratio: Ratio = "sequence"
    """Weight pi / reference: of the whole completion; of each token; none (reference-free); gold: max(pi, 0.1)."""
    clip: Annotated[float, Field(ge=0)] = 0.9
    """The ratio is clipped to [1 - clip, 1 + clip]."""
    beta: NonNegativeFloat = 0.0
    """Price of log pi - log reference; with ratio none this is the KL variant."""
    baseline: bool = True
    """Subtract the value of the prompt; without it the reward itself is the weight (R-LoL)."""
    priority: bool = True
    """Draw completions in proportion to their advantage; without it each once per epoch, in random order."""
    value_epochs: PositiveInt = 10
    """Passes over the held-out prompts when the value of a prompt is fitted."""
    value_lr: PositiveFloat = 1e-3
    """Learning rate of that fit; 1e-5 in the paper, for a 7B policy."""
    max_new_tokens: PositiveInt = 128
    """Length of the reference's greedy answers that a reward model scores for that fit."""


@dataclass(frozen=True)
class AdvantageRow(RewardedRow):
    """A completion, and how far its reward exceeds the value of its prompt."""

    advantage: float


class ALoL:
    """Rows are completions with a reward; the loss has one value per completion."""

    name = "alol"

    def __init__(self, config: ALoLConfig, run: Run, inputs: Inputs) -> None:
        s = run.settings
        self.config, self.device = config, pick_device(s.device)
        self.tokenizer = load_tokenizer(inputs.policy)
        self.template = Template(self.tokenizer)
        train, held = logged_rows(run, inputs, self.template, config.reward_model)
        self.model = trained_policy(inputs.policy, s)
        self.logprobs = CompletionLogprobs(self.model, run.log)
        train, held = _in_unit(train, held, learned=config.reward_model is not None)
        rows = [train, held]
        if config.baseline:
            run.log("fitting the value of a prompt")
            value = self._prompt_value(held or train, run, inputs)
            advantages = [r.reward - v for side in rows for r, v in zip(side, _of(value, side), strict=True)]
        else:
            advantages = [r.reward for side in rows for r in side]
        kept = [
            AdvantageRow(r.text, r.weight, r.identity, r.reward, a)
            for r, a in zip([*train, *held], advantages, strict=True)
        ]
        self.train_rows = [row for row in kept[: len(train)] if row.advantage > 0]
        self.eval_rows = [row for row in kept[len(train) :] if row.advantage > 0]
        inputs.ledger.drop("no advantage", len(kept) - len(self.train_rows) - len(self.eval_rows))
        if config.priority:
            self.chances = torch.tensor([row.advantage * row.weight for row in self.train_rows])
        used = [*self.train_rows, *self.eval_rows]
        found = reference_logprobs(self.logprobs, [row.text for row in used], run, inputs)
        self._reference = {id(row): logprobs for row, logprobs in zip(used, found, strict=True)}

    def length(self, row: AdvantageRow) -> int:
        return row.text.length

    def weight(self, row: AdvantageRow) -> float:
        return 1.0 if self.config.priority else row.weight

    def identity(self, row: AdvantageRow) -> str:
        return row.identity

    def loss(self, rows: Sequence[AdvantageRow]) -> Loss:
        """-A sum_t w_t log pi_t + beta sum_t (log pi_t - log ref_t) per completion, w without a gradient."""
        logprobs, valid = self._logprobs(rows)
        reference = torch.zeros_like(logprobs)
        for i, row in enumerate(rows):
            found = self._reference[id(row)]
            reference[i, : len(found)] = found.to(self.device)
        ratio = self._ratio(logprobs.detach(), reference, valid)
        advantage, weight = (
            torch.tensor([numbers(row) for row in rows], device=self.device)
            for numbers in (lambda row: row.advantage, self.weight)
        )
        change = ((logprobs - reference) * valid).sum(1)
        values = -advantage * (ratio * logprobs).sum(1) + self.config.beta * change
        metrics = {
            "advantage": advantage,
            "val/ratio": change.detach().clamp_max(MAX_LOG_RATIO).exp(),
            "objective/kl": change.detach(),
            "logps/completion": logprobs.detach().sum(1),
        }
        return Loss(values, weight, metrics)

    def save(self, folder: Path) -> None:
        save_trained(self.model, self.tokenizer, folder)

    def _ratio(
        self, logprobs: Float[Tensor, "b T"], reference: Float[Tensor, "b T"], valid: Bool[Tensor, "b T"]
    ) -> Float[Tensor, "b T"]:
        """What each token's log-probability counts."""
        clip, change = self.config.clip, logprobs - reference
        if self.config.ratio == "gold":
            return logprobs.exp().clamp_min(0.1) * valid
        if self.config.ratio == "none":
            return valid.float()
        if self.config.ratio == "sequence":
            change = change.sum(1, keepdim=True).expand(change.shape)
        return change.clamp_max(MAX_LOG_RATIO).exp().clamp(1 - clip, 1 + clip) * valid

    def _logprobs(self, rows: Sequence[AdvantageRow]) -> tuple[Float[Tensor, "b T"], Bool[Tensor, "b T"]]:
        return self.logprobs.of([row.text for row in rows])

    def _prompt_value(self, rows: Sequence[RewardedRow], run: Run, inputs: Inputs) -> Any:
        """V, from the rewards of these rows; with a reward model from those of the reference's greedy answers."""
        prompts = [_prompt(row) for row in rows]
        rewards = [row.reward for row in rows]
        if self.config.reward_model is not None:
            prompts = list(map(list, dict.fromkeys(map(tuple, prompts))))
            rewards = self._greedy_rewards(prompts, run, inputs)
        return fit_prompt_value(
            self.model,
            prompts,
            rewards,
            epochs=self.config.value_epochs,
            lr=self.config.value_lr,
            seed=run.settings.seed,
            pad_id=self.template.pad_id,
            budget=run.settings.micro_batch_tokens,
        )

    def _greedy_rewards(self, prompts: Sequence[Sequence[int]], run: Run, inputs: Inputs) -> list[float]:
        assert self.config.reward_model is not None
        reward = learned_reward(run, inputs, self.config.reward_model)
        if reward.template.tokenizer.get_vocab() != self.tokenizer.get_vocab():
            raise InputError(
                f"reward_model {self.config.reward_model!r} has another tokenizer than the policy, so it cannot score "
                "the policy's answers for the baseline; give one with the same, or set baseline=false"
            )
        sampler = Sampler(base_of(self.model), self.template, log=run.log)
        sampling = Sampling(max_new_tokens=self.config.max_new_tokens, temperature=0)
        answers = sampler(prompts, 1, sampling, generator(run.settings.seed, "greedy"))
        texts = [Encoded([*p, *group[0].ids], len(p)) for p, group in zip(prompts, answers, strict=True)]
        found: list[float] = reward.scores(texts).sigmoid().tolist()
        return found


def _prompt(row: RewardedRow) -> list[int]:
    return row.text.ids[: row.text.prompt_length]


def _of(value: Any, rows: Sequence[RewardedRow]) -> list[float]:
    found: list[float] = value([_prompt(row) for row in rows]).tolist()
    return found


def _in_unit(
    train: Sequence[RewardedRow], held: Sequence[RewardedRow], *, learned: bool
) -> tuple[list[RewardedRow], list[RewardedRow]]:
    """Rewards in [0, 1]: the sigmoid of a reward model's scores; logged ones stretched over the range of training."""
    low = min((row.reward for row in train), default=0.0)
    high = max((row.reward for row in train), default=1.0)
    if low >= 0 and high <= 1:
        low, high = 0.0, 1.0

    def unit(row: RewardedRow) -> RewardedRow:
        if learned:
            reward = float(torch.tensor(row.reward).sigmoid())
        else:
            reward = min(max((row.reward - low) / max(high - low, 1e-6), 0.0), 1.0)
        return RewardedRow(row.text, row.weight, row.identity, reward)

    return [unit(row) for row in train], [unit(row) for row in held]
