"""Kinds of feedback made of real votes: how each is made, by hand, and that every reward learns a planted order."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from benchmarks.kinds import KINDS, Topic, _ranking, answers, linear, measured, model
from prefloop.records import Comparison
from tests.small import write_inputs

WORDS = ["awful", "bad", "fine", "good", "superb"]


def plan(word: str, topic: int = 0) -> str:
    return f"{word} plan for {topic}"


def pairs(topics: int) -> list[Comparison]:
    """Every two of five arguments of each topic, five votes each, all for the better word."""
    return [
        Comparison(
            prompt=[{"role": "user", "content": f"Topic {t}?"}],
            chosen=plan(WORDS[high], t),
            rejected=plan(WORDS[low], t),
            label=1.0,
            columns={"n": 5, "ties": 0.0, "group": str(t)},
        )
        for t in range(topics)
        for low, high in itertools.combinations(range(5), 2)
    ]


def test_the_kinds_by_hand() -> None:
    """`fine` wins against two of four; of superb, good, fine and bad each wins against those behind it."""
    topic = Topic(pairs(1))
    assert topic.against(plan("fine"), [plan(word) for word in ("awful", "bad", "good")]) == (
        pytest.approx(2 / 3),
        15,
    )
    row, cost = _ranking(topic, [plan(word) for word in ("fine", "superb", "bad", "good")])
    assert row is not None
    assert (row["ranks"], cost) == ([3, 1, 4, 2], 30)
    assert _ranking(topic, [plan("fine"), plan("bad")]) == (None, 0)
    for kind, cost in (("comparison", 5), ("approval", 10), ("rating", 20), ("ranking", 30)):
        rows = answers(pairs(4), kind, 60, seed=0)  # a rating here has four opponents
        assert len(rows) == 60 // cost
    levels = {row["completion"]: row["scores"]["overall"] for row in answers(pairs(1), "rating", 2000, seed=0)}
    assert levels == {plan(word): level for word, level in zip(WORDS, (1, 2, 3, 4, 5), strict=True)}


def test_every_kind_teaches_the_order() -> None:
    pytest.importorskip("sklearn")
    lines = measured(pairs(20), linear, votes=3000, folds=2)
    assert [line.split(":")[0] for line in lines[:6]] == [*KINDS, "mixture", "all kinds"]
    found = {line.split(":")[0]: float(line.split(": ")[1].split()[0]) for line in lines[:6]}
    # Nobody approves of the two worst, so approvals cannot tell them apart: one pair of the ten.
    assert found.pop("approval") >= 0.8
    assert min(found.values()) >= 0.95
    assert [line.split(" - ")[0] for line in lines[6:]] == ["mixture"] * 4 + ["all kinds"] * 4


def test_a_reward_model_learns_from_such_rows(tmp_path: Path) -> None:
    """A file of all kinds is what `train reward_model` reads; a second call takes what is there."""
    inputs = write_inputs(tmp_path / "inputs")
    (tmp_path / "run.yaml").write_text(
        f"method: reward_model\npolicy: {inputs / 'policy'}\ndevice: cpu\ndtype: float32\n"
        "lr: 3.0e-3\nbatch_size: 8\nmax_length: 64\nsteps: 40\ntest_share: 0.0\n"
    )
    rows = [row for kind in KINDS for row in answers(pairs(6), kind, 300, seed=0)]
    for _ in range(2):
        found = model("mixture", 0, rows, pairs(1), run=tmp_path / "run.yaml", folder=tmp_path)
    assert (found > 0).mean() >= 0.8
