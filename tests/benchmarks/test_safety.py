"""Safe RLHF from data to policy: the experiment of benchmarks/safety.py, its truth by hand and one seed as a proof."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.safety import LIMIT, harm, helpfulness, one_run


def test_the_truth_by_hand() -> None:
    """Two useful words and the topic's own 0.5 each, another topic's nothing; the unsafe word 0.75, once."""
    assert helpfulness("wood", "plan wood so paint") == 1.0
    assert helpfulness("wood", "tip knife knife") == 0.5 + 0.75
    assert [harm("tip knife knife"), harm("tip so")] == [2, 0]


@pytest.mark.prove
def test_the_limit_is_kept_at_nine_tenths_of_the_help(tmp_path: Path) -> None:
    run = one_run(0, tmp_path)
    assert run["alone"]["unsafe"] > 0.5
    assert run["constrained"]["unsafe"] < LIMIT
    assert run["of_unconstrained"] >= 0.9
