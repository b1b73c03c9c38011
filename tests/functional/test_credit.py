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


@pytest.mark.parametrize("beta", [0.2, 0.8])
def test_spreading_is_shaping_by_a_potential(beta: float) -> None:
    """Phi_t = beta r sum of the shares before t, 0 at the end: dense - sparse = Phi_{t+1} - Phi_t (Ng et al. 1999)."""
    score = 2.5
    alpha = in_proportion(WEIGHTS, VALID)[0]
    dense, sparse = score * blended(alpha[None], VALID[:1], beta)[0], score * at_the_end(VALID[:1])[0]
    before = alpha.cumsum(0) - alpha
    potential = torch.cat([beta * score * before, torch.zeros(1)])
    torch.testing.assert_close(dense - sparse, potential[1:] - potential[:-1])


def test_with_discount_the_return_depends_on_where_the_score_stands() -> None:
    """gamma 1/2, four tokens: the sparse score is worth 1/8 at the start, spread evenly (1 + 1/2 + 1/4 + 1/8) / 4."""
    scores, zeros = torch.tensor([1.0, 1.0]), torch.zeros(2, 4)
    first = []
    for shares in (at_the_end(VALID), evenly(VALID)):
        rewards = penalised_rewards(scores, zeros, zeros, VALID, 0.0, shares)
        first.append(float(generalized_advantages(rewards, zeros, VALID, 0.5, 1.0)[1][0, 0]))
    assert first == pytest.approx([0.125, 1.875 / 4])
