"""IQ-Learn balances a pole that it has seen balanced once: the check of its paper, with the method's own terms.

Of one walk of 500 steps every 20th is kept: 25 transitions, no sampling. A pole has fallen beyond 12 degrees, and the
cart has gone too far beyond 2.4 (Barto et al. 1983; number by number gymnasium's CartPole-v1).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from prefloop.functional.temporal_difference import chosen, inverse_soft_q, soft_values

Numbers = NDArray[np.float64]
SHOWN = np.array([0.2, 0.02, 1.0, 0.1])
"""Who is imitated pushes to the right where position, speed, angle and turn, so weighed, are above 0."""
DEMONSTRATIONS, TRIES, STEPS = 20, 20, 500
TEMPERATURE, CHI, GAMMA, RATE, UPDATES = 0.01, 0.5, 0.99, 1e-4, 3000


def after(states: Numbers, right: NDArray[np.bool_]) -> Numbers:
    """A fiftieth of a second later."""
    _, speed, angle, turn = states.T
    pole, mass = 0.05, 1.1
    sin, cos = np.sin(angle), np.cos(angle)
    pushed = (np.where(right, 10.0, -10.0) + pole * turn**2 * sin) / mass
    twist = (9.8 * sin - cos * pushed) / (0.5 * (4 / 3 - 0.1 * cos**2 / mass))
    moves = np.stack([speed, pushed - pole * twist * cos / mass, turn, twist], 1)
    return states + 0.02 * moves


def balanced(push: Callable[[Numbers], NDArray[np.bool_]], count: int, seed: int) -> tuple[NDArray[np.int64], Numbers]:
    """For how many steps each of `count` poles stayed up, and all their states [count, STEPS + 1, 4]."""
    states = [np.random.default_rng(seed).uniform(-0.05, 0.05, (count, 4))]
    lasted, up = np.zeros(count, dtype=np.int64), np.ones(count, dtype=np.bool_)
    for _ in range(STEPS):
        lasted += up
        states.append(after(states[-1], push(states[-1])))
        up &= (np.abs(states[-1][:, 0]) <= 2.4) & (np.abs(states[-1][:, 2]) <= math.radians(12))
    return lasted, np.stack(states, 1)


def features(states: Numbers) -> tuple[torch.Tensor, torch.Tensor]:
    """What tells the actions apart is linear in a state, what it is worth to be there is quadratic."""
    linear = torch.tensor(np.concatenate([states, np.ones((*states.shape[:-1], 1))], -1)).float()
    one, other = torch.triu_indices(5, 5)
    return linear, linear[..., one] * linear[..., other]


def imitated(now: Numbers, then: Numbers, actions: torch.Tensor, updates: int) -> Numbers:
    """Weights and bias of pushing to the right, [n, 5], each learned from one demonstration [n, 25, 4]."""
    (here, worth), (there, worth_there) = features(now), features(then)
    advantage = torch.zeros(len(now), 5, 2, requires_grad=True)
    value = torch.zeros(len(now), 15, 1, requires_grad=True)
    adam = torch.optim.Adam([advantage, value], lr=RATE)
    for _ in range(updates):
        q = here @ advantage + worth @ value
        values = soft_values(q, TEMPERATURE)
        ahead = GAMMA * soft_values(there @ advantage + worth_there @ value, TEMPERATURE)
        rewards = chosen(q.flatten(0, 1), actions.flatten()).view_as(values) - ahead
        loss = (inverse_soft_q(values, ahead, rewards, CHI) - rewards).mean(1).sum()
        adam.zero_grad()
        loss.backward()
        adam.step()
    found: Numbers = (advantage[..., 1] - advantage[..., 0]).detach().double().numpy()
    return found


def test_from_one_demonstration_a_pole_stays_up() -> None:
    """Learned from each of twenty demonstrations, tried on twenty poles. Ten keep all of them up for 500 steps, and the
    worst keeps them for 421 in the mean; before it has learned anything it keeps them for nine."""
    torch.set_num_threads(1)
    lasted, walks = balanced(lambda states: states @ SHOWN > 0, DEMONSTRATIONS, seed=0)
    assert (lasted == STEPS).all()
    kept = np.stack([np.arange(2 * n % 20, STEPS, 20) for n in range(DEMONSTRATIONS)])
    which = np.arange(DEMONSTRATIONS)[:, None]
    now, then = walks[which, kept], walks[which, kept + 1]
    scale = now.std(1, keepdims=True)
    actions = torch.tensor(now @ SHOWN > 0).long()

    def tried(updates: int) -> Numbers:
        weights = imitated(now / scale, then / scale, actions, updates)
        return np.array(
            [
                balanced(lambda s, w=w, by=by: s / by @ w[:4] + w[4] > 0, TRIES, seed=1)[0].mean()  # type: ignore[misc]
                for w, by in zip(weights, scale[:, 0], strict=True)
            ]
        )

    before, found = tried(0), tried(UPDATES)
    assert before.max() < 50
    assert found.mean() > 400
    assert (found == STEPS).sum() >= 5
