"""Guessing, Davidson, Dawid-Skene, rings and texts, on cases whose answer is known."""

from __future__ import annotations

import math

import numpy as np
import pytest

from prefloop.quality import davidson, dawid_skene, guessing
from prefloop.quality.evidence import LABELS, Atom, Family, Floats, Judgement, Votes, coarse, votes_of
from prefloop.quality.rings import _close, rings
from prefloop.quality.texts import repeated, signature, similarity


def judgement(annotator: str, item: str, label: str, family: Family = "pair", **more: object) -> Judgement:
    first = int(more.pop("first", 0))  # type: ignore[call-overload]
    fixed = {"answer": f"{annotator}-{item}", "question": item, "kind": "comparison", "number": 0}
    return Judgement(annotator=annotator, atoms=(Atom(item, family, label, first),), **{**fixed, **more})  # type: ignore[arg-type]


def votes(rows: list[tuple[str, str, str]], family: Family = "pair", gold: dict[str, str] | None = None) -> Votes:
    names = sorted({who for who, _, _ in rows})
    known = gold or {}
    judged = [judgement(w, i, label, family, gold={i: known[i]} if i in known else {}) for w, i, label in rows]
    return votes_of(judged, names)[0]


def ones(n: int) -> Floats:
    return np.ones(n)


# --- votes ------------------------------------------------------------------------------------------------------


def test_labels_as_shown_are_swapped_where_b_came_first() -> None:
    rows = [judgement("x", "1", "a", first=1), judgement("x", "2", "a", first=-1), judgement("x", "3", "tie", first=-1)]
    found = votes_of(rows, ["x"])[0]
    assert [found.labels[i] for i in found.shown] == ["a", "b", "tie"]


def test_an_annotator_has_one_vote_on_an_item_and_repeats_and_adjudications_have_none() -> None:
    rows = [
        judgement("x", "1", "a"),
        judgement("x", "1", "b"),
        judgement("x", "1", "b", repeat=True),
        judgement("y", "1", "b", adjudication=True),
    ]
    found = votes_of(rows, ["x", "y"])[0]
    assert len(found) == 1
    assert found.labels[found.label[0]] == "a"


def test_ratings_are_low_middle_or_high() -> None:
    found = coarse(votes([("x", str(i), str(i)) for i in range(1, 6)], "rating"))
    assert [found.labels[i] for i in found.label] == ["low", "low", "middle", "high", "high"]


# --- Davidson ---------------------------------------------------------------------------------------------------


def test_one_vote_leaves_a_pair_open_and_many_settle_it() -> None:
    rows = [("x", "one", "a")] + [(f"p{i}", "five", "b") for i in range(5)] + [("x", "tied", "tie")]
    found = votes(rows)
    fitted = davidson.fit(found, 6, ones(6))
    better = dict(zip(found.items, fitted.better, strict=True))
    assert 0.5 < better["one"] < 0.9
    assert better["five"] < 0.05
    assert better["tied"] == pytest.approx(0.5)
    assert fitted.preferred[found.items.index("one")] < better["one"]


def test_davidsons_chances_are_his() -> None:
    a, b, tie = davidson._chances(np.array([2.0, 0.0]), 0.5)
    # d = 2: e : 1/e : 1/2
    total = math.e + 1 / math.e + 0.5
    assert (a[0], b[0], tie[0]) == pytest.approx((math.e / total, 1 / math.e / total, 0.5 / total))
    assert (a[1], b[1], tie[1]) == pytest.approx((0.4, 0.4, 0.2))


def test_a_single_vote_has_the_posterior_of_bayes_rule() -> None:
    """Against quadrature on a much finer grid: beta 1, no ties, d normal with standard deviation 2."""
    found = votes([("x", "one", "a")])
    d = np.linspace(-10, 10, 20_001)
    weight = np.exp(-0.5 * (d / davidson.SPREAD) ** 2) / (1 + np.exp(-d))
    exact = float(weight[d > 0].sum() / weight.sum())
    start = davidson._start(found)
    posterior = davidson._posterior(found, np.array([1.0]), np.array([False]), ones(1), ones(1), 1e-9, start)
    at = davidson.POINTS
    assert float(posterior[0] @ ((at > 0) + 0.5 * (at == 0))) == pytest.approx(exact, abs=0.01)


