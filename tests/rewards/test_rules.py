"""Weights of propositions, fitted by the hinge: order is learned, what says nothing stays at 0."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from prefloop.errors import InputError
from prefloop.models.load import load_policy, load_tokenizer
from prefloop.models.template import Template
from prefloop.records import as_messages
from prefloop.rewards.rules import fit_rules, proposition, rubric


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
    assert all(value is not None and 0 < value < 1 for value in said)
    assert said[0] != said[1]


def test_a_rubric_is_the_mean_worth_of_its_classes(tiny_model: Path) -> None:
    """Against the softmax of plain forward passes; only rows that it is for; alike classes leave no choice."""
    options = {"model": str(tiny_model), "device": "cpu", "dtype": "float32"}
    worth = {"A": 1.0, "B": -0.5, "C": -1.0, "D": 0.5}
    asked, said = [as_messages("Say hello.")] * 3, ["Hello to you.", "No.", "May I?"]
    found = rubric("Which class?", worth, column="safety", **options)(asked, said, safety=[True, None, True])
    model, template = load_policy(tiny_model, torch.float32, torch.device("cpu")), Template(load_tokenizer(tiny_model))
    for text, value in zip(said[::2], found[::2], strict=True):
        logp = []
        for name in worth:
            row = template.encode(as_messages(f"Say hello.\n\nAnswer: {text}\n\nWhich class?"), name, 512)
            with torch.no_grad():
                logits = model(input_ids=torch.tensor([row.ids])).logits[0].log_softmax(-1)
            logp.append(sum(logits[t - 1, row.ids[t]].item() for t in range(row.prompt_length, row.length)))
        odds = np.exp(np.array(logp) - max(logp))
        assert value == pytest.approx(float(odds / odds.sum() @ list(worth.values())), abs=1e-4)
    assert found[1] is None
    assert rubric("Which?", {"A": 0.3, "B": 0.3}, **options)(asked, said) == pytest.approx([0.3] * 3)
    for classes in ({"A": 1.0}, {True: 1.0, False: 0.0}):
        with pytest.raises(InputError, match="two classes or more by name"):
            rubric("Which?", classes, **options)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="no column 'safety'"):
        rubric("Which?", worth, column="safety", **options)(asked, said)
