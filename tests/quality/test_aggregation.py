"""Consensus and agreement, with numbers worked by hand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefloop.errors import InputError
from prefloop.quality.aggregation import beta_below, beta_quantile, comparison_consensus, pairwise_agreement


def votes(*choices: str) -> list[tuple[str, str, int | None]]:
    return [(f"annotator-{i}", choice, None) for i, choice in enumerate(choices)]


def test_one_lone_answer_is_a_hard_label_and_uncertain() -> None:
    consensus = comparison_consensus([("ann", "a", 2)])
    assert (consensus.label, consensus.weight, consensus.n, consensus.strength) == (1.0, 1.0, 1, 2.0)
    assert consensus.mean == pytest.approx(2 / 3)  # Beta(2, 1)
    assert consensus.low == pytest.approx(0.05**0.5)  # its distribution function is x^2
    assert consensus.high == pytest.approx(0.95**0.5)
    assert consensus.uncertain


@pytest.mark.parametrize(
    ("choices", "label", "n"),
    [
        (("a", "a", "b", "b"), 0.5, 4),
        (("a", "a", "b"), 2 / 3, 3),
        (("tie",), 0.5, 1),
        (("a", "tie"), 0.75, 2),
        (("b", "tie", "tie", "both_bad"), 1 / 3, 3),
    ],
)
def test_ties_are_half_a_vote_and_no_votes_do_not_count(choices: tuple[str, ...], label: float, n: int) -> None:
    consensus = comparison_consensus(votes(*choices))
    assert consensus.label == pytest.approx(label)
    assert consensus.n == n


def test_four_of_one_mind_are_no_longer_uncertain() -> None:
    # Beta(5, 1): P(x < 0.5) = 0.5^5 = 0.031 < 0.05, but Beta(4, 1): 0.5^4 = 0.0625 > 0.05.
    assert comparison_consensus(votes("a", "a", "a")).uncertain
    assert not comparison_consensus(votes("a", "a", "a", "a")).uncertain
    assert not comparison_consensus(votes("b", "b", "b", "b")).uncertain


def test_nobody_voted() -> None:
    consensus = comparison_consensus(votes("both_bad", "unsure"))
    assert (consensus.label, consensus.weight, consensus.n) == (None, 0.0, 0)
    assert consensus.counts == {"both_bad": 1, "unsure": 1}


def test_a_correction_replaces_the_annotators_first_answer() -> None:
    consensus = comparison_consensus([("ann", "a", None), ("bo", "b", 1), ("ann", "b", 3)])
    assert (consensus.label, consensus.n, consensus.strength) == (0.0, 2, 2.0)


def test_strength_is_that_of_the_winning_side() -> None:
    assert comparison_consensus([("x", "a", 3), ("y", "a", 1), ("z", "b", 2)]).strength == 2.0
    assert comparison_consensus([("x", "a", 3), ("y", "b", 1)]).strength is None


def test_an_unknown_choice_is_named() -> None:
    with pytest.raises(InputError, match="'left'"):
        comparison_consensus(votes("left"))


@given(st.lists(st.sampled_from(["a", "b", "tie", "both_bad", "unsure"]), max_size=30))
def test_swapping_the_candidates_mirrors_the_consensus(choices: list[str]) -> None:
    there = comparison_consensus(votes(*choices))
    back = comparison_consensus(votes(*({"a": "b", "b": "a"}.get(c, c) for c in choices)))
    assert there.low == pytest.approx(1 - back.high, abs=1e-8)
    assert there.uncertain == back.uncertain
    assert (there.label is None) == (back.label is None)
    if there.label is not None and back.label is not None:
        assert there.label == pytest.approx(1 - back.label)
    assert there.low <= there.mean <= there.high


def test_beta_below_has_the_known_closed_forms() -> None:
    assert beta_below(0.3, 1, 1) == pytest.approx(0.3)
    assert beta_below(0.3, 1, 4) == pytest.approx(1 - 0.7**4)
    assert beta_below(0.4, 2, 2) == pytest.approx(3 * 0.4**2 - 2 * 0.4**3)
    assert beta_below(0.5, 250.5, 250.5) == pytest.approx(0.5)
    assert beta_quantile(0.5, 7.5, 7.5) == pytest.approx(0.5)


def test_agreement_counts_pairs_of_people() -> None:
    questions = [
        [("x", "a"), ("y", "a"), ("z", "b")],  # three pairs, one agrees
        [("x", "tie"), ("y", "tie")],  # one pair, agrees
        [("x", "a"), ("y", "unsure")],  # one vote only
    ]
    both = pairwise_agreement(questions)
    assert (both.agree, both.n, both.questions, both.value) == (2, 4, 2, 0.5)
    without = pairwise_agreement(questions, ties=False)
    assert (without.agree, without.n, without.questions) == (1, 3, 1)
    assert pairwise_agreement([[("x", "a")]]).value is None
