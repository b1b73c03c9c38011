"""The Bradley-Terry loss in its forms (reward model, DPO, cDPO, margin), against numbers worked by hand."""

from __future__ import annotations

import math

import pytest
import torch

from prefloop.functional.preference import bradley_terry


def loss(difference: float, label: float = 1.0, margin: float = 0.0) -> float:
    return bradley_terry(torch.tensor([difference]), torch.tensor([label]), torch.tensor([margin])).item()


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


@pytest.mark.parametrize("label", [0.0, 0.3, 0.5, 1.0])
def test_equal_scores_cost_log_2(label: float) -> None:
    assert loss(0.0, label) == pytest.approx(math.log(2), rel=1e-6)


def test_hard_label() -> None:
    """Odds of 3 to 1: -log(3/4)."""
    assert loss(math.log(3)) == pytest.approx(-math.log(0.75), rel=1e-6)
    assert loss(-math.log(3)) == pytest.approx(-math.log(0.25), rel=1e-6)


def test_soft_label_is_the_mean_over_both_answers() -> None:
    assert loss(math.log(3), 0.6) == pytest.approx(-0.6 * math.log(0.75) - 0.4 * math.log(0.25), rel=1e-6)


def test_margin_is_the_loss_at_the_difference_less_the_margin() -> None:
    assert loss(math.log(3) + 0.5, margin=0.5) == pytest.approx(-math.log(0.75), rel=1e-6)
    assert bradley_terry(torch.tensor([1.5]), torch.tensor([1.0]), 1.5).item() == pytest.approx(math.log(2), rel=1e-6)


def test_swapping_the_sides_and_the_label_changes_nothing() -> None:
    assert loss(0.7, 0.8) == pytest.approx(loss(-0.7, 0.2), rel=1e-6)


def test_a_constant_added_to_every_score_changes_nothing() -> None:
    chosen, rejected, label = torch.tensor([1.0, -2.0]), torch.tensor([0.5, 3.0]), torch.tensor([1.0, 0.7])
    plain = bradley_terry(chosen - rejected, label)
    shifted = bradley_terry((chosen + 8) - (rejected + 8), label)
    assert shifted.tolist() == plain.tolist()


def test_gradient_is_minus_sigmoid_of_the_negative_difference() -> None:
    """d/dd -log sigmoid(d) = -sigmoid(-d): with d = beta z this is DPO's -beta sigmoid(-beta z) (grad z)."""
    beta, z = 0.1, torch.tensor([5.0], requires_grad=True)
    bradley_terry(beta * z, torch.ones(1)).sum().backward()
    assert z.grad is not None
    assert z.grad.item() == pytest.approx(-0.1 * sigmoid(-0.5), rel=1e-6)


def test_far_apart_scores_stay_finite() -> None:
    assert loss(-1e4) == pytest.approx(1e4)
    assert loss(1e4) == 0.0


def test_conservative_dpo_stops_at_its_margin() -> None:
    """With a share of 0.1 of wrong answers the best margin is log(0.9 / 0.1) = 2.197, not infinity."""
    margin = torch.zeros(1, requires_grad=True)
    optimizer = torch.optim.LBFGS([margin], max_iter=100, tolerance_grad=1e-9, tolerance_change=0)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        value = bradley_terry(margin, torch.tensor([0.9])).sum()
        value.backward()
        return value

    optimizer.step(closure)
    assert margin.item() == pytest.approx(2.1972, abs=1e-3)
