"""The small reproductions: what they score, by hand, and that a run that was stopped goes on."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from benchmarks import offline
from benchmarks.offline import Grid, Walks, figures, order_reward, walk_reward
from prefloop.records import Messages


def asked(words: str) -> Messages:
    """What a reward function gets for a prompt."""
    return [{"role": "user", "content": words}]


def test_letters_in_order() -> None:
    prompts, completions = [asked("c a b")] * 5, ["a b c", "a c b", "b c a", "a b", "a b c a"]
    assert order_reward(prompts, completions) == pytest.approx([1.0, 1 / 3, 0.0, 0.0, 0.0])


def test_the_optimality_of_a_walk() -> None:
    """Of all that start somewhere the shortest scores 1, one that breaks an edge 0; so does the reward function."""
    world = Walks(1003)
    start = next(n for n, fewest in world.fewest.items() if 2 < fewest < world.LONGEST)
    shortest = [start]
    while shortest[-1] != 0:
        shortest.append(min(world.edges[shortest[-1]], key=lambda n: 1 if n == 0 else world.fewest[n] + 1))
    assert len(shortest) == world.fewest[start]
    assert world.score(shortest) == 1.0
    broken = [start, next(n for n in range(world.NODES) if n not in world.edges[start]), 0]
    assert world.score(broken) == 0.0
    score = walk_reward(3)
    assert score([asked(world.text([start]))] * 2, [world.text(walk[1:]) for walk in (shortest, broken)]) == [1.0, 0.0]


def test_regret_on_the_grid() -> None:
    """From 33 the goal is two steps away: a detour of two is a regret of 2, stopping short of it 0, a jump all 12."""
    world = Grid()
    walks = ["34 44", "34 33 43 44", "34", "00 44", "34 44 43"]
    assert world.regrets([("33", walk) for walk in walks]) == [0, 2, 0, 12, 12]
    assert world.success([("33", walk) for walk in walks]) == pytest.approx(0.2)


def test_what_is_known_already_is_not_computed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def task(seed: int, folder: Path) -> dict[str, float]:
        asked.append(seed)
        assert folder.is_dir()
        return {"figure": 10.0 + seed}

    monkeypatch.setitem(offline.TASKS, "walks", task)
    first = [figures("walks", seed, 1.0, tmp_path / "out") for seed in (0, 1)]
    again = [figures("walks", seed, 1.0, tmp_path / "out") for seed in (0, 1, 2)]
    assert asked == [0, 1, 2]
    assert again[:2] == first
    assert [one["figure"] for one in again] == [10.0, 11.0, 12.0]
    assert json.loads((tmp_path / "out" / "walks-1.json").read_text()) == first[1]
    figures("walks", 0, 0.5, tmp_path / "out")
    assert asked[-1] == 0  # another scale is another figure
    assert sorted(p.name for p in (tmp_path / "out").iterdir())[0] == "walks-0-0.5.json"


@pytest.mark.parametrize("task", offline.TASKS)
def test_every_task_runs_to_its_end(task: str) -> None:
    """With a hundredth of the steps, whose figures say nothing but that they are figures."""
    found = figures(task, 0, 0.01, None)
    assert len(found) > 10
    assert all(math.isfinite(value) for value in found.values())
    shares = [value for name, value in found.items() if ": straight to the goal" in name or name.endswith("reward")]
    assert all(0.0 <= value <= 1.0 for value in shares)
