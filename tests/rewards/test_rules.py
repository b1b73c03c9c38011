"""Weights of propositions, fitted by the hinge: order is learned, what says nothing stays at 0."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from prefloop.errors import InputError
from prefloop.records import as_messages
from prefloop.rewards.rules import fit_rules, proposition


def test_ordering_rises_and_what_is_ignored_stays_zero() -> None:
    """People prefer what apologises and dislike judgment; a third proposition always holds and decides nothing."""
    rng = np.random.default_rng(0)
    n, per = 60, 4
    sorry, judging = rng.uniform(size=(2, n * per))
    base = rng.normal(scale=0.25, size=n * per)
    ranks = np.round(2 * (sorry - judging), 1)
    features = {"apologises": sorry, "judges": judging, "is text": np.ones(n * per)}
    found = fit_rules(features, ranks.tolist(), [i // per for i in range(n * per)], base.tolist(), held_out=0.2)
    assert found.weights["apologises"] > 0.5
    assert found.weights["judges"] < -0.5
    assert found.weights["is text"] == 0.0
    assert found.ordered_after > found.ordered_before + 0.2
    assert found.ordered_after > 0.9


def test_the_hinge_by_hand() -> None:
    """One proposition, 1 for better and 0 for worse: 1 - w falls until w = 1, and Adam coasts a little beyond."""
    rows = {"holds": [1.0, 0.0] * 6}
    found = fit_rules(rows, [1, 0] * 6, [i // 2 for i in range(12)])
    assert 1.0 <= found.weights["holds"] < 1.15
    assert (found.ordered_before, found.ordered_after) == (0.5, 1.0)
    assert (found.pairs, found.held_out) == (6, 2)


def test_a_prompts_answers_are_compared_with_each_other_only() -> None:
    """Across prompts the order is the other way round; within each it is the same."""
    rows = {"holds": [0.9, 0.8, 0.2, 0.1] * 3}
    found = fit_rules(rows, [1, 0, 3, 2] * 3, [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5])
    assert found.weights["holds"] > 0


def test_what_is_wrong_is_said() -> None:
    with pytest.raises(InputError, match="at least one proposition"):
        fit_rules({}, [], [])
    with pytest.raises(InputError, match="0 to fit and 0 held out"):
        fit_rules({"a": [0.0, 1.0]}, [1, 1], [0, 0])
    with pytest.raises(InputError, match="got 2, 1, 2"):
        fit_rules({"a": [0.0, 1.0]}, [1], [0, 0])
    with pytest.raises(InputError, match="finite"):
        fit_rules({"a": [0.0, float("nan")]}, [1, 0], [0, 0])


def test_a_proposition_is_a_probability(tiny_model: Path) -> None:
    score = proposition("Is it polite?", str(tiny_model), device="cpu", dtype="float32")
    said = score([as_messages("Say hello.")] * 2, ["Hello to you.", "No."])
    assert all(0 < value < 1 for value in said)
    assert said[0] != said[1]
