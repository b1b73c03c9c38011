"""Natural Language Policy Optimization. Ramamurthy et al. 2023, https://arxiv.org/abs/2210.01241, algorithm 1

PPO in a smaller space of actions: a copy of the policy, renewed every so many rollouts, says at each step which tokens
are likely at all (its top-p set), and only those are drawn. The sets are kept with the rollout, so both sides of the
ratio are distributions over the same tokens; the KL in the reward is that of the whole distributions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import torch
from jaxtyping import Bool, Float, UInt8
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor

from prefloop.datasets.collate import text_batches
from prefloop.functional.returns import generalized_advantages, penalised_rewards, whiten
from prefloop.functional.surrogates import clipped_surrogate, clipped_value_error, policy_change
from prefloop.generation.choice import nucleus
from prefloop.generation.twin import Adviser
from prefloop.models.heads import CompletionLogprobs
from prefloop.models.load import base_of
from prefloop.models.shared import sharing
from prefloop.models.trees import texts_of
from prefloop.training.method import Inputs
from prefloop.training.offline import Loss
from prefloop.training.online_roles import Roles, roles_of
from prefloop.training.rollout import Rollout
from prefloop.training.run import Run

Fraction = Annotated[float, Field(ge=0, le=1)]

DEFAULTS: dict[str, Any] = {
    "lr": 1e-6,
    "batch_size": 64,
    "schedule": "linear",
    "log_every": 1,
    "rollout_epochs": 5,
    "minibatches": 1,
    "beta": 0.1,
}


@dataclass(frozen=True, kw_only=True)
class NLPOConfig:
    """Settings of `train nlpo`, beside those of every run and of every online run."""

    top_p: Annotated[float, Field(gt=0, le=1)] = 0.9
    """Of the mask policy's distribution the likeliest tokens that together hold this may be drawn; 1 is PPO."""
    min_tokens: PositiveInt = 100
    """At least so many of its likeliest tokens may be drawn, and EOS always."""
    mask_every: PositiveInt = 5
    """The mask policy is renewed, a copy of the policy as it is then, after every so many rollouts."""
    gamma: Fraction = 1.0
    """Discount per token."""
    gae_lambda: Fraction = 0.95
    """0 trusts only the critic; 1 only the return."""
    clip_range: PositiveFloat = 0.2
    """pi / pi_old, both over the tokens that could be drawn, is clipped to [1 - clip_range, 1 + clip_range]."""
    value_clip_range: PositiveFloat = 0.2
    """The critic's new value is clipped to within this of its old one."""
    value_coef: NonNegativeFloat = 0.1
    """Weight of the critic's loss."""
    entropy_coef: NonNegativeFloat = 0.0
    """What a nat of entropy per decision, over the tokens that could be drawn, is worth in the loss."""


