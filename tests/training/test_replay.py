"""The replay buffer: a ring, what comes out is what went in, and drawing is a function of seed and rollout."""

from __future__ import annotations

import torch

from prefloop.generation.sampler import Sample
from prefloop.training.replay import Replay
from prefloop.training.rollout import Rollout, make_rollout


def rollout(first: int, count: int, version: int = 0) -> Rollout:
    """Completions that repeat their number as often as its last digit says, after a prompt [9] or [9, 9]."""
    samples = [Sample([n] * (1 + n % 3), [-0.5] * (1 + n % 3), terminated=True) for n in range(first, first + count)]
    prompts = [[9] * (1 + n % 2) for n in range(first, first + count)]
    made = make_rollout(prompts, samples, [float(n) for n in range(count)], 0, version, torch.device("cpu"))
    rewards = torch.zeros(made.valid.shape).masked_fill(made.valid, 1.0) * torch.arange(first, first + count)[:, None]
    return made.adding(rewards=rewards)


def numbers(drawn: Rollout) -> list[int]:
    return [ids[start] for ids, start in zip(drawn.ids.tolist(), drawn.starts.tolist(), strict=True)]


def test_what_comes_out_is_what_went_in() -> None:
    replay = Replay(10, 8, 4, seed=0)
    replay.add(rollout(10, 4))
    drawn = replay.draw(rollout(0, 60))
    assert set(numbers(drawn)) == {10, 11, 12, 13}
    for row, n in enumerate(numbers(drawn)):
        count, start = 1 + n % 3, 1 + n % 2
        assert drawn.ids[row, : start + count].tolist() == [9] * start + [n] * count
        assert drawn.valid[row].tolist() == [t < count for t in range(3)]
        assert drawn.added["rewards"][row].tolist() == [float(n) * (t < count) for t in range(3)]
    assert len(drawn) == 60
    assert (drawn.together, drawn.grouped, drawn.parts) == (1, 1, {})


def test_the_oldest_are_forgotten() -> None:
    replay = Replay(5, 8, 4, seed=0)
    replay.add(rollout(10, 4))
    replay.add(rollout(20, 3))
    assert len(replay) == 5
    assert set(numbers(replay.draw(rollout(0, 200)))) == {12, 13, 20, 21, 22}
    replay.add(rollout(30, 7))
    assert set(numbers(replay.draw(rollout(0, 200)))) == {32, 33, 34, 35, 36}


def test_drawing_is_a_function_of_the_seed_and_the_rollouts_number() -> None:
    replay, other = Replay(50, 8, 4, seed=0), Replay(50, 8, 4, seed=0)
    for one in (replay, other):
        one.add(rollout(10, 30))
    drawn = numbers(replay.draw(rollout(0, 12, version=3)))
    torch.rand(5)
    assert numbers(other.draw(rollout(0, 12, version=3))) == drawn
    assert numbers(replay.draw(rollout(0, 12, version=4))) != drawn
