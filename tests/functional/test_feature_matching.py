"""Abbeel and Ng's bound, on a chain that is solved exactly."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from prefloop.functional.feature_matching import match_features

STATES, GAMMA, STEPS = 6, 0.9, 300


def visits(policy: Tensor) -> Tensor:
    """Discounted visits of each state, from state 2, of a policy that says how likely it is to go up (a ring)."""
    now, total = torch.zeros(STATES, dtype=torch.double), torch.zeros(STATES, dtype=torch.double)
    now[2] = 1.0
    for step in range(STEPS):
        total += GAMMA**step * now
        now = torch.roll(now * policy, 1) + torch.roll(now * (1 - policy), -1)
    return total


def best(reward: Tensor) -> Tensor:
    """Visits of the best policy for a reward per state, by value iteration."""
    value = torch.zeros(STATES, dtype=torch.double)
    for _ in range(STEPS):
        value = reward + GAMMA * torch.maximum(torch.roll(value, -1), torch.roll(value, 1))
    return visits((torch.roll(value, -1) >= torch.roll(value, 1)).double())


def test_the_mixture_does_as_well_as_the_expert_for_every_reward() -> None:
    """The expert is no best policy of any reward: it goes up with another probability in each state."""
    expert = visits(torch.tensor([0.9, 0.2, 0.7, 0.4, 0.6, 0.3], dtype=torch.double))
    asked: list[Tensor] = []

    def respond(reward: Tensor) -> Tensor:
        asked.append(best(reward))
        return asked[-1]

    found = match_features(expert, respond, tolerance=0.05, rounds=300)
    assert found.distances[0] > 1.0
    assert found.distances[-1] <= 0.05
    assert all(later <= earlier + 1e-12 for earlier, later in zip(found.distances, found.distances[1:], strict=False))
    stream = torch.Generator().manual_seed(0)
    directions = torch.nn.functional.normalize(torch.randn(1000, STATES, generator=stream, dtype=torch.double))
    assert (directions @ (found.features - expert)).abs().max().item() <= 0.05
    assert found.weights.sum().item() == pytest.approx(1.0)
    assert (found.weights >= 0).all()
    torch.testing.assert_close(found.weights @ torch.stack(asked), found.features)


def test_one_step_by_hand() -> None:
    """From (0, 0), the expert at (1, 1), the response at (2, 0): the nearest point between them is (1, 0)."""
    answers = iter([[0.0, 0.0], [2.0, 0.0], [2.0, 0.0]])
    found = match_features(torch.tensor([1.0, 1.0]), lambda reward: torch.tensor(next(answers)), tolerance=0.1)
    assert found.features.tolist() == [1.0, 0.0]
    assert found.weights.tolist() == [0.5, 0.5]
    assert found.reward.tolist() == [0.0, 1.0]
    assert found.distances == pytest.approx([2**0.5, 1.0])


def test_it_stops_when_nobody_can_do_what_the_expert_did() -> None:
    found = match_features(torch.tensor([5.0]), lambda reward: torch.tensor([1.0]), tolerance=0.1, rounds=50)
    assert found.features.tolist() == [1.0]
    assert found.distances == [4.0]
    assert found.weights.tolist() == [1.0]
