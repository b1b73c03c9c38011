"""What every online method needs to know: who scores, what KL costs, and how a rollout is sampled and passed over."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt

from prefloop.generation.vllm import VllmSettings
from prefloop.training.run import Share
from prefloop.training.watch import GuardSettings


@dataclass(frozen=True, kw_only=True)
class OnlineSettings:
    """Settings of every method that samples. A method's own settings stand beside these in the same YAML."""

    reward_model: str | None = None
    """The reward model: a name, hash or directory; without it and `reward`, the artifact `reward_model`."""
    reward: dict[str, Any] | None = None
    """Instead of one reward model, parts by name: weighted, multiplied, gated or constrained; see rewards.md."""
    guard: GuardSettings | None = None
    """Watch the run for a reward that is being fooled, and return the best policy; see guard.md."""
    reference: str | None = None
    """What the KL is measured against; without it the policy at the start (with lora, its own trunk)."""
    trunk: Literal["separate", "shared"] = "separate"
    """shared: with lora, critic and reward_model are adapters and heads on the policy's own frozen weights."""
    beta: NonNegativeFloat = 0.05
    """Price of a nat of KL from the reference."""
    kl_target: PositiveFloat | None = None
    """Adapt beta so that the KL per sequence goes to so many nats; without it beta is fixed."""
    kl_horizon: PositiveFloat = 10_000
    """Episodes over which beta may change by about a factor of e; used with kl_target."""
    missing_eos_score: float | None = -1.0
    """The score of a completion that did not end within max_new_tokens; null leaves it to the reward."""
    group_size: PositiveInt = 1
    """Completions of each prompt; batch_size is a multiple of it."""
    rollout_epochs: PositiveInt = 1
    """Passes over each rollout."""
    minibatches: PositiveInt = 1
    """Optimizer steps per pass."""
    target_kl: PositiveFloat | None = None
    """No more steps on a rollout once a minibatch's policy/approxkl_avg (per decision) is above this."""
    max_new_tokens: PositiveInt = 128
    """Completions are cut off after so many tokens."""
    temperature: PositiveFloat = 1.0
    """Of sampling; policy and reference are both measured at it."""
    temperature_end: PositiveFloat | None = None
    """The last rollout's temperature, reached from `temperature` in a straight line; without it they are alike."""
    curriculum: Share = 0.0
    """Share of a rollout's prompts drawn by the variance of their last group's scores; the others come in turn."""
    vllm: VllmSettings | None = None
    """Sample with a vLLM server, which gets the policy's weights before each rollout; see sampling.md."""
    sampler_gap: PositiveFloat = 0.05
    """Warn when the sampler's and the trainer's log-probabilities are further apart on average, in nats."""
    importance_cap: PositiveFloat | None = None
    """Weigh advantages by pi_trainer / pi_sampler, at most this (2 is usual); without it they are taken for equal."""
    ptx_data: str | None = None
    """Demonstrations that are learned beside the reward: a snapshot's name or hash, or a file, as for --data."""
    ptx_coef: NonNegativeFloat = 1.0
    """Weight of their mean negative log-likelihood per token in the loss; used with ptx_data."""
    ptx_ratio: PositiveFloat = 1.0
    """Demonstrations for each episode of a minibatch; used with ptx_data."""
