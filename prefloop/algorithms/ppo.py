"""Proximal Policy Optimization. Schulman et al. 2017, https://arxiv.org/abs/1707.06347; for language Ziegler et al.

REINFORCE, with two changes: each rollout serves several epochs, and the ratio pi / pi_old is clipped so that the later
epochs stay close to the first. The score of a completion sits on its last token; every token pays a KL penalty
against the reference.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor, nn

from prefloop.datasets.collate import micro_batches
from prefloop.datasets.rows import train_prompts
from prefloop.errors import InputError
from prefloop.functional.returns import generalized_advantages, penalised_rewards, whiten
from prefloop.functional.surrogates import clipped_surrogate, clipped_value_error
from prefloop.generation.sampler import Sampling
from prefloop.models.adapters import save_trained
from prefloop.models.heads import CompletionLogprobs, ScoreHead
from prefloop.models.load import load_policy, load_tokenizer
from prefloop.models.template import Template
from prefloop.records import Messages
from prefloop.rewards.composition import Reward
from prefloop.training.kl import KLController
from prefloop.training.method import Inputs
from prefloop.training.offline import Loss
from prefloop.training.online import prompt_room
from prefloop.training.reward import built_reward
from prefloop.training.roles import place_of, trained_policy, trained_reward_model
from prefloop.training.rollout import Rollout
from prefloop.training.run import Run, RunSettings

Fraction = Annotated[float, Field(ge=0, le=1)]

DEFAULTS: dict[str, Any] = {"lr": 3e-6, "batch_size": 64, "schedule": "linear", "log_every": 1}


@dataclass(frozen=True, kw_only=True)
class PPOConfig:
    """Settings of `train ppo`, beside those every run has."""

    reward_model: str | None = None
    """The reward model: a name, hash or directory; without it and `reward`, the artifact `reward_model`."""
    reward: dict[str, Any] | None = None
    """Instead of one reward model, parts by name: weighted, multiplied, gated or constrained; see rewards.md."""
    reference: str | None = None
    """What the KL is measured against; without it the policy at the start."""
    beta: NonNegativeFloat = 0.05
    """Price of a nat of KL from the reference."""
    kl_target: PositiveFloat | None = None
    """Adapt beta so that the KL per sequence goes to so many nats; without it beta is fixed."""
    kl_horizon: PositiveFloat = 10_000
    """Episodes over which beta may change by about a factor of e; used with kl_target."""
    gamma: Fraction = 1.0
    """Discount per token."""
    gae_lambda: Fraction = 0.95
    """0 trusts only the critic; 1 only the return."""
    clip_range: PositiveFloat = 0.2
    """pi / pi_old is clipped to [1 - clip_range, 1 + clip_range]."""
    value_clip_range: PositiveFloat = 0.2
    """The critic's new value is clipped to within this of its old one."""
    value_coef: NonNegativeFloat = 0.1
    """Weight of the critic's loss."""
    whiten_rewards: bool = False
    """Scale the rewards of a rollout to variance 1, their mean kept."""
    missing_eos_score: float | None = -1.0
    """The score of a completion that did not end within max_new_tokens; null leaves it to the reward."""
    rollout_epochs: PositiveInt = 4
    """Passes over each rollout."""
    minibatches: PositiveInt = 4
    """Optimizer steps per pass."""
    max_new_tokens: PositiveInt = 128
    """Completions are cut off after so many tokens."""
    temperature: PositiveFloat = 1.0
    """Of sampling; policy and reference are both measured at it."""


