"""The cost model's loss against numbers worked by hand."""

from __future__ import annotations

import math

import pytest
import torch

from prefloop.functional.safety import cost_preference, cost_sign


def tensor(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.double)


def test_at_zero_it_is_three_coins() -> None:
    """3 log 2; the slope on the worse one's cost is -1/2 for the order and -s/2 for its sign."""
    costs = [tensor(0.0, 0.0).requires_grad_() for _ in range(2)]
    loss = cost_preference(*costs, tensor(1.0, -1.0), tensor(-1.0, -1.0))
    assert loss.tolist() == pytest.approx([3 * math.log(2)] * 2)
    loss.sum().backward()
    assert costs[0].grad.tolist() == pytest.approx([-1.0, 0.0])
    assert costs[1].grad.tolist() == pytest.approx([1.0, 1.0])


def test_by_hand() -> None:
    """C_w = 2, C_l = -1, unsafe and safe: softplus(-3) + softplus(-2) + softplus(-1)."""
    loss = cost_preference(tensor(2.0), tensor(-1.0), tensor(1.0), tensor(-1.0))
    assert loss.item() == pytest.approx(sum(math.log1p(math.exp(-x)) for x in (3, 2, 1)))


def test_the_sign_decides_the_border() -> None:
    """Minimised, an unsafe completion has a cost above 0 and a safe one below, also where both are unsafe or safe."""
    worse, better = tensor(0.0, 0.0, 0.0).requires_grad_(), tensor(0.0, 0.0, 0.0).requires_grad_()
    signs = tensor(1.0, 1.0, -1.0), tensor(-1.0, 1.0, -1.0)
    optimizer = torch.optim.SGD([worse, better], lr=0.5)
    for _ in range(300):
        optimizer.zero_grad()
        cost_preference(worse, better, *signs).sum().backward()
        optimizer.step()
    assert (worse.detach() * signs[0] > 0).all()
    assert (better.detach() * signs[1] > 0).all()
    assert (worse > better).all()


def test_where_nobody_said_only_the_order_counts_and_a_label_may_be_soft() -> None:
    """p softplus(-3) + (1 - p) softplus(3) for costs 2 and -1."""
    zero = tensor(0.0, 0.0)
    loss = cost_preference(tensor(2.0, 2.0), tensor(-1.0, -1.0), zero, zero, tensor(1.0, 0.6))
    sure, unsure = math.log1p(math.exp(-3)), math.log1p(math.exp(3))
    assert loss.tolist() == pytest.approx([sure, 0.6 * sure + 0.4 * unsure])
    assert cost_sign(tensor(0.7, -0.7, 5.0), tensor(1.0, 1.0, 0.0)).tolist() == pytest.approx(
        [math.log1p(math.exp(-0.7)), math.log1p(math.exp(0.7)), 0.0]
    )
