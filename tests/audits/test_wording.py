"""Numbers as people read them; what is not a number is never one."""

import math

import numpy as np
import pytest

from prefloop.audits.wording import Figure, clean, count, duration, figure, measured, number, percent


@pytest.mark.parametrize(
    ("share", "words"),
    [(0.714, "71%"), (0.0, "0%"), (1.0, "100%"), (0.004, "0.4%"), (0.996, "99.6%"), (None, "not measured")],
)
def test_percent(share, words):
    assert percent(share) == words


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (0.03124, "0.0312"),
        (1234.4, "1,234"),
        (12.34, "12.3"),
        (-0.5, "−0.5"),
        (3.0, "3"),
        (2e-6, "2.0e−06"),
        ("adam", "adam"),
        (None, "not measured"),
    ],
)
def test_number(value, words):
    assert number(value) == words


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (2.34, "2.3 s"),
        (38.2, "38 s"),
        (59.7, "1 min 0 s"),
        (251.4, "4 min 11 s"),
        (4800, "1 h 20 min"),
        (None, "not measured"),
    ],
)
def test_duration(seconds, words):
    assert duration(seconds) == words


def test_count():
    assert count(12345) == "12,345"
    assert count("many") == "not measured"


def test_what_counts_as_measured():
    assert measured(3) == 3.0
    for nothing in (True, None, "0.7", math.nan, math.inf, [0.7], {"value": 0.7}):
        assert measured(nothing) is None


def test_a_figure_keeps_what_is_known_and_says_what_is_not():
    whole = figure({"value": 0.71, "low": 0.64, "high": 0.77, "n": 200})
    assert whole == Figure(0.71, 0.64, 0.77, 200)
    assert whole.note == "95% interval 64–77%, n = 200"
    assert figure({"value": 0.71, "low": None, "n": 1200}).note == "no interval stored, n = 1,200"
    assert figure({"value": math.nan, "low": 0.1, "high": 0.2}) is None
    assert figure({"accuracy": 0.7}, "accuracy") == Figure(0.7)
    assert figure(0.5) == Figure(0.5)
    assert figure("0.5") is None


def test_clean_makes_plain_readable_values():
    assert clean({"a": (1, math.nan, np.float32(0.5), np.int64(3))}) == {"a": [1, None, 0.5, 3]}
    # NUL, a lone surrogate and a mark that reverses the direction of writing are shown, not obeyed
    assert clean("a\x00b\ud800c\u202ed\r\ne") == "a\ufffdb\ufffdc\ufffdd\ne"
    assert clean({"\x1b[31m": 1}) == {"\ufffd[31m": 1}
