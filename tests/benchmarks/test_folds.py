"""Folds of real preferences: who is in which, and what is made of the results."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import folds
from benchmarks.folds import FOLDS, fold_of, summary
from prefloop.records import Comparison, Message


def pair(group: str, chosen: str = "aaaa", rejected: str = "bbbb", **columns: object) -> Comparison:
    prompt: list[Message] = [{"role": "user", "content": f"{group}?"}]
    return Comparison(prompt=prompt, chosen=chosen, rejected=rejected, columns={"group": group, **columns})


def test_a_group_is_in_one_fold_and_every_fold_has_its_share() -> None:
    found = [fold_of(pair(str(i))) for i in range(2000)]
    assert [fold_of(pair(str(i), "other")) for i in range(2000)] == found
    assert all(320 < found.count(fold) < 480 for fold in range(FOLDS))


def test_a_pair_that_was_shown_in_both_orders_is_one_pair(monkeypatch: pytest.MonkeyPatch) -> None:
    def row(chosen: str, rejected: str, label: float) -> dict[str, object]:
        return {"prompt": "p?", "topic": "t", "chosen": chosen, "rejected": rejected, "label": label}

    said = [row("a", "b", 1.0), row("b", "a", 1.0), row("b", "a", 0.0), row("a", "b", 0.5), row("c", "b", 0.0)]
    monkeypatch.setattr(folds, "import_rows", lambda file: enumerate(said))
    one, other = folds.votes(Path("crowd"))
    assert (one.chosen, one.rejected, one.label, one.columns["n"]) == ("a", "b", (1 + 0 + 1 + 0.5) / 4, 4)
    assert (other.chosen, other.label, other.columns["n"], other.columns["ties"]) == ("c", 0.0, 1, 0.0)


def test_the_summary_by_hand() -> None:
    """Four pairs, two of a subset; the model is right on three and the floor on one; three are about equally long."""
    pairs = [
        pair("p", "aaaaaaaaaa", subset="x", n=3, ties=0.0),
        pair("p", "aaaab", subset="x"),
        pair("p", subset="y"),
        pair("p", subset="y"),
    ]
    fold = {
        "fold": fold_of(pairs[0]),
        "prompts": ["1", "2", "3", "4"],
        "right": {"reward model": [1.0, 1.0, 1.0, 0.0], "longer": [0.0, 0.0, 0.5, 0.5]},
    }
    lines = summary(pairs, [fold])
    assert any(line.startswith("all: reward model 0.750 ") and line.endswith("n = 4") for line in lines)
    assert any(line.startswith("all: longer 0.250 ") for line in lines)
    assert any(line.startswith("all: reward model - longer 0.500 ") for line in lines)
    assert any(line.startswith("x: reward model - longer 1.000 ") and line.endswith("n = 2") for line in lines)
    assert any(line.startswith("of about the same length: reward model 0.500 ") for line in lines)
    assert any(line.startswith("all: two people agree 1.000 ") and line.endswith("n = 3") for line in lines)
