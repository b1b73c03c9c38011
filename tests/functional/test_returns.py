"""Advantages, whitening and the penalised reward, against numbers worked by hand."""

from __future__ import annotations

import math

import pytest
import torch

from prefloop.functional.returns import generalized_advantages, penalised_rewards, whiten

RAGGED = torch.tensor([[True, True, True], [True, True, False]])


def test_without_critic_and_discount_the_advantage_is_the_sum_of_later_rewards() -> None:
    rewards = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 0.0]])
    advantages, returns = generalized_advantages(rewards, torch.zeros(2, 3), RAGGED, 1.0, 1.0)
    assert advantages.tolist() == [[6.0, 5.0, 3.0], [9.0, 5.0, 0.0]]
    assert returns.tolist() == advantages.tolist()


def test_with_lambda_0_the_advantage_is_the_temporal_difference() -> None:
    rewards = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 0.0]])
    values = torch.tensor([[0.5, 1.5, 2.5], [1.0, 2.0, 0.0]])
    advantages, returns = generalized_advantages(rewards, values, RAGGED, 0.5, 0.0)
    # 1 + 0.5 * 1.5 - 0.5, 2 + 0.5 * 2.5 - 1.5, 3 - 2.5; 4 + 0.5 * 2 - 1, 5 - 2
    assert advantages.tolist() == [[1.25, 1.75, 0.5], [4.0, 3.0, 0.0]]
    assert returns.tolist() == [[1.75, 3.25, 3.0], [5.0, 5.0, 0.0]]


def test_generalized_advantages_between() -> None:
    """gamma = lambda = 1/2: deltas are 1.25, 1.75, 0.5 and each takes a quarter of the next one's advantage."""
    rewards, values = torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[0.5, 1.5, 2.5]])
    advantages, _ = generalized_advantages(rewards, values, torch.ones(1, 3, dtype=torch.bool), 0.5, 0.5)
    assert advantages.tolist() == [[1.71875, 1.875, 0.5]]


def test_padding_changes_nothing() -> None:
    """The same episode with garbage in its padding, and alone."""
    valid = torch.tensor([[True, True, False, False]])
    rewards, values = torch.tensor([[1.0, 2.0, 99.0, 99.0]]), torch.tensor([[0.5, 0.25, 77.0, 77.0]])
    padded, padded_returns = generalized_advantages(rewards, values, valid, 1.0, 0.95)
    alone, alone_returns = generalized_advantages(rewards[:, :2], values[:, :2], valid[:, :2], 1.0, 0.95)
    assert padded.tolist() == [[*alone[0].tolist(), 0.0, 0.0]]
    assert padded_returns.tolist() == [[*alone_returns[0].tolist(), 0.0, 0.0]]


def test_whitening_removes_the_mean_of_advantages_and_keeps_that_of_rewards() -> None:
    """1, 3, 5 have mean 3 and population variance 8/3; 1000 is padding."""
    values = torch.tensor([[1.0, 3.0], [5.0, 1000.0]])
    valid = torch.tensor([[True, True], [True, False]])
    unit = 2 / math.sqrt(8 / 3)
    shifted = whiten(values, valid, shift_mean=True)
    kept = whiten(values, valid, shift_mean=False)
    assert shifted.flatten().tolist() == pytest.approx([-unit, 0.0, unit, 0.0], abs=1e-6)
    assert kept.flatten().tolist() == pytest.approx([3 - unit, 3.0, 3 + unit, 0.0], abs=1e-6)


def test_whitening_equal_values_does_not_divide_by_zero() -> None:
    """(x - mean) / sqrt(0 + 1e-8) is 0 where all are alike."""
    equal = torch.full((1, 3), 2.0)
    valid = torch.ones(1, 3, dtype=torch.bool)
    assert whiten(equal, valid, shift_mean=True).tolist() == [[0.0, 0.0, 0.0]]
    assert whiten(equal, valid, shift_mean=False).tolist() == [[2.0, 2.0, 2.0]]


def test_the_score_sits_on_the_last_real_token_and_every_token_pays_for_its_kl() -> None:
    logprobs = torch.tensor([[-1.0, -2.0, -3.0], [-1.0, -1.0, 0.0]])
    reference = torch.tensor([[-2.0, -2.0, -1.0], [-1.5, -0.5, 0.0]])
    rewards = penalised_rewards(torch.tensor([10.0, 20.0]), logprobs, reference, RAGGED, 0.5)
    assert rewards.tolist() == [[-0.5, 0.0, 11.0], [-0.25, 20.25, 0.0]]


def test_garbage_behind_the_last_token_is_not_penalised() -> None:
    logprobs, reference = torch.tensor([[-1.0, 55.0]]), torch.tensor([[-1.0, -99.0]])
    rewards = penalised_rewards(torch.tensor([3.0]), logprobs, reference, torch.tensor([[True, False]]), 1.0)
    assert rewards.tolist() == [[3.0, 0.0]]
