"""Logged rewards: the columns that they come in, and rows that say nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from prefloop.errors import InputError
from prefloop.records import Rewarded
from prefloop.snapshots.formats import load_rewarded, parse_rewarded
from prefloop.snapshots.rows import Reject

SAID = {"prompt": "2 + 2?", "completion": "4"}


@pytest.mark.parametrize(
    ("columns", "reward"),
    [
        ({"reward": -1.5}, -1.5),
        ({"reward": "0.25"}, 0.25),
        ({"score": 4}, 4.0),
        ({"scores": {"helpful": 4, "true": 1}}, 2.5),
        ({"label": True}, 1.0),
        ({"label": "false"}, 0.0),
        ({"reward": 2, "score": 5, "label": False}, 2.0),
    ],
)
def test_where_the_reward_stands(columns: dict[str, Any], reward: float) -> None:
    found = parse_rewarded({**SAID, **columns, "source": "log"})
    assert isinstance(found, Rewarded)
    assert (found.reward, found.completion, found.weight) == (reward, "4", 1.0)
    assert found.columns["source"] == "log"


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (SAID, "missing column"),
        ({**SAID, "reward": None}, "missing column"),
        ({**SAID, "reward": "good"}, "malformed"),
        ({**SAID, "scores": {"helpful": "yes"}}, "malformed"),
        ({**SAID, "scores": {}}, "malformed"),
        ({**SAID, "reward": float("nan")}, "malformed"),
        ({"prompt": "a", "completion": " ", "reward": 1}, "empty"),
    ],
)
def test_rows_without_one(row: dict[str, Any], reason: str) -> None:
    found = parse_rewarded(row)
    assert isinstance(found, Reject)
    assert found.reason == reason


def test_repeats_are_kept_and_unrewarded_rows_only_where_rewards_are_still_to_come(tmp_path: Path) -> None:
    log, bare = tmp_path / "log.jsonl", tmp_path / "bare.jsonl"
    log.write_text("".join(json.dumps({**SAID, "reward": 1.0}) + "\n" for _ in range(3)))
    rows, ledger = load_rewarded(log)
    assert [row.reward for row in rows] == [1.0] * 3
    assert (ledger.rows, ledger.used) == (3, 3)
    bare.write_text((json.dumps(SAID) + "\n") * 2)
    with pytest.raises(InputError, match="needed: prompt, completion and reward"):
        load_rewarded(bare)
    assert [row.reward for row in load_rewarded(bare, rewarded=False)[0]] == [0.0] * 2