def test_discrimination_tells_the_careful_from_the_careless_and_is_never_negative() -> None:
    rng = np.random.default_rng(0)
    rows = []
    for q in range(200):
        d = rng.normal(0, 2)
        for who, beta in (("careful", 2.5), ("usual", 1.0), ("usual2", 1.0), ("random", 0.0), ("turned", -2.0)):
            rows.append((who, f"q{q}", "a" if rng.random() < 1 / (1 + math.exp(-beta * d)) else "b"))
    found = votes(rows)
    names = sorted({who for who, _, _ in rows})
    beta = dict(zip(names, davidson.fit(found, 5, ones(5)).beta, strict=True))
    assert beta["careful"] > beta["usual"] > beta["random"]
    assert beta["random"] < 0.3
    assert beta["turned"] == 0.0


def test_davidsons_ties_are_recovered() -> None:
    """Equal pairs, nu = 1: a third of the answers are ties."""
    rng = np.random.default_rng(2)
    rows = [(f"p{j}", f"q{q}", str(rng.choice(["a", "b", "tie"]))) for q in range(300) for j in range(4)]
    fitted = davidson.fit(votes(rows), 4, ones(4))
    assert float(np.mean(np.abs(fitted.preferred - 0.5))) < 0.1
    assert fitted.nu / (fitted.nu + 2) == pytest.approx(1 / 3, abs=0.05)


def test_weight_nought_is_no_vote_and_gold_holds_against_all() -> None:
    rows = [("x", "one", "a"), ("y", "one", "b"), ("y", "gold", "b"), ("x", "gold", "b")]
    found = votes(rows, gold={"gold": "a"})
    better = dict(zip(found.items, davidson.fit(found, 2, np.array([1.0, 0.0])).better, strict=True))
    assert better["one"] > 0.6
    assert better["gold"] == pytest.approx(1.0)


def test_swapping_a_and_b_mirrors_davidson() -> None:
    rng = np.random.default_rng(3)
    rows = [
        (f"p{j}", f"q{q}", str(rng.choice(["a", "b", "tie"], p=[0.6, 0.3, 0.1]))) for q in range(40) for j in range(3)
    ]
    turned = [(w, q, {"a": "b", "b": "a"}.get(label, label)) for w, q, label in rows]
    one, other = davidson.fit(votes(rows), 3, ones(3)), davidson.fit(votes(turned), 3, ones(3))
    assert one.better == pytest.approx(1 - other.better)
    assert one.beta == pytest.approx(other.beta)


# --- Dawid and Skene --------------------------------------------------------------------------------------------


def test_dawid_skene_learns_who_confuses_what() -> None:
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 2, 300)
    rows = []
    for q, true in enumerate(truth):
        for who, right in (("a", 0.9), ("b", 0.9), ("c", 0.85), ("noise", 0.5), ("noise2", 0.5)):
            said = true if rng.random() < right else 1 - true
            rows.append((who, f"q{q}", LABELS["approval"][said]))
    found = votes(rows, "approval")
    fitted = dawid_skene.fit(found, 5, ones(5))
    assert float(np.mean(fitted.truth.argmax(axis=1) == truth)) > 0.95
    assert fitted.confusion[0, 0, 0] == pytest.approx(0.9, abs=0.05)  # honest: 300 draws, s.d. 0.02
    assert fitted.confusion[3, 0, 0] == pytest.approx(0.5, abs=0.08)


def test_dawid_skene_with_one_annotator_believes_them() -> None:
    found = votes([("x", "1", "yes"), ("x", "2", "no")], "approval")
    truth = dawid_skene.fit(found, 1, ones(1)).truth
    assert truth[0, 0] > 0.5
    assert truth[1, 1] > 0.5


def test_without_a_prior_it_is_the_majority_for_equal_annotators() -> None:
    """Dawid and Skene's first step on symmetric data: two against one is two to one."""
    rows = [("x", "1", "yes"), ("y", "1", "yes"), ("z", "1", "no")]
    start = dawid_skene._from_votes(votes(rows, "approval"), ones(3))
    assert start[0] == pytest.approx([2 / 3, 1 / 3], abs=1e-6)


# --- guessing ---------------------------------------------------------------------------------------------------


