"""The human ceiling from votes, by hand."""

import pytest

from prefloop.evaluation.ceiling import human_ceiling
from prefloop.records import Comparison


def row(prompt, label, n, ties=None):
    columns = {"n": n} if ties is None else {"n": n, "ties": ties}
    return Comparison(
        prompt=[{"role": "user", "content": prompt}], chosen="a", rejected="b", label=label, columns=columns
    )


def test_by_hand():
    # 3 to 1: 3 of 6 pairs agree; 2 to 0: 1 of 1; two ties and 1 to 1: 0 of 1; one vote: none
    rows = [row("p", 0.75, 4), row("q", 1.0, 2), row("r", 0.5, 4, ties=0.5), row("s", 1.0, 1)]
    found = human_ceiling(rows)
    assert found["value"] == pytest.approx(4 / 8)
    assert (found["n"], found["prompts"]) == (8, 3)
    assert found["low"] <= found["value"] <= found["high"]


def test_nothing_where_there_are_no_votes_or_labels_are_no_shares():
    assert human_ceiling([row("p", 1.0, 1)]) is None
    assert human_ceiling([row("p", 0.9, 3)]) is None
