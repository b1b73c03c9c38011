"""The price of a constraint: its steps by hand, and its limit on a bandit whose dual is known."""

from __future__ import annotations

import math

import numpy as np
import pytest

from prefloop.rewards.composition import compose
from prefloop.rewards.lagrange import next_price, penalised


def test_the_reward_that_is_trained_on() -> None:
    assert penalised(5.0, {"a": 1.0, "b": -2.0}, {"a": 2.0, "b": 0.5}) == pytest.approx((5 - 2 + 1) / 3.5)
    assert penalised(5.0, {"a": math.nan}, {"a": 2.0}) == 5.0
    assert penalised(5.0, {}, {}) == 5.0


def test_the_price_rises_while_the_constraint_is_broken_and_falls_while_it_is_not() -> None:
    assert next_price(2.0, 0.5, 0.1) == pytest.approx(2 * math.exp(0.1))
    assert next_price(2.0, -0.5, 0.1) == pytest.approx(2 * math.exp(-0.1))
    assert next_price(2.0, 0.0, 0.1) == 2.0
    assert next_price(2.0, 1e9, 0.1) == pytest.approx(2 * math.e)


def test_on_a_two_armed_bandit_the_price_converges_to_the_dual() -> None:
    """Arm 1 helps 1 and costs 1, arm 0 helps 0 and costs -1/2; E[cost] <= 0 allows arm 1 a third of the time.

    The policy maximises E[R] + T entropy, so p1 = sigmoid(dR / T) with dR = (1 - 1.5 l) / (1 + l). p1 = 1/3 asks for
    dR = -T log 2, that is l = (1 + T log 2) / (1.5 - T log 2): the dual.
    """
    heat, rng = 0.1, np.random.default_rng(0)
    dual = (1 + heat * math.log(2)) / (1.5 - heat * math.log(2))
    reward = compose(
        {
            "help": lambda completions: [float(text == "1") for text in completions],
            "harm": {"function": "tests.rewards.test_lagrange:harm", "limit": 0.0, "multiplier_lr": 0.2},
        },
        learned=str,
    )
    prices, shares = [], []
    for _ in range(600):
        first, second = reward.score([[], []], ["0", "1"]).total
        share = 1 / (1 + math.exp((first - second) / heat))
        arms = [str(int(arm)) for arm in rng.uniform(size=200) < share]
        reward.adapt(reward.score([[]] * 200, arms).parts)
        prices.append(reward.multipliers["harm"])
        shares.append(share)
    assert np.mean(prices[300:]) == pytest.approx(dual, rel=0.02)
    assert np.mean(shares[300:]) == pytest.approx(1 / 3, abs=0.02)
    assert abs(prices[0] - dual) > 0.1


def harm(completions: list[str]) -> list[float]:
    return [1.0 if text == "1" else -0.5 for text in completions]
