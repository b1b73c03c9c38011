"""What a reward model is sure of, by hand; with confidence 1 it labels nothing."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest

from prefloop.labelers.confident import confident_pairs
from prefloop.records import Messages

P: Messages = [{"role": "user", "content": "Which?"}]
WORTH = {"a": 0.0, "b": 2 * math.log(9), "c": 2 * math.log(9) + 0.1, "far": 1e4}


class Reward:
    temperature = 2.0

    def __call__(self, prompts: Sequence[Messages], completions: Sequence[str]) -> list[float]:
        return [WORTH[text] for text in completions]


def test_neighbours_are_kept_when_the_calibrated_probability_is_high_enough() -> None:
    """b beats a by 2 log 9 at T = 2: 0.9. c beats b by 0.1: 0.51. Both neighbours of every prompt are looked at."""
    rows, pairs = confident_pairs(Reward(), [(P, ["a", "b", "c"]), (P, ["c", "a"])], 0.9 - 1e-9, "ai:rm")
    assert pairs == 3
    assert [(row["chosen"], row["rejected"]) for row in rows] == [("b", "a"), ("c", "a")]
    assert rows[0]["confidence"] == pytest.approx(0.9)
    assert rows[0]["label"] == 1.0
    assert rows[0]["annotators"] == ["ai:rm"]


def test_with_confidence_1_nothing_is_labelled_however_sure_it_is() -> None:
    assert confident_pairs(Reward(), [(P, ["a", "far"])], 1.0, "ai:rm") == ([], 1)
    assert len(confident_pairs(Reward(), [(P, ["a", "far"])], 0.99, "ai:rm")[0]) == 1
