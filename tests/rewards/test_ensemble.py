"""Mean, worst and penalised scores by hand; members of several models side by side."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from prefloop.errors import InputError
from prefloop.rewards.ensemble import Ensemble, combined

ONE_TO_FIVE = torch.tensor([[1.0, 2, 3, 4, 5]])


class Says:
    def __init__(self, scores: list[list[float]], temperature: float = 1.0) -> None:
        self.scores, self.temperature = scores, temperature

    def members(self, prompts: Any, completions: Any) -> torch.Tensor:
        return torch.tensor(self.scores)


def test_by_hand_with_the_population_variance() -> None:
    assert combined(ONE_TO_FIVE, "mean").item() == 3.0
    assert combined(ONE_TO_FIVE, "worst").item() == 1.0
    assert combined(ONE_TO_FIVE, "penalised", 0.5).item() == pytest.approx(3 - 0.5 * 2.0)  # 2.5 would be the sample's


def test_every_head_of_every_model_is_a_member() -> None:
    both = Ensemble([Says([[1.0, 3.0], [0.0, 0.0]]), Says([[2.0], [6.0]], temperature=3.0)], "worst")
    assert both.temperature == 2.0
    assert both.members([], []).tolist() == [[1.0, 3.0, 2.0], [0.0, 0.0, 6.0]]
    assert both([[], []], ["a", "b"]) == [1.0, 0.0]


def test_members_that_agree_cost_nothing() -> None:
    same = torch.full((3, 4), 0.7)
    for how in ("mean", "worst", "penalised"):
        torch.testing.assert_close(combined(same, how), same[:, 0])  # type: ignore[arg-type]


def test_an_ensemble_of_none_is_refused() -> None:
    with pytest.raises(InputError, match="at least one"):
        Ensemble([])
