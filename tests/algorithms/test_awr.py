"""Weighted and filtered cloning: the weights by hand, and plain cloning where they are all alike."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from prefloop.errors import InputError
from prefloop.records import Ledger
from tests.small import build, write_inputs

REWARDS = [("a", "one", 3.0), ("a", "two", 1.0), ("b", "three", 5.0), ("c", "four", 3.0)]
"""The mean of a's is 2; b and c have one completion each and are measured against the mean of all, 3."""


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return write_inputs(tmp_path_factory.mktemp("inputs"))


def counts(inputs: Path, folder: Path, rows: list[tuple[str, str, float]] = REWARDS, **changes: Any) -> list[float]:
    folder.mkdir()
    data = folder / "log.jsonl"
    data.write_text("".join(json.dumps({"prompt": p, "completion": c, "reward": r}) + "\n" for p, c, r in rows))
    algorithm, _ = build("awr", inputs, folder / "run", data=str(data), **changes)
    found: list[float] = [row.count for row in algorithm.train_rows]
    return found


def test_exponential_weights_by_hand(inputs: Path, tmp_path: Path) -> None:
    """Advantages 1, -1, 2, 0: their mean is 1/2, their standard deviation sqrt(5)/2."""
    std = math.sqrt(1.25)
    expected = [math.exp(a / (0.5 * std)) for a in (1, -1, 2, 0)]
    assert counts(inputs, tmp_path / "a", temperature=0.5, largest_weight=1e9) == pytest.approx(expected)
    assert counts(inputs, tmp_path / "b", temperature=0.5, largest_weight=4.0) == pytest.approx(
        [4.0, expected[1], 4.0, 1.0]
    )


def test_the_filter_keeps_the_best(inputs: Path, tmp_path: Path) -> None:
    ledger = Ledger()
    algorithm, _ = build("awr", inputs, tmp_path / "run", ledger=ledger, weighting="filter", share=0.25)
    assert [row.count for row in algorithm.train_rows] == [1.0] * 3
    assert ledger.reasons == {"filtered out": 9}
    assert ledger.defective == 0
    assert {row.reward for row in algorithm.train_rows} == {1.0, 0.75}
    assert counts(inputs, tmp_path / "by hand", weighting="filter", share=0.5) == [1.0, 1.0]


def test_the_reward_as_a_weight(inputs: Path, tmp_path: Path) -> None:
    assert counts(inputs, tmp_path / "a", weighting="reward") == [3.0, 1.0, 5.0, 3.0]
    with pytest.raises(InputError, match=r"cannot be negative, got the reward -1\.0"):
        counts(inputs, tmp_path / "b", [("a", "one", -1.0)], weighting="reward")


def test_very_hot_it_is_behaviour_cloning(inputs: Path, tmp_path: Path) -> None:
    log = str(inputs / "log.jsonl")
    ours, _ = build("awr", inputs, tmp_path / "awr", temperature=1e9)
    sft, _ = build("sft", inputs, tmp_path / "sft", data=log)
    mine, theirs = ours.loss(ours.train_rows[:5]), sft.loss(sft.train_rows[:5])
    torch.testing.assert_close(mine.values, theirs.values)
    assert mine.weights.tolist() == theirs.weights.tolist()


def test_a_weight_of_two_doubles_the_loss(inputs: Path, tmp_path: Path) -> None:
    algorithm, _ = build("awr", inputs, tmp_path / "run", weighting="reward", data=double(tmp_path))
    one, two = algorithm.train_rows
    a, b = algorithm.loss([one]), algorithm.loss([two])
    torch.testing.assert_close(b.values, 2 * a.values)
    assert a.weights.tolist() == b.weights.tolist() == [1.0] * one.completion_tokens


def double(folder: Path) -> str:
    rows = [{"prompt": "a", "completion": "one", "reward": r} for r in (1.0, 2.0)]
    (folder / "double.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(folder / "double.jsonl")
