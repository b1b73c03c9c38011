"""The clipped losses, against numbers worked by hand."""

from __future__ import annotations

import math
from typing import Literal

import pytest
import torch

from prefloop.functional.surrogates import MAX_LOG_RATIO, clipped_surrogate, clipped_value_error, kl_estimate


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss"),
    [
        (math.e, 1.0, -1.2),  # a good action already made likelier: no more is gained than 1.2
        (math.e, -1.0, math.e),  # a bad action made likelier: the whole ratio counts
        (0.5, 1.0, -0.5),  # a good action made unlikelier: the whole ratio counts
        (0.5, -1.0, 0.8),  # a bad action already made unlikelier: no less than 0.8
        (1.1, 2.0, -2.2),  # inside the range nothing is clipped
        (1.0, -3.0, 3.0),
        (2.0, 0.0, 0.0),
    ],
)
def test_clipped_surrogate(ratio: float, advantage: float, loss: float) -> None:
    new, old = torch.tensor([math.log(ratio) - 2.0]), torch.tensor([-2.0])
    assert clipped_surrogate(new, old, torch.tensor([advantage]), 0.2).item() == pytest.approx(loss, rel=1e-6)


@pytest.mark.parametrize(
    ("ratio", "advantage", "slope"),
    [
        (math.e, 1.0, 0.0),  # clipped: no gradient
        (0.5, -1.0, 0.0),
        (math.e, -1.0, math.e),  # not clipped: -A times the ratio
        (0.5, 1.0, -0.5),
        (1.0, 2.0, -2.0),
    ],
)
def test_what_is_clipped_has_no_gradient(ratio: float, advantage: float, slope: float) -> None:
    new = torch.tensor([math.log(ratio)], requires_grad=True)
    clipped_surrogate(new, torch.zeros(1), torch.tensor([advantage]), 0.2).sum().backward()
    assert new.grad is not None
    assert new.grad.item() == pytest.approx(slope, rel=1e-6)


def test_policies_far_apart_do_not_overflow() -> None:
    """exp(1000) would be infinity; the log-ratio stops at 20, and there its gradient stops too."""
    new = torch.tensor([1000.0, -1000.0], requires_grad=True)
    loss = clipped_surrogate(new, torch.zeros(2), torch.tensor([-1.0, 1.0]), 0.2)
    assert MAX_LOG_RATIO == 20.0
    assert loss.tolist() == pytest.approx([math.exp(20.0), -math.exp(-20.0)], rel=1e-5)
    loss.sum().backward()
    assert new.grad is not None
    assert new.grad.tolist() == [0.0, 0.0]


@pytest.mark.parametrize(
    ("value", "old", "target", "loss"),
    [
        (1.0, 0.0, 0.0, 0.5),  # 1/2 max(1^2, 0.2^2)
        (1.0, 0.0, 2.0, 1.62),  # clipped to 0.2: 1/2 max(1^2, 1.8^2)
        (-0.5, 0.0, -1.0, 0.32),  # clipped to -0.2: 1/2 max(0.5^2, 0.8^2)
        (0.1, 0.0, 0.3, 0.02),  # inside the range: 1/2 0.2^2
    ],
)
def test_clipped_value_error(value: float, old: float, target: float, loss: float) -> None:
    found = clipped_value_error(torch.tensor([value]), torch.tensor([old]), torch.tensor([target]), 0.2)
    assert found.item() == pytest.approx(loss, rel=1e-6)


def test_a_clipped_value_is_not_pushed_further() -> None:
    """On the far side of the range the clipped error is the larger one, and it does not depend on the value."""
    value = torch.tensor([1.0, 0.1], requires_grad=True)
    clipped_value_error(value, torch.zeros(2), torch.tensor([2.0, 0.3]), 0.2).sum().backward()
    assert value.grad is not None
    assert value.grad.tolist() == pytest.approx([0.0, -0.2], abs=1e-6)


def test_a_higher_upper_side() -> None:
    """DAPO's 0.2 and 0.28: a good action may become 1.28 times as likely, a bad one 0.8 times."""
    new, old = torch.tensor([math.log(1.5), math.log(0.5)]), torch.zeros(2)
    assert clipped_surrogate(new, old, torch.tensor([1.0, -1.0]), 0.2, 0.28).tolist() == pytest.approx([-1.28, 0.8])


@pytest.mark.parametrize(
    ("estimator", "value"), [("k1", math.log(2)), ("k2", math.log(2) ** 2 / 2), ("k3", math.log(2) - 0.5)]
)
def test_kl_estimates(estimator: Literal["k1", "k2", "k3"], value: float) -> None:
    """pi = 1/2, reference = 1/4: the log-ratio is log 2, and k3 = 1/2 - 1 + log 2."""
    found = kl_estimate(torch.tensor([0.5]).log(), torch.tensor([0.25]).log(), estimator)
    assert found.item() == pytest.approx(value, abs=1e-6)


def test_what_the_estimates_hold_back() -> None:
    """On pi's own decisions: k1 and k3 have the KL for their mean; of the gradients k1's is 0, k2's is that of
    KL(pi || reference), k3's that of KL(reference || pi)."""
    logits = torch.tensor([0.3, -1.0, 0.8], dtype=torch.double, requires_grad=True)
    reference = torch.tensor([0.2, 0.5, 0.3], dtype=torch.double)
    p = logits.softmax(0).detach()
    forward = (p * (p / reference).log()).sum().item()
    for estimator in ("k1", "k3"):
        assert (p * kl_estimate(p.log(), reference.log(), estimator)).sum().item() == pytest.approx(forward)  # type: ignore[arg-type]

    def slope(loss: torch.Tensor) -> torch.Tensor:
        return torch.autograd.grad(loss, logits)[0]

    def held(estimator: Literal["k1", "k2", "k3"]) -> torch.Tensor:
        return slope((p * kl_estimate(logits.log_softmax(0), reference.log(), estimator)).sum())

    logp = logits.log_softmax(0)
    assert held("k1").abs().max().item() < 1e-12
    torch.testing.assert_close(held("k2"), slope((logp.exp() * (logp - reference.log())).sum()))
    torch.testing.assert_close(held("k3"), slope((reference * (reference.log() - logits.log_softmax(0))).sum()))
