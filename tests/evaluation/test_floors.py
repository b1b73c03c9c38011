"""Floors on pairs whose answer is known, and on real people's preferences where the file is present."""

import gzip
import json
import os
import sys
from pathlib import Path

import pytest

from prefloop.errors import InputError
from prefloop.evaluation.floors import length_floor, tfidf_length_floor
from prefloop.records import Comparison, split_of

DATA = Path(os.environ.get("PREFLOOP_DATA", Path(__file__).parents[3] / "shared" / "data"))
HH = DATA / "preferences" / "hh_rlhf.jsonl.gz"


def pair(prompt, chosen, rejected, label=1.0, **columns):
    user = [{"role": "user", "content": prompt}]
    return Comparison(prompt=user, chosen=chosen, rejected=rejected, label=label, columns=columns)


def test_length_floor_by_hand():
    rows = [
        pair("p1", "long text", "short", subset="x"),
        pair("p2", "no", "yes!", subset="x"),
        pair("p3", "same", "size", subset="y"),
        pair("p4", "a", "longer", label=0.3, subset="y"),  # the rejected one is better, and longer
        pair("p5", "tie", "ties!", label=0.5, subset="y"),
    ]
    got = length_floor(rows)
    assert got["value"] == (1 + 0 + 0.5 + 1) / 4
    assert got["n"] == 4
    assert got["ties_excluded"] == 1
    assert got["slices"]["x"]["value"] == 0.5
    assert got["slices"]["y"]["value"] == 0.75


def polite(n, start=0, subset="x", better="please"):
    """Pairs of equal length that differ in one word, the better one first, every third pair stored the other way."""
    worse = {"please": "grumpy", "grumpy": "please"}[better]
    rows = []
    for i in range(start, start + n):
        good, bad = f"{better} take number {i % 7}", f"{worse} take number {i % 7}"
        rows.append(
            pair(f"p{i}", bad, good, 0.1, subset=subset) if i % 3 == 0 else pair(f"p{i}", good, bad, subset=subset)
        )
    return rows


def test_a_word_is_learned_and_scored_on_other_prompts():
    pytest.importorskip("sklearn")
    got = tfidf_length_floor(polite(40), polite(20, start=100))
    assert (got["value"], got["n"], got["trained_on"]) == (1.0, 20, 40)
    assert got["low"] < 1.0  # twenty of twenty is not certainty
    assert length_floor(polite(20))["value"] == 0.5


def test_subsets_that_disagree_have_a_regression_each():
    pytest.importorskip("sklearn")
    train = polite(40) + polite(40, subset="y", better="grumpy")
    test = polite(20, start=100) + polite(20, start=200, subset="y", better="grumpy")
    got = tfidf_length_floor(train, test)
    assert got["value"] == 1.0
    assert got["slices"]["y"]["value"] == 1.0
    assert got["joint"]["value"] == 0.5  # one rule for both: right on one half, wrong on the other
    unseen = tfidf_length_floor(polite(40), polite(20, start=100, subset="z"))
    assert unseen["value"] == 1.0  # no training pair of its own: judged by the regression on everything


def test_texts_without_words_do_not_break_it():
    pytest.importorskip("sklearn")
    rows = [pair(f"p{i}", "5", "7 8") for i in range(6)]
    assert tfidf_length_floor(rows, rows)["value"] == 1.0


def test_bad_input_is_named():
    with pytest.raises(InputError, match="test split has 1 comparisons and none with a winner"):
        length_floor([pair("p", "a", "b", 0.5)])
    with pytest.raises(InputError, match="train split"):
        tfidf_length_floor([], polite(2))
    with pytest.raises(InputError, match="at least two"):
        tfidf_length_floor(polite(1), polite(2))


def test_missing_sklearn_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.feature_extraction.text", None)
    with pytest.raises(InputError, match=r"prefloop\[floors\]"):
        tfidf_length_floor(polite(4), polite(2))


@pytest.mark.skipif(not HH.exists(), reason=f"no {HH}; set PREFLOOP_DATA to the folder that holds preferences/")
def test_floors_on_real_preferences_are_the_published_ones():
    pytest.importorskip("sklearn")
    train, test = [], []
    with gzip.open(HH, "rt", encoding="utf-8") as lines:
        for row in map(json.loads, lines):
            prompt, chosen = row["chosen"].rsplit("\n\nAssistant:", 1)
            opening = prompt.split("\n\nHuman:")[1].split("\n\nAssistant:")[0].strip()
            made = pair(
                prompt, chosen.strip(), row["rejected"].rsplit("\n\nAssistant:", 1)[1].strip(), subset=row["subset"]
            )
            side = split_of([{"role": "user", "content": opening}], 0.2)
            (test if side == "test" else train).append(made)
    got = tfidf_length_floor(train, test)
    published = {"helpful-base": 0.601, "harmless-base": 0.623, "helpful-online": 0.527}
    for name, share in published.items():
        assert got["slices"][name]["low"] < share < got["slices"][name]["high"], name
    alone = length_floor([*train, *test])["slices"]
    published = {"helpful-base": 0.579, "harmless-base": 0.442, "helpful-online": 0.445}
    for name, share in published.items():
        assert alone[name]["low"] < share < alone[name]["high"], name