class PPO:
    """Policy, critic, reference and reward; the loss has one value per decision."""

    name = "ppo"

    def __init__(
        self,
        config: PPOConfig,
        settings: RunSettings,
        *,
        policy: nn.Module,
        critic: nn.Module,
        reference: nn.Module,
        reward: Reward,
        prompts: Sequence[Messages],
        template: Template,
    ) -> None:
        self.config, self.settings = config, settings
        self.policy, self.critic, self.models = policy, critic, (policy, critic)
        self.reward, self.prompts, self.template = reward, prompts, template
        self.logprobs, self.reference = CompletionLogprobs(policy), CompletionLogprobs(reference)
        self.values = ScoreHead(critic)
        self.sampling = Sampling(max_new_tokens=config.max_new_tokens, temperature=config.temperature)
        self.rollout_epochs, self.minibatches = config.rollout_epochs, config.minibatches
        self.kl = KLController(config.beta, config.kl_target, config.kl_horizon)

    @torch.no_grad()
    def prepare(self, rollout: Rollout) -> dict[str, Tensor]:
        """Rewards, advantages and returns, from log-probabilities at the sampling temperature."""
        c, valid = self.config, rollout.valid
        old, reference, values, entropy = self._measure(rollout)
        scores = rollout.scores
        if c.missing_eos_score is not None:
            scores = scores.where(rollout.terminated, torch.full_like(scores, c.missing_eos_score))
        rewards = penalised_rewards(scores, old, reference, valid, self.kl.beta)
        if c.whiten_rewards:
            rewards = whiten(rewards, valid, shift_mean=False)
        advantages, returns = generalized_advantages(rewards, values, valid, c.gamma, c.gae_lambda)
        rollout.added.update(
            logprobs=old, values=values, advantages=whiten(advantages, valid, shift_mean=True), returns=returns
        )
        kl = ((old - reference) * valid).sum(1)
        beta = self.kl.update(float(kl.mean()), len(rollout))
        return {
            "objective/scores": scores,
            "objective/kl": kl,
            "objective/entropy": (entropy * valid).sum(1),
            "objective/non_score_reward": -beta * kl,
            "objective/rlhf_reward": scores - beta * kl,
            "val/num_eos_tokens": rollout.terminated.float(),
            "length": valid.sum(1).float(),
            "sampler/logprob_gap": (old - rollout.sampled_logprobs)[valid].abs(),
        }

    def loss(self, minibatch: Rollout) -> Loss:
        """Eq. 9 without its entropy bonus, one value per decision."""
        c, valid = self.config, minibatch.valid
        old, old_values, advantages, returns = (
            minibatch.added[k][valid] for k in ("logprobs", "values", "advantages", "returns")
        )
        logprobs = self.logprobs(minibatch.ids, minibatch.starts, valid, c.temperature)[0][valid]
        values = self.values.each(minibatch.ids, minibatch.starts, valid)[valid]
        policy_loss = clipped_surrogate(logprobs, old, advantages, c.clip_range)
        value_loss = clipped_value_error(values, old_values, returns, c.value_clip_range)
        change = (logprobs - old).detach()
        metrics = {
            "loss/policy_avg": policy_loss.detach(),
            "loss/value_avg": value_loss.detach(),
            "policy/approxkl_avg": 0.5 * change.square(),
            "policy/clipfrac_avg": ((change.exp() - 1).abs() > c.clip_range).float(),
            "val/clipfrac_avg": ((values - old_values).detach().abs() > c.value_clip_range).float(),
            "val/ratio": change.exp(),
        }
        return Loss(policy_loss + c.value_coef * value_loss, torch.ones_like(policy_loss), metrics)

    def state(self) -> dict[str, float]:
        return {"objective/beta": self.kl.beta}

    def load_state(self, state: dict[str, float]) -> None:
        self.kl.beta = state["objective/beta"]

    def save(self, folder: Path) -> None:
        save_trained(self.policy, self.template.tokenizer, folder)
        save_trained(self.critic, self.template.tokenizer, folder / "critic")

    def _measure(self, rollout: Rollout) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Log-probabilities under policy and reference, values and entropies, [B, T] each, 0 where not valid."""
        results = torch.zeros(4, *rollout.valid.shape, device=rollout.ids.device)
        lengths = rollout.lengths.tolist()
        for micro in micro_batches(range(len(rollout)), lambda i: lengths[i], self.settings.micro_batch_tokens):
            part = rollout.rows(micro)
            ids, starts, valid = part.ids, part.starts, part.valid
            logprobs, entropy = self.logprobs(ids, starts, valid, self.config.temperature, entropy=True)
            reference, _ = self.reference(ids, starts, valid, self.config.temperature)
            assert entropy is not None
            found = torch.stack([logprobs, reference, self.values.each(ids, starts, valid), entropy])
            results[:, micro, : valid.shape[1]] = found
        return results[0], results[1], results[2], results[3]


def build(config: PPOConfig, run: Run, inputs: Inputs) -> PPO:
    """PPO from what a run names: the critic starts as the reward model, the reference is the policy at the start."""
    s = run.settings
    dtype, device = place_of(s)
    template = Template(load_tokenizer(inputs.policy))
    reward, rewarder = built_reward(config.reward_model, config.reward, inputs, s)
    reference = inputs.resolve(config.reference, "policy") if config.reference is not None else inputs.policy
    if config.reference is not None and not _same_tokens(template, reference):
        raise InputError(
            f"reference {config.reference!r} has another tokenizer than the policy; their KL has no meaning"
        )
    alike = rewarder is not None and _same_tokens(template, rewarder)
    if not alike:
        why = "no reward model" if rewarder is None else "the reward model has another tokenizer than the policy"
        run.log(f"{why}: the critic starts as the policy, its head new")
    assert inputs.data is not None
    prompts = train_prompts(inputs.data, inputs.ledger, test_share=s.test_share, max_dropped=s.max_dropped)
    room = prompt_room(s.max_length, config.max_new_tokens)
    if cut := sum(len(template.prompt(prompt)) > room for prompt in prompts):
        inputs.ledger.note("prompt truncated", cut)
    return PPO(
        config,
        s,
        policy=trained_policy(inputs.policy, s),
        critic=trained_reward_model(rewarder if rewarder and alike else inputs.policy, s, template.pad_id),
        reference=load_policy(reference, dtype, device).requires_grad_(False),
        reward=reward,
        prompts=prompts,
        template=template,
    )


def _same_tokens(template: Template, ref: str) -> bool:
    return bool(load_tokenizer(ref).get_vocab() == template.tokenizer.get_vocab())
