"""Intervals: numbers worked by hand, clusters kept whole, and coverage of the truth."""

import numpy as np
import pytest

from prefloop.errors import InputError
from prefloop.evaluation.interval import (
    difference_interval,
    mean_interval,
    resampled_means,
    share_interval,
    sliced_shares,
    wilson,
)


def test_wilson_by_hand():
    # z = 1.95996: 8 of 10 -> centre (0.8 + 0.19207) / 1.38415, half z sqrt(0.016 + 0.0096037) / 1.38415
    low, high = wilson(0.8, 10)
    assert low == pytest.approx(0.4902, abs=1e-4)
    assert high == pytest.approx(0.9433, abs=1e-4)
    # 30 of 30: the lower end is n / (n + z^2)
    low, high = wilson(1.0, 30)
    assert low == pytest.approx(30 / (30 + 3.841459), abs=1e-6)
    assert high == 1.0


def test_mean_interval_matches_the_normal_one_when_there_are_many_prompts():
    values = np.array([1.0] * 600 + [0.0] * 400)
    got = mean_interval(values, resamples=4000)
    # sd of the mean: sqrt(0.6 * 0.4 / 1000) = 0.01549; 1.96 of it = 0.03036
    assert got.value == 0.6
    assert got.low == pytest.approx(0.6 - 0.03036, abs=0.003)
    assert got.high == pytest.approx(0.6 + 0.03036, abs=0.003)
    assert (got.n, got.groups, got.method) == (1000, 1000, "bootstrap")


def test_rows_of_one_prompt_are_not_independent():
    # 40 prompts whose 25 rows all agree: 1000 rows carry the information of 40
    values = np.repeat([1.0, 0.0] * 20, 25)
    prompts = np.repeat(np.arange(40), 25).tolist()
    by_row, by_prompt = mean_interval(values), mean_interval(values, prompts)
    assert by_row.high - by_row.low < 0.07
    # 2 * 1.96 * sqrt(0.25 / 40) = 0.31
    assert by_prompt.high - by_prompt.low == pytest.approx(0.31, abs=0.03)
    assert (by_prompt.n, by_prompt.groups) == (1000, 40)


def test_clusters_of_unequal_size_weigh_by_their_rows():
    # Two prompts, drawn with replacement: (3 rows of 1), (1 row of 0) -> 1, 0.75 or 0, with chances 1/4, 1/2, 1/4
    means = resampled_means(np.array([3.0, 0.0]), np.array([3.0, 1.0]), resamples=4000)
    assert set(means) == {0.0, 0.75, 1.0}
    assert np.mean(means == 0.75) == pytest.approx(0.5, abs=0.03)
    assert mean_interval([1, 1, 1, 0], ["p", "p", "p", "q"]).value == 0.75


def test_chunks_do_not_change_the_shape(monkeypatch):
    monkeypatch.setattr("prefloop.evaluation.interval.CELLS_AT_ONCE", 7)
    means = resampled_means(np.arange(5.0), np.ones(5), resamples=11)
    assert means.shape == (11,)
    assert means.min() >= 0
    assert means.max() <= 4


def test_the_seed_decides():
    values = np.random.default_rng(1).random(50)
    assert mean_interval(values, seed=3) == mean_interval(values, seed=3)
    assert mean_interval(values, seed=3) != mean_interval(values, seed=4)


def test_intervals_cover_the_truth_about_95_times_of_100():
    rng = np.random.default_rng(0)
    hits = 0
    for trial in range(300):
        rate = rng.beta(2, 2, size=60)  # prompts differ in difficulty; four rows each; the mean rate is 0.5
        got = share_interval(
            (rng.random((60, 4)) < rate[:, None]).ravel(),
            np.repeat(np.arange(60), 4).tolist(),
            seed=trial,
            resamples=400,
        )
        hits += got.low <= 0.5 <= got.high
    assert 0.90 <= hits / 300 <= 0.985


def test_a_share_is_never_certain():
    sure = share_interval([True] * 30)
    assert (sure.value, sure.high, sure.method) == (1.0, 1.0, "wilson")
    assert sure.low == pytest.approx(0.8865, abs=1e-3)
    assert sure.as_dict()["method"] == "wilson"
    # one prompt, however many rows, is one trial: 1 / (1 + 3.841459)
    assert share_interval([1.0] * 50, ["same"] * 50).low == pytest.approx(0.20655, abs=1e-4)
    assert "method" not in share_interval([1, 0, 1, 1, 0, 1]).as_dict()


def test_a_mean_of_one_prompt_has_no_interval():
    got = mean_interval([0.2, 0.4], ["p", "p"])
    assert got.value == pytest.approx(0.3)
    assert (got.low, got.high, got.method) == (None, None, "none")


def test_slices_by_name_and_rows_without_one_left_out():
    got = sliced_shares([1, 0, 1, 1], None, ["x", "x", None, "y"])
    assert list(got) == ["x", "y"]
    assert (got["x"]["value"], got["x"]["n"]) == (0.5, 2)
    assert (got["y"]["value"], got["y"]["n"], got["y"]["method"]) == (1.0, 1, "wilson")


@pytest.mark.parametrize(
    ("values", "groups", "words"),
    [
        ([], None, "at least one row"),
        ([1.0, float("nan")], None, "row 1 is nan"),
        ([1.0, 2.0], ["p"], "1 prompts for 2 rows"),
    ],
)
def test_bad_input_is_named(values, groups, words):
    with pytest.raises(InputError, match=words):
        mean_interval(values, groups)


def test_a_share_outside_0_to_1_is_refused():
    with pytest.raises(InputError, match="between 0 and 1"):
        share_interval([0.0, 1.5])
    with pytest.raises(InputError, match="one value per row"):
        sliced_shares([1, 0], None, ["x"])
    with pytest.raises(InputError, match="at least one trial"):
        wilson(0.5, 0)


def test_a_difference_of_two_sets_of_prompts():
    """The variance of a difference of independent means is the sum of both: about 1.96 sqrt(2 * 0.25 / 400)."""
    found = difference_interval([1.0, 0.0] * 200, None, [1.0, 0.0, 0.0, 1.0] * 100, None)
    assert found["value"] == 0.0
    # honest: a bootstrap of 2000 draws has its ends within a few per cent
    assert found["high"] - found["low"] == pytest.approx(2 * 1.96 * (2 * 0.25 / 400) ** 0.5, rel=0.1)
    alone = difference_interval([1.0, 1.0], ["p", "p"], [0.0, 1.0], None)
    assert (alone["value"], alone["low"], alone["high"]) == (0.5, None, None)
