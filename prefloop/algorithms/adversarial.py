"""Adversarial imitation: GAIL (Ho, Ermon 2016), AIRL (Fu et al. 2018), and RLGAF (Yu et al. 2023) as we read it

Policy gradients, with one change: nobody scores. A discriminator learns beside the policy to tell its completions from
people's answers to the same prompts, and passing for a person's is the reward.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from pydantic import NonNegativeFloat, PositiveFloat
from torch import Tensor, nn

from prefloop.datasets.collate import text_batches
from prefloop.datasets.rows import train_demonstrations
from prefloop.errors import InputError
from prefloop.functional.returns import generalized_advantages, penalised_rewards, whiten
from prefloop.functional.surrogates import clipped_surrogate
from prefloop.models.heads import CompletionLogprobs, ScoreHead
from prefloop.models.load import load_policy, load_tokenizer
from prefloop.models.template import Encoded, Template
from prefloop.records import Message, prompt_id
from prefloop.rewards.composition import Reward
from prefloop.rewards.discriminator import Kind, discriminator_logits, discriminator_loss, discriminator_reward
from prefloop.training.method import Inputs
from prefloop.training.offline import Loss
from prefloop.training.online_roles import Roles, prompt_room, trunk_of
from prefloop.training.roles import critic_on, made_trainable, place_of, start_policy, trained_reward_model
from prefloop.training.rollout import Rollout
from prefloop.training.run import Run, RunSettings

Prompt = tuple[int, ...]

DEFAULTS: dict[str, Any] = {"lr": 1e-5, "batch_size": 64, "schedule": "linear", "log_every": 1, "minibatches": 4}


@dataclass(frozen=True, kw_only=True)
class AdversarialConfig:
    """Settings of `train adversarial`, beside those of every run and of every online run."""

    kind: Kind = "gail"
    """What passing for a person earns: gail -log(1 - D); airl logit D, D knowing log pi; logit; probability D."""
    cloning: NonNegativeFloat = 0.1
    """Weight of the demonstrations' negative log-likelihood per token, which keeps the policy among them."""
    clip_range: PositiveFloat = 0.2
    """pi / pi_old is clipped to [1 - clip_range, 1 + clip_range]."""


class Adversarial:
    """Policy and discriminator; the loss has one value per decision."""

    name = "adversarial"

    def __init__(
        self, config: AdversarialConfig, roles: Roles, judge: ScoreHead, answers: Mapping[Prompt, Sequence[Encoded]]
    ) -> None:
        """`answers` are people's, at least one to every prompt of `roles`, by the prompt's ids."""
        self.config, self.roles, self.judge, self.answers = config, roles, judge, answers
        self.cloned = CompletionLogprobs(roles.policy)

    @torch.no_grad()
    def prepare(self, rollout: Rollout) -> Rollout:
        """The advantage is the return to go, whitened; AIRL's discriminator also knows log pi.

        A completion without EOS keeps its fixed score, if there is one.
        """
        valid, seen = rollout.valid, rollout.added
        scores = discriminator_logits(rollout.scores, seen["logprobs"].sum(1), self.config.kind)
        if self.roles.settings.missing_eos_score is not None:
            scores = scores.where(rollout.terminated, rollout.scores)
        rewards = penalised_rewards(scores, seen["logprobs"], seen["reference"], valid, rollout.beta)
        returns, _ = generalized_advantages(rewards, torch.zeros_like(rewards), valid, 1.0, 1.0)
        return rollout.adding(advantages=whiten(returns, valid, shift_mean=True))

    def loss(self, minibatch: Rollout) -> Loss:
        """The clipped surrogate per decision; on a row's last one also what the row teaches the discriminator (and the
        cloning of its prompt's demonstration), times the row's decisions, so that a row counts as its tokens do."""
        c, valid = self.config, minibatch.valid
        old, advantages = minibatch.decisions("logprobs", "advantages")
        logprobs = self.roles.logprobs(minibatch)
        policy_loss = clipped_surrogate(logprobs, old, advantages, c.clip_range)
        judged, cloned, right = self._per_row(minibatch)
        tokens = valid.sum(1)
        last = torch.arange(valid.shape[1], device=valid.device) == tokens[:, None] - 1
        per_row = ((judged + c.cloning * cloned) * tokens)[:, None] * last
        change = (logprobs - old).detach()
        metrics = {
            "loss/policy_avg": policy_loss.detach(),
            "loss/discriminator": judged.detach(),
            "discriminator/accuracy": right,
            "nll": cloned.detach(),
            "policy/approxkl_avg": 0.5 * change.square(),
            "policy/clipfrac_avg": ((change.exp() - 1).abs() > c.clip_range).float(),
        }
        return Loss(policy_loss + per_row[valid], torch.ones_like(policy_loss), metrics)

    def divisor(self, minibatch: Rollout) -> float:
        """The mean over decisions."""
        return float(minibatch.valid.sum())

    def _per_row(self, part: Rollout) -> tuple[Float[Tensor, "b"], Float[Tensor, "b"], Float[Tensor, "b"]]:
        """(discriminator's loss, cloning loss, how often it was right) of each row and its prompt's demonstration."""
        rows = zip(part.ids.tolist(), part.starts.tolist(), strict=True)
        known = [self.answers[tuple(ids[:start])] for ids, start in rows]
        answers = [some[part.weight_version % len(some)] for some in known]
        logprobs, valid = self.cloned.of(answers, self.roles.temperature)
        whole = logprobs.sum(1)
        now = (part.added["logprobs"] * part.valid).sum(1)
        kind = self.config.kind
        machine = discriminator_logits(self.judge.last(part.ids, part.lengths), now, kind)
        human = discriminator_logits(self.judge.of(answers), whole.detach(), kind)
        yes, no = torch.ones_like(human, dtype=torch.bool), torch.zeros_like(machine, dtype=torch.bool)
        judged = (discriminator_loss(human, yes) + discriminator_loss(machine, no)) / 2
        right = ((human > 0).float() + (machine < 0).float()) / 2
        return judged, -whole / valid.sum(1), right


