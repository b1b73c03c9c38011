"""Shares of a score: they sum to 1, and the sparse reward is one of them."""

from __future__ import annotations

import pytest
import torch

from prefloop.functional.credit import at_the_end, blended, evenly, in_proportion
from prefloop.functional.returns import generalized_advantages, penalised_rewards

VALID = torch.tensor([[True, True, True, True], [True, True, False, False]])
WEIGHTS = torch.tensor([[1.0, 3.0, 0.0, 4.0], [0.0, 0.0, 9.0, 9.0]])


def test_by_hand() -> None:
    assert at_the_end(VALID).tolist() == [[0, 0, 0, 1], [0, 1, 0, 0]]
    assert evenly(VALID).tolist() == [[0.25] * 4, [0.5, 0.5, 0, 0]]
    assert in_proportion(WEIGHTS, VALID).tolist() == [[0.125, 0.375, 0, 0.5], [0.5, 0.5, 0, 0]]
    assert blended(evenly(VALID), VALID, 0.8)[1].tolist() == pytest.approx([0.4, 0.6, 0, 0])


@pytest.mark.parametrize("beta", [0.0, 0.2, 0.5, 0.8, 1.0])
def test_the_return_is_the_score_for_every_beta(beta: float) -> None:
    scores = torch.tensor([2.5, -1.5])
    shares = blended(in_proportion(WEIGHTS, VALID), VALID, beta)
    assert shares.sum(1).tolist() == pytest.approx([1.0, 1.0])
    zeros = torch.zeros(2, 4)
    rewards = penalised_rewards(scores, zeros, zeros, VALID, 0.1, shares)
    assert rewards.sum(1).tolist() == pytest.approx([2.5, -1.5])
    assert (rewards[~VALID] == 0).all()
    _, returns = generalized_advantages(rewards, zeros, VALID, 1.0, 1.0)
    assert returns[:, 0].tolist() == pytest.approx([2.5, -1.5])


def test_beta_0_is_the_sparse_reward() -> None:
    scores, logprobs = torch.tensor([2.5, -1.5]), torch.arange(8.0).view(2, 4) / 10
    sparse = penalised_rewards(scores, logprobs, torch.zeros(2, 4), VALID, 0.3)
    shares = blended(in_proportion(WEIGHTS, VALID), VALID, 0.0)
    torch.testing.assert_close(penalised_rewards(scores, logprobs, torch.zeros(2, 4), VALID, 0.3, shares), sparse)
    assert sparse[0, 3].item() == pytest.approx(2.5 - 0.3 * 0.3)
