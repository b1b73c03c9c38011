"""Credit's experiment: what an answer is worth and when a goal is reached, by hand; all of it at a tiny scale."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.credit import BATCH, CREDIT, one_seed, samples_to, worth


def test_the_truth_and_the_count_by_hand() -> None:
    """Two words help, one hurts; the means of three are 1, 2, 3: a goal of 2 is reached with the fourth rollout."""
    assert worth("wood", "plan wood um so paint") == pytest.approx(0.4)
    assert samples_to([0.0, 1.0, 2.0, 3.0, 4.0], 2.0) == 4 * BATCH
    assert samples_to([0.0, 1.0, 2.0], 5.0) is None


def test_every_rule_has_its_curve_of_answers_of_that_length(tmp_path: Path) -> None:
    curves = one_seed(0, tmp_path, words=6, rollouts=3, pairs=80)
    assert list(curves) == list(CREDIT)
    assert {len(curve) for curve in curves.values()} == {3}
    assert curves["sparse"][0] == pytest.approx(curves["attention"][0])  # the same policy, prompts and random numbers