class NLPO:
    """The loss has one value per decision."""

    name = "nlpo"

    def __init__(self, config: NLPOConfig, roles: Roles, budget: int) -> None:
        """`budget`: tokens that go through the models at once when the sets of a rollout are recorded."""
        self.config, self.roles, self.budget = config, roles, budget
        model = base_of(roles.policy)
        # Under an adapter the frozen weights are no copies: they would be equal for ever.
        self.mask = sharing(model, [p for p in model.parameters() if not p.requires_grad]).eval().requires_grad_(False)
        self.masks = CompletionLogprobs(self.mask)
        roles.adviser = Adviser(self.mask, self.allowed)

    def allowed(self, logits: Float[Tensor, "n V"]) -> Bool[Tensor, "n V"]:
        """True for the tokens that may be drawn, from the mask policy's logits."""
        c = self.config
        if c.top_p == 1:  # the sum of all probabilities may round to 1 before the last
            return torch.ones_like(logits, dtype=torch.bool)
        kept = nucleus(logits.float().softmax(-1), c.top_p)
        kept.scatter_(1, logits.topk(min(c.min_tokens, logits.shape[1]), -1).indices, True)
        kept[:, self.roles.template.eos_id] = True
        return kept

    @torch.no_grad()
    def prepare(self, rollout: Rollout) -> Rollout:
        """PPO's rewards, advantages and returns; and what could be drawn, with log pi among that."""
        c, valid, seen = self.config, rollout.valid, rollout.added
        rewards = penalised_rewards(rollout.scores, seen["logprobs"], seen["reference"], valid, rollout.beta)
        advantages, returns = generalized_advantages(rewards, seen["values"], valid, c.gamma, c.gae_lambda)
        recorded = self._recorded(rollout)
        return recorded.adding(advantages=whiten(advantages, valid, shift_mean=True), returns=returns)

    def loss(self, minibatch: Rollout) -> Loss:
        """PPO's, with pi and pi_old over the tokens that could be drawn."""
        c = self.config
        old, old_values, advantages, returns = minibatch.decisions("masked", "values", "advantages", "returns")
        only = unpacked(minibatch.added["sets"][minibatch.valid], self._vocabulary)
        values = self.roles.values(minibatch)
        value_loss = clipped_value_error(values, old_values, returns, c.value_clip_range)
        logprobs, entropy = self.roles.logprobs_and_entropy(minibatch, wanted=c.entropy_coef > 0, only=only)
        policy_loss = clipped_surrogate(logprobs, old, advantages, c.clip_range)
        (outside,) = minibatch.decisions("outside")
        metrics = {
            "loss/policy_avg": policy_loss.detach(),
            "loss/value_avg": value_loss.detach(),
            "val/clipfrac_avg": ((values - old_values).detach().abs() > c.value_clip_range).float(),
            "mask/allowed": only.sum(-1).float(),
            "mask/outside": outside,
        }
        total = policy_loss + c.value_coef * value_loss - c.entropy_coef * entropy
        return Loss(total, torch.ones_like(total), metrics | policy_change(logprobs, old, c.clip_range, c.clip_range))

    def divisor(self, minibatch: Rollout) -> float:
        """The mean over decisions."""
        return float(minibatch.valid.sum())

    def followers(self) -> dict[str, Tensor]:
        """The mask policy: a resumed run needs it as it was."""
        theirs = {id(parameter) for parameter in base_of(self.roles.policy).parameters()}
        return {name: mine for name, mine in self.mask.named_parameters() if id(mine) not in theirs}

    @torch.no_grad()
    def follow(self, step: int) -> None:
        """After every `mask_every` rollouts the mask policy becomes the policy."""
        if step % self.config.mask_every == 0:
            for mine, theirs in zip(self.mask.parameters(), base_of(self.roles.policy).parameters(), strict=True):
                mine.copy_(theirs)

    @property
    def _vocabulary(self) -> int:
        return int(self.masks.head.weight.shape[0])

    def _recorded(self, rollout: Rollout) -> Rollout:
        """`sets`, packed; `masked`, log pi over them; `outside`, 1 where the drawn token was not in its set.

        It was in the sampler's set; in another batch the mask policy rounds otherwise, and it is put back in.
        """
        valid = rollout.valid
        found = {
            "sets": torch.zeros(*valid.shape, -(-self._vocabulary // 8), dtype=torch.uint8, device=valid.device),
            "masked": torch.zeros(valid.shape, device=valid.device),
            "outside": torch.zeros(valid.shape, device=valid.device),
        }
        for micro in text_batches(texts_of(rollout.ids, rollout.starts, valid), self.budget):
            part = rollout.rows(micro)
            only = self.allowed(self.masks.logits(part.ids, part.starts, part.valid))
            drawn = torch.tensor([token for row in part.completions() for token in row], device=valid.device)[:, None]
            outside = ~only.gather(1, drawn)[:, 0]
            only.scatter_(1, drawn, True)
            logprobs, _ = self.roles.logprobs_and_entropy(part, wanted=False, only=only)
            for name, values in (("sets", packed(only)), ("masked", logprobs), ("outside", outside.float())):
                there = values.new_zeros(*part.valid.shape, *values.shape[1:])
                there[part.valid] = values
                found[name][micro, : part.valid.shape[1]] = there
        return rollout.adding(**found)


def packed(mask: Bool[Tensor, "n V"]) -> UInt8[Tensor, "n W"]:
    """Eight entries to a byte."""
    padded = torch.nn.functional.pad(mask, (0, -mask.shape[1] % 8)).unflatten(1, (-1, 8)).to(torch.uint8)
    bits: Tensor = (padded << torch.arange(8, dtype=torch.uint8, device=mask.device)).sum(-1, dtype=torch.uint8)
    return bits


def unpacked(bits: UInt8[Tensor, "n W"], entries: int) -> Bool[Tensor, "n V"]:
    """What `packed` was given, `entries` wide."""
    spread = bits[..., None] >> torch.arange(8, dtype=torch.uint8, device=bits.device)
    return (spread & 1).bool().flatten(1)[:, :entries]


def build(config: NLPOConfig, run: Run, inputs: Inputs) -> NLPO:
    """NLPO from what a run names."""
    return NLPO(config, roles_of(run, inputs, critic=True), run.settings.micro_batch_tokens)
