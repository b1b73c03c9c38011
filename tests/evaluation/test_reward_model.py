"""Reward-model figures on pairs small enough to work by hand, and on simulated people."""

import numpy as np
import pytest

from prefloop.errors import InputError
from prefloop.evaluation.reward_model import decay, evaluate_scores, length_bias, safety, slices_of, worst_mistakes
from prefloop.records import Comparison


def test_accuracy_by_hand():
    # right, wrong, equal (half), tie (out), label 0.2: the rejected one is better and scores higher -> right
    got = evaluate_scores([2, 0, 1, 5, 0], [1, 1, 1, 0, 3], labels=[1, 0.9, 0.8, 0.5, 0.2])
    assert got["accuracy"] == (1 + 0 + 0.5 + 1) / 4
    assert got["n"] == 4
    assert got["ties_excluded"] == 1
    assert got["equal_scores"] == 1
    assert got["mean_margin"] == (1 - 1 + 0 + 3) / 4
    assert got["low"] <= got["accuracy"] <= got["high"]
    assert sum(b["n"] for b in got["reliability"]) == 4


def test_ece_by_hand():
    # |d| = ln 3 -> 0.75 four times, three right: calibrated; |d| = ln 9 -> 0.9 twice, one right: off by 0.4
    d = np.array([np.log(3)] * 3 + [-np.log(3), np.log(9), -np.log(9)])
    got = evaluate_scores(d, np.zeros(6))
    assert got["ece"] == pytest.approx(2 / 6 * 0.4)
    assert "temperature" not in got
    assert "slices" not in got
    assert "length" not in got


def test_overconfident_scores_are_told_apart_from_chance_and_mended():
    rng = np.random.default_rng(0)
    d = rng.normal(scale=1.5, size=20_000)
    better = rng.random(20_000) < 1 / (1 + np.exp(-d))
    got = evaluate_scores(3 * np.where(better, d, -d), np.zeros(20_000), np.arange(20_000).tolist(), temperature=True)
    assert got["ece"] == pytest.approx(0.150, abs=0.01)
    assert got["expected_ece"] < got["expected_ece_high"] < 0.03
    assert got["temperature"] == pytest.approx(3.0, rel=0.05)
    assert got["ece_after_temperature"] < 0.015


def test_a_calibrated_model_is_within_what_chance_allows():
    rng = np.random.default_rng(1)
    d = rng.normal(size=1000)
    better = rng.random(1000) < 1 / (1 + np.exp(-d))
    got = evaluate_scores(np.where(better, d, -d), np.zeros(1000))
    assert got["ece"] < got["expected_ece_high"]


def test_temperature_is_fitted_on_other_prompts():
    # all pairs of one prompt are wrong, those of the other right: neither half may use its own answer
    chosen = [1.0, 2.0, 3.0, -1.0, -2.0, -3.0]
    prompts = ["right"] * 3 + ["wrong"] * 3
    got = evaluate_scores(chosen, [0.0] * 6, prompts, temperature=True)
    # the right ones, scaled by T -> infinity, become 0.5; the wrong ones, scaled by T -> 0, become 1: both off
    assert got["ece_after_temperature"] == pytest.approx(0.5 * 0.5 + 0.5 * 1.0, abs=0.01)
    with pytest.raises(InputError, match="two different prompts"):
        evaluate_scores(chosen, [0.0] * 6, ["same"] * 6, temperature=True)


def test_slices_have_n_and_an_interval():
    got = evaluate_scores(
        [1, 1, 0, 0, 1], [0, 0, 1, 1, 0], labels=[1, 1, 1, 1, 0.5], slices={"subset": ["x", "x", "x", "y", "y"]}
    )
    assert list(got["slices"]["subset"]) == ["x", "y"]
    x, y = got["slices"]["subset"]["x"], got["slices"]["subset"]["y"]
    assert (x["value"], x["n"]) == (pytest.approx(2 / 3), 3)
    assert (y["value"], y["n"], y["low"]) == (0.0, 1, 0.0)  # the tie is not in it


def test_prompts_are_the_clusters():
    got = evaluate_scores([1] * 10 + [-1] * 10, [0] * 20, ["p"] * 10 + ["q"] * 10)
    assert (got["n"], got["prompts"]) == (20, 2)
    assert (got["low"], got["high"]) == (0.0, 1.0)


def test_length_bias_by_hand():
    # better minus worse length: +3, -2, 0, +1; the model prefers: longer, longer (wrong), -, shorter (wrong)
    got = length_bias(np.array([3.0, -2.0, 0.0, 1.0]), np.array([1.0, -1.0, 2.0, -1.0]))
    assert got["longer_wins"]["value"] == (1 + 0 + 0.5 + 1) / 4
    assert got["longer_wins"]["n"] == 4
    assert got["better_is_longer"] == 0.5
    assert got["model_prefers_longer"] == pytest.approx(2 / 3)
    assert length_bias(np.zeros(2), np.ones(2))["model_prefers_longer"] is None


