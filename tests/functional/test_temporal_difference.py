"""Expectiles, targets and soft values against closed forms and numbers worked by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from prefloop.functional.temporal_difference import (
    chosen,
    double_q_values,
    dueling,
    expectile_error,
    final_rewards,
    following,
    perturbed_logits,
    polyak_,
    soft_values,
    td_targets,
)

VALID = torch.tensor([[True, True, True], [True, False, False]])


def expectile(targets: Tensor, share: float) -> float:
    """Where the gradient of the mean error is 0, by bisection."""
    low, high = float(targets.min()), float(targets.max())
    for _ in range(60):
        middle = torch.tensor((low + high) / 2, dtype=torch.double, requires_grad=True)
        (slope,) = torch.autograd.grad(expectile_error(targets - middle, share).mean(), middle)
        at = float(middle.detach())
        low, high = (at, high) if slope < 0 else (low, at)
    return low


def test_the_expectiles_of_a_normal_distribution() -> None:
    """0.337 and 1.72 are those of N(0, 1) at 0.7 and 0.99, as (1 - s) e = (2 s - 1) (phi(e) - e (1 - Phi(e))) has it;
    here 100,000 of its quantiles stand for it."""
    normal = torch.special.ndtri((torch.arange(100_000, dtype=torch.double) + 0.5) / 100_000)
    assert expectile(normal, 0.5) == pytest.approx(0.0, abs=1e-6)
    for share, expected in ((0.7, 0.3371), (0.99, 1.7174)):
        phi = math.exp(-expected * expected / 2) / math.sqrt(2 * math.pi)
        above = math.erfc(expected / math.sqrt(2)) / 2
        assert (1 - share) * expected == pytest.approx((2 * share - 1) * (phi - expected * above), abs=1e-4)
        assert expectile(normal, share) == pytest.approx(expected, abs=1e-3)
    assert expectile(normal, 0.3) == pytest.approx(-0.3371, abs=1e-3)


def test_one_half_is_half_the_squared_error_and_one_is_the_maximum() -> None:
    targets = torch.tensor([1.0, 2.0, 6.0], dtype=torch.double)
    assert expectile_error(targets - 2.5, 0.5).tolist() == [1.125, 0.125, 6.125]
    assert expectile_error(targets - 2.0, 0.9).tolist() == pytest.approx([0.1, 0.0, 14.4])
    assert expectile(targets, 0.5) == pytest.approx(3.0)
    assert expectile(targets, 1 - 1e-6) == pytest.approx(6.0, abs=1e-4)


def test_targets_by_hand() -> None:
    values = torch.tensor([[1.0, 2.0, 3.0], [4.0, 99.0, 99.0]], requires_grad=True)
    assert following(values, VALID).tolist() == [[2.0, 3.0, 0.0], [0.0, 0.0, 0.0]]
    rewards = final_rewards(torch.tensor([10.0, 20.0]), VALID)
    assert rewards.tolist() == [[0.0, 0.0, 10.0], [20.0, 0.0, 0.0]]
    targets = td_targets(rewards, values, VALID, 0.5)
    assert targets.tolist() == [[1.0, 1.5, 10.0], [20.0, 0.0, 0.0]]
    assert not targets.requires_grad


def test_soft_values_by_hand() -> None:
    """ln(e^1 + e^2) = 2.3133; a low temperature gives the maximum; two equal Qs are worth T ln 2 more than one."""
    q = torch.tensor([[1.0, 2.0], [3.0, 3.0]])
    assert soft_values(q, 1.0).tolist() == pytest.approx([2.31326, 3.69315], abs=1e-5)
    assert soft_values(q, 0.01).tolist() == pytest.approx([2.0, 3.0 + 0.01 * math.log(2)], abs=1e-5)


def test_a_constant_added_to_the_advantages_changes_nothing() -> None:
    advantages = torch.tensor([[1.0, 2.0, 6.0]])
    q = dueling(torch.tensor([10.0]), advantages)
    assert q.tolist() == [[8.0, 9.0, 13.0]]
    assert dueling(torch.tensor([10.0]), advantages + 7.0).tolist() == q.tolist()


def test_double_q_learning_appraises_with_the_other_network() -> None:
    live, target = torch.tensor([[1.0, 5.0, 2.0]]), torch.tensor([[9.0, 3.0, 4.0]])
    assert double_q_values(live, target).tolist() == [3.0]


def test_double_q_learning_overestimates_less() -> None:
    """Ten actions that are worth 0, seen through noise: the maximum of the noise has mean 1.539, and the other
    network's opinion of where it is has mean 0."""
    stream = torch.Generator().manual_seed(0)
    live, target = torch.randn(2, 50_000, 10, generator=stream)
    assert live.max(-1).values.mean().item() == pytest.approx(1.539, abs=0.01)
    assert double_q_values(live, target).mean().item() == pytest.approx(0.0, abs=0.02)


def test_perturbed_logits_by_hand() -> None:
    logits, q, value = torch.tensor([[0.0, math.log(3.0)]]), torch.tensor([[2.0, 1.0]]), torch.tensor([1.5])
    assert perturbed_logits(logits, q, value, 0.0).exp().tolist()[0] == pytest.approx([0.25, 0.75])
    moved = perturbed_logits(logits, q, value, 2.0)
    assert moved.tolist()[0] == pytest.approx([math.log(0.25) + 1.0, math.log(0.75) - 1.0])


def test_targets_follow() -> None:
    target, live = torch.tensor([0.0, 10.0]), torch.tensor([1.0, 20.0])
    polyak_([target], [live], 0.1)
    assert target.tolist() == pytest.approx([0.1, 11.0])
    polyak_([target], [live], 1.0)
    assert target.tolist() == [1.0, 20.0]
    assert live.tolist() == [1.0, 20.0]


def test_chosen() -> None:
    assert chosen(torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([1, 0])).tolist() == [2.0, 3.0]
