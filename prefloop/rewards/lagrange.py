"""A constraint on a reward's mean cost: max E[r] subject to E[c] <= limit, by a price that is learned.

Dai et al. 2023, Safe RLHF (arXiv 2310.12773), section 3.3: the policy is trained on (r - l c) / (1 + l), and the price
l of a unit of cost rises while the constraint is broken and falls while it is not.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

LARGEST_STEP = 1.0
"""In log price: however far the constraint is broken, one rollout multiplies the price by e at most."""


def penalised(reward: float, costs: Mapping[str, float], prices: Mapping[str, float]) -> float:
    """(r - sum l c) / (1 + sum l): dividing keeps the reward's size as prices grow. A cost that is NaN is left out."""
    applies = {name: cost for name, cost in costs.items() if not math.isnan(cost)}
    paid = sum(prices[name] * cost for name, cost in applies.items())
    return (reward - paid) / (1 + sum(prices[name] for name in applies))


def next_price(price: float, violation: float, lr: float) -> float:
    """ln l <- ln l + lr * l * violation, where `violation` is the mean cost less its limit: l stays positive."""
    step = min(max(lr * price * violation, -LARGEST_STEP), LARGEST_STEP)
    return price * math.exp(step)
