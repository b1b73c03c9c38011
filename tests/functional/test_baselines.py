"""Advantages without a critic, against numbers worked by hand."""

from __future__ import annotations

import math

import pytest
import torch

from prefloop.functional.baselines import group_relative, leave_one_out


def test_each_is_compared_with_the_mean_of_the_others() -> None:
    """1, 2, 6: the others' means are 4, 3.5 and 1.5."""
    found = leave_one_out(torch.tensor([[1.0, 2.0, 6.0], [5.0, 5.0, 5.0]]))
    assert found.flatten().tolist() == pytest.approx([-3.0, -1.5, 4.5, 0.0, 0.0, 0.0], abs=1e-6)


@pytest.mark.parametrize("k", [2, 4, 9])
def test_leave_one_out_is_the_centred_reward_times_k_over_k_minus_1(k: int) -> None:
    rewards = torch.randn(5, k, generator=torch.Generator().manual_seed(k))
    others = torch.stack([rewards[:, [j for j in range(k) if j != i]].mean(1) for i in range(k)], 1)
    torch.testing.assert_close(leave_one_out(rewards), rewards - others)
    torch.testing.assert_close(leave_one_out(rewards), k / (k - 1) * (rewards - rewards.mean(1, keepdim=True)))


def test_group_relative() -> None:
    """1, 2, 6 have mean 3 and, with 2 for the divisor, variance 7."""
    scaled = group_relative(torch.tensor([[1.0, 2.0, 6.0]]), scale=True)
    unit = math.sqrt(7) + 1e-4
    assert scaled.flatten().tolist() == pytest.approx([-2 / unit, -1 / unit, 3 / unit], rel=1e-5)
    assert group_relative(torch.tensor([[1.0, 2.0, 6.0]]), scale=False).flatten().tolist() == [-2.0, -1.0, 3.0]


@pytest.mark.parametrize("scale", [True, False])
def test_equal_rewards_give_no_advantage(scale: bool) -> None:
    assert group_relative(torch.full((2, 4), 3.0), scale=scale).abs().max().item() == 0.0
