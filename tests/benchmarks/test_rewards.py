"""Rewards from simulated people: each part at a tiny scale, and what MetaRM does to spread."""

from __future__ import annotations

import pytest

from benchmarks import rewards


@pytest.mark.parametrize("part", ["mixture", "davidson", "semi"])
def test_a_part_prints_means_with_intervals(
    part: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(rewards, "BUDGET", 1200)
    rewards.PARTS[part](2)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) >= 2
    assert all("[" in line and "]" in line for line in lines)


def test_metarm_narrows_the_spread_and_keeps_the_old_accuracy() -> None:
    """One seed, two rounds. A frozen model is the same in every round; a step of 1 leaves less spread than none."""
    course = rewards.metarm_rounds(0, rounds=2, steps=60)
    old = [one["old accuracy"] for one in course["frozen"]]
    assert old[0] == old[1]
    last = {name: rounds[-1] for name, rounds in course.items()}
    assert last["MetaRM, eta 1"]["spread"] < last["ordinary training"]["spread"]
    assert last["MetaRM, eta 0.1"]["old accuracy"] > last["frozen"]["old accuracy"] - 0.01
    assert all(0.5 < one["old accuracy"] <= 1 for one in last.values())