def build(config: AdversarialConfig, run: Run, inputs: Inputs) -> Adversarial:
    """From demonstrations alone: the discriminator starts as the policy with a new head, the reference is the policy.

    Raises InputError when another reward is named, which nobody would listen to.
    """
    s, online = run.settings, inputs.online
    assert online is not None
    assert inputs.data is not None
    if online.reward_model is not None or online.reward is not None or online.reference is not None:
        raise InputError(
            "adversarial imitation has its own reward, the discriminator, and the policy at the start for a reference: "
            "leave out reward_model, reward and reference"
        )
    template = Template(load_tokenizer(inputs.policy))
    shown = train_demonstrations(inputs.data, inputs.ledger, test_share=s.test_share, max_dropped=s.max_dropped)
    answers: dict[Prompt, list[Encoded]] = {}
    room = prompt_room(s.max_length, online.max_new_tokens)
    for one in shown:
        prompt = template.fit(template.prompt(one.prompt), room)
        whole = template.completion(one.completion)
        cut = whole[: online.max_new_tokens]
        if len(cut) < len(whole):
            inputs.ledger.note("truncated")
        answers.setdefault(tuple(prompt), []).append(Encoded([*prompt, *cut], len(prompt), len(cut) < len(whole)))
    policy = start_policy(inputs.policy, s)
    trunk = trunk_of(policy, online, s)
    discriminator: nn.Module
    if trunk is None:
        discriminator = trained_reward_model(inputs.policy, s, template.pad_id)
        reference = load_policy(inputs.policy, *place_of(s)).requires_grad_(False)
    else:
        discriminator, reference = critic_on(trunk, s, template.pad_id), None
    judge = ScoreHead(discriminator)
    roles = Roles(
        online,
        policy=made_trainable(policy, s),
        reference=reference,
        reward=_earned(judge, template, config.kind, s),
        prompts=list({prompt_id(one.prompt): one.prompt for one in shown}.values()),
        template=template,
    )
    roles.trained.append(discriminator)
    roles.beside["discriminator"] = discriminator
    return Adversarial(config, roles, judge, answers)


def _earned(judge: ScoreHead, template: Template, kind: Kind, settings: RunSettings) -> Reward:
    """The discriminator as a reward of texts."""

    @torch.no_grad()
    def earned(prompts: Sequence[Sequence[Message]], completions: Sequence[str]) -> list[float]:
        texts = [template.encode(p, c, settings.max_length) for p, c in zip(prompts, completions, strict=True)]
        scores = torch.empty(len(texts))
        for part in text_batches(texts, settings.micro_batch_tokens):
            scores[part] = judge.of([texts[i] for i in part]).cpu()
        found: list[float] = discriminator_reward(scores, kind).tolist()
        return found

    return earned
