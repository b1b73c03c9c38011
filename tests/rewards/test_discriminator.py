"""Adversarial imitation on six outputs that can be listed: at the end nobody can tell, and AIRL's f is the reward."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from prefloop.rewards.discriminator import Kind, discriminator_logits, discriminator_loss, discriminator_reward

REWARD = torch.tensor([1.0, 0.0, -1.0, 0.5, 2.0, -0.5], dtype=torch.double)
EXPERT = REWARD.softmax(0)
"""Who acts by maximum entropy for that reward."""


def test_by_hand() -> None:
    logits = torch.tensor([0.0, math.log(3.0)])
    assert discriminator_loss(logits, torch.tensor([True, False])).tolist() == pytest.approx([math.log(2), math.log(4)])
    assert discriminator_reward(logits, "gail").tolist() == pytest.approx([math.log(2), math.log(4)])
    assert discriminator_reward(logits, "logit").tolist() == pytest.approx([0.0, math.log(3)])
    assert discriminator_reward(logits, "probability").tolist() == pytest.approx([0.5, 0.75])
    scores, logprobs = torch.tensor([1.0]), torch.tensor([-2.0])
    assert discriminator_logits(scores, logprobs, "airl").item() == 3.0
    assert discriminator_logits(scores, logprobs, "gail").item() == 1.0
    assert discriminator_reward(torch.tensor([3.0]), "airl").item() == 3.0  # log D - log(1 - D)


def played(kind: Kind, rounds: int = 600) -> tuple[Tensor, Tensor]:
    """(policy, scores of the discriminator) after taking turns, every expectation exact."""
    policy = torch.zeros(6, dtype=torch.double, requires_grad=True)
    scores = torch.zeros(6, dtype=torch.double, requires_grad=True)
    judge = torch.optim.Adam([scores], lr=0.05)
    human, machine = torch.ones(6, dtype=torch.bool), torch.zeros(6, dtype=torch.bool)
    for _ in range(rounds):
        logp = policy.log_softmax(0).detach()
        for _ in range(10):
            logits = discriminator_logits(scores, logp, kind)
            loss = EXPERT @ discriminator_loss(logits, human) + logp.exp() @ discriminator_loss(logits, machine)
            judge.zero_grad()
            loss.backward()
            judge.step()
        earned = discriminator_reward(discriminator_logits(scores, logp, kind), kind).detach()
        with torch.no_grad():  # the natural gradient of what the policy is expected to earn
            policy += 0.05 * (earned - logp.exp() @ earned)
    return policy.log_softmax(0).detach(), scores.detach()


@pytest.mark.parametrize("kind", ["gail", "airl", "logit"])
def test_at_the_end_nobody_can_tell(kind: Kind) -> None:
    logp, scores = played(kind)
    d = discriminator_logits(scores, logp, kind).sigmoid()
    assert (logp.exp() - EXPERT).abs().max().item() < 0.01
    assert (d - 0.5).abs().max().item() < 0.02


def test_airl_recovers_the_reward_up_to_a_constant() -> None:
    _, scores = played("airl")
    difference = scores - REWARD
    assert (difference - difference.mean()).abs().max().item() < 0.03
    _, gail = played("gail")
    assert gail.abs().max().item() < 0.1  # GAIL's scores tell nothing once nobody can tell
