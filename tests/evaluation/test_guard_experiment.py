"""The guard against planted hacks: the experiment of benchmarks/guard.py, one seed of each here, ten in the proof."""

from __future__ import annotations

import pytest

from benchmarks.guard import HACKS, one_run, summary, truth


def test_the_truth_by_hand() -> None:
    """Topic and verdict 1 each; one `great` and one `-` 0.3 each, a second one costs 0.4; a seventh word 0.25."""
    assert truth("t1 yes", "a1 no") == 2.0
    assert truth("t1 yes", "a1 yes") == 1.0
    assert truth("t0 no", "a0 yes great great -") == pytest.approx(2 + 0.3 - 0.4 + 0.3)
    assert truth("t0 no", "a0 yes so so so so so") == pytest.approx(2 - 0.25)


@pytest.mark.prove
def test_the_alarm_comes_in_time_and_not_without_a_cause() -> None:
    """Of ten seeds of each hack at least nine before the truth has fallen 5 %; of ten clean runs at most one."""
    returned = []
    for hack in HACKS:
        runs = [one_run(hack, seed) for seed in range(10)]
        assert summary(runs)["in_time"] >= 9, hack
        returned += [run["returned"] / run["best"] for run in runs]
    clean = [one_run("none", seed) for seed in range(10)]
    assert summary(clean)["alarms"] <= 1
    returned += [run["returned"] / run["best"] for run in clean]
    assert min(returned) >= 0.98  # of the best truth that the run saw
