"""A reward model that learns about new answers, with the old rows beside them, and forgets nothing."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import prefloop
from prefloop.workflows.training import train
from tests.small import settings_of, write_inputs

OLD = ["awful", "bad", "fine", "good", "superb"]
NEW = ["zzz", "qq", "jjj", "kk", "vvv"]


def write(path: Path, scale: Sequence[str], numbers: range) -> Path:
    """Of two words the one further right is preferred."""
    rows = []
    for i in numbers:
        low, high = sorted((i * 3 % 5, (i * 3 + 1 + i % 3) % 5))
        rows.append({"prompt": f"Number {i}?", "chosen": f"{scale[high]} {i % 4}", "rejected": f"{scale[low]} {i % 4}"})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def accuracy(model: Path, test: Path) -> float:
    found = prefloop.evaluate(str(model), comparisons=test, device="cpu", dtype="float32")
    return float(found["accuracy"])


def test_the_old_test_set_does_not_fall_while_the_new_one_rises(tmp_path: Path) -> None:
    """The second model starts from the first; its rows are the new ones and the old ones once more (replay)."""
    inputs = write_inputs(tmp_path / "inputs")
    old, new = (write(tmp_path / f"{name}.jsonl", words, range(40)) for name, words in (("old", OLD), ("new", NEW)))
    tests = [write(tmp_path / f"{n}-test.jsonl", words, range(100, 120)) for n, words in (("old", OLD), ("new", NEW))]
    settings = {**settings_of("reward_model", inputs), "batch_size": 8, "epochs": 8, "lr": 3e-3}
    del settings["data"]
    train("reward_model", out=tmp_path / "first", data=old, overrides=settings, log=lambda words: None)
    again = {**settings, "policy": str(tmp_path / "first")}
    second = train("reward_model", out=tmp_path / "again", data=[new, old], overrides=again, log=lambda words: None)
    assert second["ledger"]["used"] == 80
    before, after = ([accuracy(tmp_path / name, test) for test in tests] for name in ("first", "again"))
    assert before[0] >= 0.9
    assert before[1] < 0.9
    assert after[0] >= before[0]
    assert after[1] >= 0.9
    manifest, first = (json.loads((tmp_path / name / "manifest.json").read_text()) for name in ("again", "first"))
    assert manifest["parents"] == [first["hash"]]