def test_a_lone_answer_says_nothing_about_who_gave_it() -> None:
    panel = guessing.fit([votes([("x", f"q{i}", "a" if i % 2 else "b") for i in range(50)])], 1, ones(1))
    mean, low, high = guessing.posterior_interval(guessing.theta_likelihood(panel, 1))
    assert mean[0] == pytest.approx(0.5, abs=0.03)
    assert (low[0], high[0]) == (pytest.approx(0.025, abs=0.02), pytest.approx(0.975, abs=0.02))


def test_reliability_is_the_share_that_follows_the_question() -> None:
    """Known truth (gold), 400 answers: right 80 %, half of the rest by habit, so theta = 0.6."""
    rng = np.random.default_rng(0)
    rows, gold = [], {}
    for q in range(400):
        true = "a" if rng.random() < 0.5 else "b"
        gold[f"q{q}"] = true
        follows = rng.random() < 0.6
        rows.append(("x", f"q{q}", true if follows or rng.random() < 0.5 else {"a": "b", "b": "a"}[true]))
    panel = guessing.fit([votes(rows, gold=gold)], 1, ones(1))
    mean, low, high = guessing.posterior_interval(guessing.theta_likelihood(panel, 1))
    assert low[0] < 0.6 < high[0]
    # honest: 400 answers put the standard error of theta at 0.04
    assert mean[0] == pytest.approx(0.6, abs=0.08)


# --- rings ------------------------------------------------------------------------------------------------------


def crowd(seed: int, copies: bool, taste: bool) -> list[list[int]]:
    """Ten honest people, and three who copy one another, or share a taste of their own with slips of one in ten."""
    rng = np.random.default_rng(seed)
    truth, key = rng.random(120) < 0.5, rng.random(120) < 0.5
    rows = []
    for q in range(120):
        for who in range(10):
            rows.append((f"p{who}", f"q{q}", "a" if truth[q] == (rng.random() < 0.85) else "b"))
        for who in range(10, 13):
            own = truth[q] if rng.random() < 0.85 else not truth[q]
            if copies:
                own = key[q]
            if taste:
                own = key[q] if rng.random() < 0.9 else not key[q]
            rows.append((f"r{who}", f"q{q}", "a" if own else "b"))
    return rings(guessing.fit([votes(rows)], 13, ones(13)), 13)


@pytest.mark.parametrize("seed", range(3))
def test_who_copies_is_a_ring_and_who_shares_a_taste_is_not(seed: int) -> None:
    assert crowd(seed, copies=True, taste=False) == [[10, 11, 12]]
    assert crowd(seed, copies=False, taste=True) == []
    assert crowd(seed, copies=False, taste=False) == []


def test_both_ways_of_counting_pairs_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    rows = [
        (f"p{w}", f"q{q}", str(rng.choice(["a", "b", "tie"])))
        for q in range(30)
        for w in range(8)
        if rng.random() < 0.7
    ]
    panel = guessing.fit([votes(rows)], 8, ones(8))
    monkeypatch.setattr("prefloop.quality.rings.IDENTICAL", 0.4)
    one_by_one = _close(panel, 8)
    monkeypatch.setattr("prefloop.quality.rings.CROWDED", 4)
    some, compared = _close(panel, 8)
    assert 0 < len(some) < compared == 28
    assert (sorted(some), compared) == (sorted(one_by_one[0]), one_by_one[1])


def test_two_who_alone_answered_and_agree_are_no_ring() -> None:
    """With nobody to compare them with, agreement may simply be right."""
    rows = [(who, f"q{q}", "a" if q % 2 else "b") for q in range(200) for who in ("x", "y")]
    assert rings(guessing.fit([votes(rows)], 2, ones(2)), 2) == []


# --- texts ------------------------------------------------------------------------------------------------------


def test_near_duplicates_are_found_and_different_texts_are_not() -> None:
    first = "The first answer explains how the machine works, and gives the numbers that one needs to check it."
    again = "The first answer explains how the machine works and gives the numbers that one needs to check it!"
    other = "Neither of them says anything about the price, which is what the question asked for in the first place."
    assert similarity(signature(first), signature(first.upper())) == 1.0
    assert repeated([signature(first), signature(other), signature(again)]) == [True, False, True]
    assert repeated([signature(first), signature(other)]) == [False, False]
    assert signature("   ") == ()
    assert repeated([(), ()]) == [False, False]
