"""How decisions become one number: a completion of one token that costs 6, and one of three that cost 1, 2 and 3."""

from __future__ import annotations

import pytest
import torch

from prefloop.functional.reduction import Reduction, decision_weights, divisor

VALID = torch.tensor([[True, False, False], [True, True, True]])
COSTS = torch.tensor([6.0, 1.0, 2.0, 3.0])


@pytest.mark.parametrize(
    ("reduction", "expected"),
    [
        ("token", 12 / 4),
        ("sequence", (6 + 6 / 3) / 2),  # the mean over sequences of the mean over tokens
        ("constant", (6 / 8 + 6 / 8) / 2),  # with a limit of 8 tokens
        ("sum", (6 + 6) / 2),
    ],
)
def test_reductions(reduction: Reduction, expected: float) -> None:
    weights = decision_weights(VALID, reduction, limit=8)
    assert float((COSTS * weights).sum()) / divisor(VALID, reduction) == pytest.approx(expected)
