"""Win rates worked by hand: both orders, ties half, a blind judge."""

import pytest

from prefloop.errors import InputError, RunError
from prefloop.evaluation.win_rate import win_rate


def prefers_longer(prompts, firsts, seconds):
    return ["a" if len(f) > len(s) else "b" if len(f) < len(s) else "tie" for f, s in zip(firsts, seconds, strict=True)]


def always_first(prompts, firsts, seconds):
    return ["a"] * len(firsts)


def test_by_hand():
    # a is longer on p1 and p2, shorter on p3, as long on p4: (1 + 1 + 0 + 0.5) / 4
    got = win_rate(["p1", "p2", "p3", "p4"], ["aaa", "aaa", "a", "aa"], ["b", "b", "bbb", "bb"], prefers_longer)
    assert got["value"] == 0.625
    assert got["n"] == 4
    assert got["prompts"] == 4
    assert got["ties"] == 0.25  # two of eight judgements
    assert got["consistency"] == 1.0
    assert got["first"] == 0.5
    assert got["identical"] == 0
    assert got["low"] <= got["value"] <= got["high"]


def test_a_judge_who_likes_the_first_place_decides_nothing():
    got = win_rate(["p", "q", "r"], ["x"] * 3, ["y"] * 3, always_first)
    assert got["value"] == 0.5
    assert got["ties"] == 0.0
    assert got["consistency"] == 0.0
    assert got["first"] == 1.0


def test_half_a_win_and_half_a_tie():
    # first in one order, tie in the other: 0.75 for the pair, a quarter of the way from even to won
    def shy(prompts, firsts, seconds):
        return ["a" if f == "good" else "tie" for f in firsts]

    got = win_rate(["p"], ["good"], ["bad"], shy)
    assert got["value"] == 0.75
    assert got["ties"] == 0.5
    assert got["consistency"] == 0.0


def test_each_pair_is_shown_in_both_orders_and_nothing_else():
    seen = []

    def record(prompts, firsts, seconds):
        seen.extend(zip(prompts, firsts, seconds, strict=True))
        return ["tie"] * len(prompts)

    win_rate(["p", "q"], ["a1", "a2"], ["b1", "b2"], record)
    assert sorted(seen) == [("p", "a1", "b1"), ("p", "b1", "a1"), ("q", "a2", "b2"), ("q", "b2", "a2")]


def test_the_batch_is_shuffled_so_that_its_halves_say_nothing():
    order = []

    def record(prompts, firsts, seconds):
        order.extend(first[0] for first in firsts)
        return ["tie"] * len(prompts)

    win_rate([str(i) for i in range(50)], [f"a{i}" for i in range(50)], [f"b{i}" for i in range(50)], record)
    # 50 of 100 first texts are a's; of the first 50 shown about 25 are, not all
    assert 12 <= order[:50].count("a") <= 38


def test_identical_answers_tie_and_are_not_shown():
    def refuse(prompts, firsts, seconds):
        assert len(prompts) == 2
        return ["a" if f == "win" else "b" for f in firsts]

    got = win_rate(["p", "q"], ["same", "win"], ["same", "lose"], refuse)
    assert got["value"] == 0.75
    assert got["identical"] == 1
    assert got["ties"] == 0.5
    all_same = win_rate(["p", "q"], ["same"] * 2, ["same"] * 2, refuse_all)
    assert (all_same["value"], all_same["consistency"], all_same["first"]) == (0.5, None, None)


def refuse_all(prompts, firsts, seconds):
    raise AssertionError("nothing to judge")


def test_the_interval_is_over_prompts():
    # 20 pairs but 2 prompts, as text and as messages: two clusters
    prompts = ["p"] * 10 + [[{"role": "user", "content": "p"}]] * 5 + ["q"] * 5
    got = win_rate(prompts, ["xx"] * 15 + ["x"] * 5, ["y"] * 15 + ["yy"] * 5, prefers_longer)
    assert got["value"] == 0.75
    assert got["prompts"] == 2
    assert (got["low"], got["high"]) == (0.0, 1.0)


def test_bad_input_and_a_bad_judge():
    with pytest.raises(InputError, match="got 1, 2, 1"):
        win_rate(["p"], ["a", "b"], ["c"], prefers_longer)
    with pytest.raises(InputError, match="got 0, 0, 0"):
        win_rate([], [], [], prefers_longer)
    with pytest.raises(RunError, match="shown 2 pairs and answered 1"):
        win_rate(["p"], ["a"], ["b"], lambda p, f, s: ["a"])
    with pytest.raises(RunError, match="'both'"):
        win_rate(["p"], ["a"], ["b"], lambda p, f, s: ["a", "both"])


def test_several_judges_make_the_rate_more_exact_and_n_no_larger():
    def contrary(prompts, firsts, seconds):
        return ["a" if len(f) < len(s) else "b" for f, s in zip(firsts, seconds, strict=True)]

    prompts, longer, shorter = [str(i) for i in range(8)], ["aaa"] * 8, ["b"] * 8
    got = win_rate(prompts, longer, shorter, [prefers_longer, prefers_longer, prefers_longer, contrary])
    assert (got["value"], got["n"], got["judges"], got["consistency"]) == (0.75, 8, 4, 1.0)
    # A judge who always takes the first place adds a half to each pair.
    got = win_rate(prompts, longer, shorter, [prefers_longer, always_first])
    assert (got["value"], got["n"], got["first"], got["consistency"]) == (0.75, 8, 0.75, 0.5)
    with pytest.raises(InputError, match="needs a judge"):
        win_rate(prompts, longer, shorter, [])
