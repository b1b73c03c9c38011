"""The adaptive price of KL, against Ziegler et al.'s formula worked by hand."""

from __future__ import annotations

import pytest

from prefloop.training.kl import KLController


@pytest.mark.parametrize(
    ("kl", "factor"),
    [
        (12.0, 1.01024),  # twice the target: 1 + 0.2 * 512 / 10,000
        (1e9, 1.01024),  # not more than that
        (0.0, 0.98976),
        (-3.0, 0.98976),
        (6.0, 1.0),
        (6.6, 1.00512),  # a tenth above: 1 + 0.1 * 0.0512
    ],
)
def test_beta_follows_the_clipped_error(kl: float, factor: float) -> None:
    controller = KLController(0.15, target=6.0, horizon=10_000)
    assert controller.update(kl, episodes=512) == 0.15
    assert controller.beta == pytest.approx(0.15 * factor, rel=1e-9)


def test_without_a_target_beta_stays() -> None:
    controller = KLController(0.05)
    assert [controller.update(kl, 512) for kl in (0.0, 100.0)] == [0.05, 0.05]
    assert controller.beta == 0.05
