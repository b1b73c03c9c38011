"""Losses on scores, rewards and log-ratios, against numbers worked by hand and optima in closed form."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import pytest
import torch

from prefloop.functional.preference import (
    PairLoss,
    alpha_score,
    apo_down,
    apo_zero,
    bco,
    bradley_terry,
    discopop,
    exo,
    expected,
    hinge,
    ipo,
    js_score,
    kto,
    log_odds,
    logistic,
    nca,
    smoothed,
    sppo,
    unsmoothed,
)


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


# The losses of the direct methods: rewards are beta h


def of(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.double)


@pytest.mark.parametrize(
    ("loss", "chosen", "rejected", "value"),
    [
        (logistic, math.log(3), 0.0, math.log(4 / 3)),
        (hinge, 0.7, 0.5, 0.8),
        (hinge, 2.0, 0.5, 0.0),
        # z = h_c - h_r = 3 nats at tau = 0.1, target 5: (3 - 5)^2
        (partial(ipo, tau=0.1), 0.4, 0.1, 4.0),
        # at a difference of 0 half of each part: (log 2 + 1) / 2
        (discopop, 0.3, 0.3, (math.log(2) + 1) / 2),
        (apo_zero, math.log(3), -math.log(3), 0.5),
        (apo_down, math.log(3), 0.0, 1.0),
        (apo_down, 0.0, 0.0, 1.0),
        (nca, 0.0, 0.0, 2 * math.log(2)),
        (nca, math.log(3), 0.0, -math.log(0.75) - 0.5 * math.log(0.25) - 0.5 * math.log(0.5)),
        (bco, math.log(3), -math.log(3), -2 * math.log(0.75)),
        # beta = 0.5: h_c = 3, h_r = 1, targets 1 and -1: 4 + 4
        (partial(sppo, beta=0.5), 1.5, 0.5, 8.0),
    ],
)
def test_losses_of_a_pair(loss: PairLoss, chosen: float, rejected: float, value: float) -> None:
    assert loss(of(chosen), of(rejected)).item() == pytest.approx(value, rel=1e-12)


def test_exo_is_the_divergence_from_the_model_to_the_label() -> None:
    """Odds of 3 to 1 against a label of 0.9: 0.75 log(0.75 / 0.9) + 0.25 log(0.25 / 0.1); 0 where they agree."""
    expected_value = 0.75 * math.log(0.75 / 0.9) + 0.25 * math.log(0.25 / 0.1)
    assert exo(of(math.log(3)), of(0.0), of(0.9)).item() == pytest.approx(expected_value, rel=1e-12)
    assert exo(of(math.log(9)), of(0.0), of(0.9)).item() == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize(
    "loss", [logistic, hinge, partial(ipo, tau=0.3), discopop, apo_zero, apo_down, nca, bco, partial(sppo, beta=0.4)]
)
def test_gradients_of_the_pair_losses(loss: PairLoss) -> None:
    chosen = torch.tensor([0.3, -1.2, 2.5], dtype=torch.double, requires_grad=True)
    rejected = torch.tensor([0.1, 0.4, -0.7], dtype=torch.double, requires_grad=True)
    label = of(1.0, 0.7, 0.2)
    assert torch.autograd.gradcheck(lambda c, r: expected(loss, c, r, label), (chosen, rejected))


def test_gradients_of_the_others() -> None:
    h = torch.tensor([-3.0, -0.4, -0.2, -1e-3], dtype=torch.double, requires_grad=True)
    label, zero = of(1.0, 0.0, 0.4, 0.9), torch.tensor(0.3, dtype=torch.double)
    for function in (
        log_odds,
        js_score,
        partial(alpha_score, alpha=0.0),
        partial(alpha_score, alpha=0.5),
        partial(alpha_score, alpha=1.0),
        lambda r: kto(r, zero, label, 1.0, 1.3),
        lambda r: exo(r, -r, 0.8 * label + 0.1),
    ):
        assert torch.autograd.gradcheck(function, (h,))


def test_the_gradient_of_ipo_vanishes_at_its_margin_and_not_before() -> None:
    """d/dz (z - 5)^2 = 2 (z - 5) in nats of z = (c - r) / tau."""
    chosen = torch.tensor([0.5, 0.2], dtype=torch.double, requires_grad=True)
    ipo(chosen, of(0.0, 0.0), tau=0.1).sum().backward()
    assert chosen.grad is not None
    assert chosen.grad.tolist() == pytest.approx([0.0, 2 * (2 - 5) / 0.1], abs=1e-12)


def test_a_soft_label_mixes_both_ways_round() -> None:
    """apo_zero at rewards log 3 and 0: 0.25 + 0.5 one way, 0.5 + 0.75 the other."""
    value = expected(apo_zero, of(math.log(3)), of(0.0), of(0.8)).item()
    assert value == pytest.approx(0.8 * 0.75 + 0.2 * 1.25, rel=1e-12)


def test_smoothing_and_its_inverse() -> None:
    assert smoothed(of(1.0, 0.5, 0.8), 0.1).tolist() == pytest.approx([0.9, 0.5, 0.74])
    assert unsmoothed(smoothed(of(1.0, 0.3), 0.1), 0.1).tolist() == pytest.approx([1.0, 0.3])
    assert unsmoothed(of(1.0), 0.1).item() == pytest.approx(1.125)


def test_a_robust_loss_is_unbiased_under_flips() -> None:
    """Labels flipped with probability 0.2: the mean robust loss is the loss of the true label."""
    chosen, rejected = of(0.9), of(-0.4)
    true = logistic(chosen, rejected)
    robust = [expected(logistic, chosen, rejected, unsmoothed(of(seen), 0.2)) for seen in (1.0, 0.0)]
    assert (0.8 * robust[0] + 0.2 * robust[1]).item() == pytest.approx(true.item(), rel=1e-12)


def test_divergences_are_derivatives_of_their_f() -> None:
    """u = 2: log 2; 1 - 1/2; 2 (1 - 1/sqrt 2); log(4/3). alpha -> 0 tends to the reverse KL."""
    h = of(math.log(2))
    assert alpha_score(h, 0.0).item() == pytest.approx(math.log(2))
    assert alpha_score(h, 1.0).item() == pytest.approx(0.5)
    assert alpha_score(h, 0.5).item() == pytest.approx(2 * (1 - 2**-0.5))
    assert alpha_score(h, 1e-6).item() == pytest.approx(math.log(2), rel=1e-5)
    assert js_score(h).item() == pytest.approx(math.log(4 / 3))
    assert math.isfinite(alpha_score(torch.tensor([-500.0]), 1.0).item())


def test_kto_at_the_reference_costs_half_its_weight() -> None:
    """h = 0 and z0 = 0: every term is 0.5 lambda."""
    values = kto(of(0.0, 0.0, 0.0), torch.tensor(0.0, dtype=torch.double), of(1.0, 0.0, 0.5), 1.2, 1.5)
    assert values.tolist() == pytest.approx([0.6, 0.75, 0.675])


def test_kto_saturates_on_both_sides_and_counts_from_its_zero() -> None:
    reward = torch.tensor([-40.0, 40.0, math.log(3) + 0.5], dtype=torch.double, requires_grad=True)
    values = kto(reward, torch.tensor(0.5, dtype=torch.double), of(1.0, 1.0, 0.0), 1.0, 1.0)
    assert values.tolist() == pytest.approx([1.0, 0.0, 0.75])
    values.sum().backward()
    assert reward.grad is not None
    assert reward.grad[:2].abs().max().item() < 1e-15
    assert reward.grad[2].item() == pytest.approx(0.75 * 0.25)


def test_log_odds() -> None:
    """P = 1/2: 0; P = 3/4: log 3; P near 1 and near 0 stay finite, in float32 too."""
    assert log_odds(of(math.log(0.5), math.log(0.75))).tolist() == pytest.approx([0.0, math.log(3)], abs=1e-12)
    assert log_odds(torch.tensor([0.0, -100.0])).tolist() == pytest.approx([math.log(1e6), -100.0], rel=1e-3)


# Optima on an output space that is small enough to write down


def minimise(parameters: torch.Tensor, objective: Callable[[], torch.Tensor]) -> None:
    optimizer = torch.optim.LBFGS(
        [parameters], max_iter=2000, tolerance_grad=1e-14, tolerance_change=0, line_search_fn="strong_wolfe"
    )

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        value = objective()
        value.backward()
        return value

    optimizer.step(closure)


REWARDS = torch.tensor([1.0, 0.2, -0.5, 0.0, 2.0], dtype=torch.double)
REFERENCE = torch.tensor([0.1, 0.3, 0.25, 0.2, 0.15], dtype=torch.double)
FIRST, SECOND = torch.combinations(torch.arange(5)).unbind(1)
LIKELY = torch.sigmoid(REWARDS[FIRST] - REWARDS[SECOND])
"""All pairs of five outputs, each with its true Bradley-Terry probability."""


def solved(loss: PairLoss, scale: float) -> torch.Tensor:
    """The policy that minimises a loss over all pairs, as probabilities."""
    logits = torch.zeros(5, dtype=torch.double, requires_grad=True)

    def objective() -> torch.Tensor:
        rewards = scale * (logits.log_softmax(0) - REFERENCE.log())
        return expected(loss, rewards[FIRST], rewards[SECOND], LIKELY).sum()

    minimise(logits, objective)
    return logits.detach().softmax(0)


@pytest.mark.parametrize("beta", [0.5, 1.0])
def test_the_optimum_of_dpo_is_the_tilted_reference(beta: float) -> None:
    """rho exp(r / beta) / Z, exactly."""
    tilted = REFERENCE * (REWARDS / beta).exp()
    assert (solved(logistic, beta) - tilted / tilted.sum()).abs().max().item() < 5e-8


def test_the_optimum_of_ipo_is_the_mean_preference() -> None:
    """h_i = mean_j P(i beats j) / tau + const for uniform pairs; its own half counts."""
    tau = 0.4
    beats = torch.sigmoid(REWARDS[:, None] - REWARDS[None, :]).mean(1)
    tilted = REFERENCE * (beats / tau).exp()
    assert (solved(partial(ipo, tau=tau), tau) - tilted / tilted.sum()).abs().max().item() < 5e-8


def test_the_margin_of_conservative_dpo_is_its_log_odds() -> None:
    """beta z = log((1 - e) / e) = 2.197 at e = 0.1."""
    reward = torch.zeros(1, dtype=torch.double, requires_grad=True)
    minimise(reward, lambda: expected(logistic, reward, of(0.0), smoothed(of(1.0), 0.1)).sum())
    assert reward.item() == pytest.approx(math.log(9), abs=1e-6)
    assert reward.item() == pytest.approx(2.197, abs=1e-3)


def test_where_people_always_agree_dpo_runs_away_and_ipo_stops() -> None:
    """With a label of 1 IPO's margin is 1 / (2 tau) = 2.5 nats; DPO's still grows after ten times the steps."""
    tau = 0.2
    reward = torch.zeros(1, dtype=torch.double, requires_grad=True)
    minimise(reward, lambda: ipo(reward, of(0.0), tau).sum())
    assert reward.item() / tau == pytest.approx(2.5, abs=1e-9)
    margins = []
    for steps in (100, 1000, 10000):
        z = 0.0
        for _ in range(steps):
            z += sigmoid(-z)  # gradient descent with rate 1
        margins.append(z)
    assert margins[1] - margins[0] > 2
    assert margins[2] - margins[1] > 2


def test_smoothing_of_zero_is_dpo() -> None:
    chosen, rejected = of(0.3, -2.0), of(0.9, 0.4)
    plain = logistic(chosen, rejected)
    for change in (smoothed, unsmoothed):
        assert expected(logistic, chosen, rejected, change(of(1.0, 1.0), 0.0)).tolist() == plain.tolist()