def test_lengths_follow_the_better_text_not_the_column():
    got = evaluate_scores([0, 0], [1, 1], labels=[0.1, 0.5], chosen_lengths=[5, 9], rejected_lengths=[8, 1])
    assert got["length"]["longer_wins"]["value"] == 1.0  # the rejected text is the better one, and longer
    assert got["length"]["longer_wins"]["n"] == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"chosen_scores": [1, float("nan")], "rejected_scores": [0, 0]}, "chosen_scores: row 1 is nan"),
        ({"chosen_scores": [1, 1], "rejected_scores": [0]}, "rejected_scores has 1 rows"),
        ({"chosen_scores": [1], "rejected_scores": [0], "labels": [1.5]}, "0..1"),
        ({"chosen_scores": [1], "rejected_scores": [0], "labels": [0.5]}, "no pair has a winner"),
        ({"chosen_scores": [], "rejected_scores": []}, "no pair has a winner"),
        ({"chosen_scores": [1], "rejected_scores": [0], "groups": ["p", "q"]}, "groups has 2 rows"),
        ({"chosen_scores": [1], "rejected_scores": [0], "slices": {"subset": []}}, "subset has 0 rows"),
        (
            {"chosen_scores": [1], "rejected_scores": [0], "chosen_lengths": [1, 2], "rejected_lengths": [1, 1]},
            "lengths have 2 rows",
        ),
        ({"chosen_scores": [[1.0]], "rejected_scores": [0]}, "one number per pair"),
    ],
)
def test_bad_input_is_named(arguments, words):
    with pytest.raises(InputError, match=words):
        evaluate_scores(**arguments)


def pair(prompt, chosen, rejected, label=1.0, **columns):
    user = [{"role": "user", "content": prompt}]
    return Comparison(prompt=user, chosen=chosen, rejected=rejected, label=label, columns=columns)


def test_a_model_that_brings_its_temperature_is_measured_with_it():
    rng = np.random.default_rng(0)
    d = rng.normal(scale=1.5, size=20_000)
    margin = 3 * np.where(rng.random(20_000) < 1 / (1 + np.exp(-d)), d, -d)
    raw = evaluate_scores(margin, np.zeros(20_000))
    brought = evaluate_scores(margin, np.zeros(20_000), scale=3.0)
    assert raw["ece"] == raw["ece_uncalibrated"] == brought["ece_uncalibrated"] > 0.14
    assert brought["ece"] < 0.01
    assert brought["stored_temperature"] == 3.0


def test_slices_by_column_strength_and_length():
    rows = [
        pair("p", "long answer here", "x", subset="a", strength=3),
        pair("q", "same", "size", subset="b", strength=1.4),
        pair("r", "long answer here", "x", label=0.2, subset="b"),  # the short one is better
    ]
    found = slices_of(rows)
    assert found["subset"] == ["a", "b", "b"]
    assert found["strength"] == ["3 much better", "1 slightly better", None]
    assert found["better text"] == ["more than twice as long", "about as long", "less than half as long"]
    assert "source" not in found


def test_the_worst_mistakes_are_those_it_was_surest_of():
    rows = [
        pair("p", "a", "b"),
        pair("q", "c", "d", label=0.25, question="q7"),
        pair("r", "e", "f"),
        pair("s", "g", "h", label=0.5),
    ]
    found = worst_mistakes(rows, [2.0, 2 * np.log(3), -0.5, 9.0], scale=2.0)
    assert [one["prompt"] for one in found] == ["q", "r"]
    assert (found[0]["better"], found[0]["worse"]) == ("d", "c")
    assert found[0]["confidence"] == pytest.approx(0.75)
    assert found[0]["label"] == 0.75
    assert found[0]["columns"] == {"question": "q7"}


def test_a_costs_sign_against_what_people_said():
    """Four answers were called something: an unsafe one below 0 is missed, a safe one above 0 alarmed."""
    rows = [
        Comparison(
            prompt=[{"role": "user", "content": str(i)}],
            chosen="a",
            rejected="b",
            columns={"chosen_safe": one, "rejected_safe": other},
        )
        for i, (one, other) in enumerate([(True, False), (True, False), (None, None)])
    ]
    found = safety(rows, [-1.0, 0.5, 9.0], [2.0, -3.0, 9.0])
    assert found is not None
    assert [found[name]["value"] for name in ("right", "missed", "alarmed")] == [0.5, 0.5, 0.5]
    assert [found[name]["n"] for name in ("right", "missed", "alarmed")] == [4, 2, 2]
    assert safety(rows[2:], [0.0], [1.0]) is None


def test_decay_by_hand():
    """Right on 2 of 3 decided pairs here (a tie is left out), on 1 of 4 of the policy's own: 5/12 below."""

    def row(i, label=1.0):
        return Comparison(prompt=[{"role": "user", "content": str(i)}], chosen="a", rejected="b", label=label)

    here, own = [row(0), row(1), row(2, 0.2), row(3, 0.5)], [row(i) for i in range(10, 14)]
    found = decay(here, [1.0, -1.0, -2.0, 5.0], own, [-1.0, -1.0, 0.0, 0.0])
    assert found["here"]["value"] == pytest.approx(2 / 3)
    assert (found["here"]["n"], found["own"]["n"]) == (3, 4)
    assert found["own"]["value"] == pytest.approx(0.25)
    assert found["difference"]["value"] == pytest.approx(0.25 - 2 / 3)
    assert -1 <= found["difference"]["low"] < found["difference"]["value"] < found["difference"]["high"] <= 0.5
